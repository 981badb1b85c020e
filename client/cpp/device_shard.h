#ifndef ZEROCAST_CLIENT_CPP_DEVICE_SHARD_H_
#define ZEROCAST_CLIENT_CPP_DEVICE_SHARD_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace zerocast {

// Memory of a device that an agent gave to this process, mapped as long as this lives.
class DeviceShard {
 public:
  virtual ~DeviceShard() = default;

  // An address of the device: host code must not follow it.
  virtual char* data() const = 0;
  // "GPU-...".
  virtual std::string device_uuid() const = 0;
  // Copies bytes [offset, offset + to.size()) to host memory and waits for that, at most a minute
  // for each 16 MiB.  Errors: those of kernels/device.
  virtual absl::Status CopyToHost(int64_t offset, absl::Span<char> to) const = 0;
  // Gives the mapping back where that may fail in a way that somebody should hear of; else its end
  // does.  After an error it is as before.  Errors: those of IpcBuffer::Close.
  virtual absl::Status Close() = 0;
};

// What the agent says of memory of a device; client/agent/HANDOVER.md describes the ways.
struct DeviceOffer {
  std::string way;  // "cuda_vmm" or "cuda_ipc"
  std::string device_uuid;
  int descriptor = -1;  // "cuda_vmm": stands for the memory; the caller's
  std::string handle;   // "cuda_ipc": 64 bytes
  int64_t num_bytes = 0;
  // "cuda_ipc": the agent keeps the memory as long as this lives.
  std::shared_ptr<const void> connection;
};

// OK where ImportDeviceShard will know the way and find the device; else its errors.
absl::Status CanImport(const std::string& way, const std::string& device_uuid);

// Maps the memory.  Errors: UNIMPLEMENTED for another way, or in a build without CUDA;
// INVALID_ARGUMENT when this process does not see the device; those of ExportableBuffer::Import
// and IpcBuffer::Import.
absl::StatusOr<std::unique_ptr<DeviceShard>> ImportDeviceShard(const DeviceOffer& offer);

// Copies host memory into new memory of the device of that UUID, of device 0 where it is "".
// `locked` as CopyToDevice of kernels/device.  Errors: UNIMPLEMENTED in a build without CUDA;
// INVALID_ARGUMENT when this process does not see the device; RESOURCE_EXHAUSTED without room on
// it; those of kernels/device.
absl::StatusOr<std::unique_ptr<DeviceShard>> CopyShardToDevice(const std::string& device_uuid,
                                                               absl::Span<char> from,
                                                               absl::Status* locked);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_CPP_DEVICE_SHARD_H_
