#ifndef ZEROCAST_CLIENT_AGENT_DEVICE_MEMORY_H_
#define ZEROCAST_CLIENT_AGENT_DEVICE_MEMORY_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/types/span.h"

namespace zerocast {

// Owns memory of a device that another process can be given.  All methods may be called by several
// threads.
class DeviceMemory {
 public:
  virtual ~DeviceMemory() = default;

  // An address of the device: host code must not follow it.
  virtual char* data() const = 0;
  virtual int64_t num_bytes() const = 0;

  // How a process gets it: "cuda_vmm", a descriptor that cuMemImportFromShareableHandle takes.
  virtual std::string way() const = 0;
  // The descriptor, owned by this.
  virtual int fd() const = 0;
  // What an importer has to map: num_bytes up to a whole page of the device.
  virtual int64_t allocation_bytes() const = 0;
  // "GPU-...", as nvidia-smi names it.
  virtual std::string device_uuid() const = 0;

  // Copies bytes [offset, offset + to.size()) to host memory, and waits for that.  Nobody may write
  // to them meanwhile.  Errors: those of kernels/device.
  virtual absl::Status CopyToHost(int64_t offset, absl::Span<char> to) const = 0;
};

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_DEVICE_MEMORY_H_
