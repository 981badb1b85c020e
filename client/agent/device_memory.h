#ifndef ZEROCAST_CLIENT_AGENT_DEVICE_MEMORY_H_
#define ZEROCAST_CLIENT_AGENT_DEVICE_MEMORY_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace zerocast {

// How other processes get at memory of a device; HANDOVER.md describes the ways.
struct DeviceTicket {
  // "cuda_vmm", "cuda_ipc" or, where no process can get at it, "host_copy".
  std::string way;
  int fd = -1;         // cuda_vmm: what cuMemImportFromShareableHandle takes; the memory's own
  std::string handle;  // cuda_ipc: what cuIpcOpenMemHandle takes, 64 bytes
  // What an importer has to map: the bytes of the memory, up to a whole page of the device.
  int64_t allocation_bytes = 0;
};

// A little memory of the same kind, for a process to find out whether it can get at such memory
// before it takes the shard over.
struct DeviceTrial {
  DeviceTicket ticket;
  std::string bytes;  // that it begins with
};

// Owns memory of a device that another process can be given.  All methods may be called by several
// threads.
class DeviceMemory {
 public:
  virtual ~DeviceMemory() = default;

  // An address of the device: host code must not follow it.
  virtual char* data() const = 0;
  virtual int64_t num_bytes() const = 0;

  virtual const DeviceTicket& ticket() const = 0;
  // Of the same way; nothing of "host_copy".
  virtual const DeviceTrial& trial() const = 0;
  // Why the way is no better one; empty for "cuda_vmm".
  virtual std::string because() const = 0;
  // "GPU-...", as nvidia-smi names it.
  virtual std::string device_uuid() const = 0;

  // Copies bytes [offset, offset + to.size()) to host memory, and waits for that.  Nobody may write
  // to them meanwhile.  Errors: those of kernels/device.
  virtual absl::Status CopyToHost(int64_t offset, absl::Span<char> to) const = 0;

  // A copy of all of it in memory of the same device, of the way "cuda_ipc": for a process that
  // cannot import this memory.  Nobody may write to it meanwhile.  Errors: RESOURCE_EXHAUSTED
  // without room for both, UNIMPLEMENTED where the device has no legacy handles; those of
  // kernels/device.
  virtual absl::StatusOr<std::unique_ptr<DeviceMemory>> CopyWithHandle() const = 0;
};

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_DEVICE_MEMORY_H_
