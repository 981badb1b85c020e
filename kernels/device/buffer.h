#ifndef ZEROCAST_KERNELS_DEVICE_BUFFER_H_
#define ZEROCAST_KERNELS_DEVICE_BUFFER_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/device/unique_handle.h"

namespace zerocast {

// Owns memory of one device, aligned to at least 256 bytes, with undefined contents.  Move-only;
// moved from, it is empty.  Host code must not follow data().
//
// The end of a buffer waits for all work of the device (cudaFree does): buffers are made once and
// used many times.
class DeviceBuffer {
 public:
  // INVALID_ARGUMENT when num_bytes < 1, RESOURCE_EXHAUSTED when the device has no such room; else
  // errors as DeviceScope::Enter.
  static absl::StatusOr<DeviceBuffer> Create(int device, int64_t num_bytes);

  std::byte* data() const { return static_cast<std::byte*>(handle_.get()); }
  int64_t num_bytes() const { return handle_.empty() ? 0 : num_bytes_; }
  int device() const { return device_; }

 private:
  struct Traits {
    using Handle = void*;
    static constexpr Handle kNull = nullptr;
    static void Destroy(Handle handle) noexcept;
  };
  DeviceBuffer(void* handle, int device, int64_t num_bytes)
      : handle_(handle), device_(device), num_bytes_(num_bytes) {}

  UniqueHandle<Traits> handle_;
  int device_;
  int64_t num_bytes_;
};

// Owns page-locked host memory, which every device copies from and to without a detour, aligned to
// at least 256 bytes, with undefined contents.  Move-only; moved from, it is empty.
//
// The caller keeps it until all work on it has ended.
class PinnedBuffer {
 public:
  // For use from `device`, whose context allocates it, and from all others.  Errors as those of
  // DeviceBuffer::Create.
  static absl::StatusOr<PinnedBuffer> Create(int device, int64_t num_bytes);

  std::byte* data() const { return static_cast<std::byte*>(handle_.get()); }
  int64_t num_bytes() const { return handle_.empty() ? 0 : num_bytes_; }
  absl::Span<std::byte> span() const { return absl::MakeSpan(data(), num_bytes()); }

 private:
  struct Traits {
    using Handle = void*;
    static constexpr Handle kNull = nullptr;
    static void Destroy(Handle handle) noexcept;
  };
  PinnedBuffer(void* handle, int64_t num_bytes) : handle_(handle), num_bytes_(num_bytes) {}

  UniqueHandle<Traits> handle_;
  int64_t num_bytes_;
};

// Page-locks host memory that somebody else owns (a mapped file, say) as long as it lives.
// Move-only; moved from, it locks nothing.
//
// It ends before the memory is unmapped, and waits for all work of the device.
class PinnedRange {
 public:
  // For use from `device` and from all others.  INVALID_ARGUMENT when num_bytes < 1,
  // RESOURCE_EXHAUSTED when the system locks no more; else errors as DeviceScope::Enter.
  static absl::StatusOr<PinnedRange> Create(int device, void* memory, int64_t num_bytes);

  // Where kernels of `device` find the memory: under unified addressing mostly, but not by promise,
  // at its host address.  Valid as long as the range.  Errors as DeviceScope::Enter.
  absl::StatusOr<std::byte*> AddressOn(int device) const;

 private:
  struct Traits {
    using Handle = void*;
    static constexpr Handle kNull = nullptr;
    static void Destroy(Handle handle) noexcept;
  };
  explicit PinnedRange(void* memory) : handle_(memory) {}

  UniqueHandle<Traits> handle_;
};

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_DEVICE_BUFFER_H_
