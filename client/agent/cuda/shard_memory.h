#ifndef ZEROCAST_CLIENT_AGENT_CUDA_SHARD_MEMORY_H_
#define ZEROCAST_CLIENT_AGENT_CUDA_SHARD_MEMORY_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "client/agent/device_memory.h"
#include "kernels/base/mutex.h"
#include "kernels/device/devices.h"

namespace zerocast {

// Makes memory of one device for shards, of the first of these kinds that the device and its driver
// can give: exportable memory ("cuda_vmm"); memory with a legacy handle ("cuda_ipc"); memory that
// no other process gets at ("host_copy").  Thread-safe.
class ShardMemoryMaker {
 public:
  explicit ShardMemoryMaker(DeviceInfo info) : info_(std::move(info)) {}

  const DeviceInfo& info() const { return info_; }

  // All zero.  Its because() has what failed in the better ways.  No room, no driver or a lost
  // device is an error, and no reason for another way.  Errors: those of kernels/device.
  absl::StatusOr<std::unique_ptr<DeviceMemory>> Make(int64_t num_bytes);

 private:
  absl::StatusOr<std::unique_ptr<DeviceMemory>> MakeOf(const std::string& way, int64_t num_bytes,
                                                       const std::string& because);
  // Made with the first memory of that way, and kept: it is small.
  absl::StatusOr<std::shared_ptr<const DeviceTrial>> TrialOf(const std::string& way);

  const DeviceInfo info_;
  Mutex mutex_;
  std::map<std::string, std::shared_ptr<const DeviceTrial>> trials_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_CUDA_SHARD_MEMORY_H_
