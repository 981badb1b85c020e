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
  // Copies bytes [offset, offset + to.size()) to host memory and waits for that, at most a minute
  // for each 16 MiB.  Errors: those of kernels/device.
  virtual absl::Status CopyToHost(int64_t offset, absl::Span<char> to) const = 0;
};

// OK where ImportDeviceShard will find the device; else its errors.
absl::Status CanImport(const std::string& way, const std::string& device_uuid);

// Maps `num_bytes` of what `descriptor`, which is the caller's, stands for.  `way` and
// `device_uuid` are the agent's answer.  Errors: UNIMPLEMENTED for another way, or in a build
// without CUDA; INVALID_ARGUMENT when this process does not see the device; those of
// ExportableBuffer::Import.
absl::StatusOr<std::unique_ptr<DeviceShard>> ImportDeviceShard(const std::string& way,
                                                               const std::string& device_uuid,
                                                               int descriptor, int64_t num_bytes);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_CPP_DEVICE_SHARD_H_
