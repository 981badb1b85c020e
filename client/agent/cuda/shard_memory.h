#ifndef ZEROCAST_CLIENT_AGENT_CUDA_SHARD_MEMORY_H_
#define ZEROCAST_CLIENT_AGENT_CUDA_SHARD_MEMORY_H_

#include <cstdint>
#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "client/agent/device_memory.h"
#include "kernels/device/devices.h"

namespace zerocast {

// Makes memory of one device for shards, of the first of these kinds that the device and its driver
// can give: exportable memory ("cuda_vmm"); memory with a legacy handle ("cuda_ipc"); memory that
// no other process gets at ("host_copy").  Thread-safe.
class ShardMemoryMaker {
 public:
  explicit ShardMemoryMaker(DeviceInfo info);

  // All zero.  Its because() has what failed in the better ways.  No room, no driver or a lost
  // device is an error, and no reason for another way.  Errors: those of kernels/device.
  absl::StatusOr<std::unique_ptr<DeviceMemory>> Make(int64_t num_bytes);

 private:
  class OneDevice;
  // Shared with the memory that it makes.
  const std::shared_ptr<OneDevice> device_;
};

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_CUDA_SHARD_MEMORY_H_
