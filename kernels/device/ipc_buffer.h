#ifndef ZEROCAST_KERNELS_DEVICE_IPC_BUFFER_H_
#define ZEROCAST_KERNELS_DEVICE_IPC_BUFFER_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/device/buffer.h"
#include "kernels/device/unique_handle.h"

namespace zerocast {

// The legacy way of giving device memory to another process, for devices or drivers without
// exportable memory: 64 bytes that the other process opens.  Both must be of one user and see each
// other's process ids; containers of their own often do not.  That shows only in the other process:
// it opens a handle for trial before one is used.  And unlike a file descriptor, a handle dies with
// the process that made the memory.

// The handle of `buffer`'s memory, after a probe: the driver says that the memory can be shared so,
// and makes a handle of it.  Errors: UNIMPLEMENTED when it cannot, those of ToStatus.
absl::StatusOr<std::string> ExportIpc(const DeviceBuffer& buffer);

// Memory of another process, opened by its handle.  Move-only; moved from or closed, it is empty.
// Destroying it closes it, and logs what Close would have returned.
class IpcBuffer {
 public:
  // INVALID_ARGUMENT when the handle has another length than 64, INTERNAL when CUDA cannot open it
  // (a handle of this very process, too); else errors as DeviceScope::Enter.
  static absl::StatusOr<IpcBuffer> Import(int device, absl::string_view handle, int64_t num_bytes);

  // Gives the mapping back, once the device is done with it; the memory stays the other process's.
  // Nothing where it is empty.  After an error it is as before: the caller may close it again, and
  // the end of this does.  Errors: those of DeviceScope::Enter and ToStatus.
  absl::Status Close();

  std::byte* data() const { return static_cast<std::byte*>(handle_.get().memory); }
  int64_t num_bytes() const { return handle_.get().num_bytes; }

 private:
  struct Opened {
    void* memory;
    int device;
    int64_t num_bytes;
    bool operator==(const Opened& other) const { return memory == other.memory; }
  };
  struct Traits {
    using Handle = Opened;
    static constexpr Handle kNull = {nullptr, 0, 0};
    static void Destroy(Handle handle) noexcept;
    static std::string Closing(Handle handle);  // what is tried
  };
  explicit IpcBuffer(Opened opened) : handle_(opened) {}

  UniqueHandle<Traits> handle_;
};

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_DEVICE_IPC_BUFFER_H_
