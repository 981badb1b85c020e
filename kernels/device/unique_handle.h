#ifndef ZEROCAST_KERNELS_DEVICE_UNIQUE_HANDLE_H_
#define ZEROCAST_KERNELS_DEVICE_UNIQUE_HANDLE_H_

#include <utility>

namespace zerocast {

// The one owner of a handle that some C API gave out.  Move-only; moved from, it is empty.
//
// Traits has:
//   using Handle = ...;                        copied by value
//   static constexpr Handle kNull = ...;       the handle that stands for nothing
//   static void Destroy(Handle) noexcept;      never gets kNull; logs its errors, for nobody is
//                                              there to take them
//
// Not thread-safe.
template <typename Traits>
class UniqueHandle {
 public:
  using Handle = typename Traits::Handle;

  UniqueHandle() = default;
  // Takes `handle` over.
  explicit UniqueHandle(Handle handle) : handle_(handle) {}
  ~UniqueHandle() { Reset(); }

  UniqueHandle(const UniqueHandle&) = delete;
  UniqueHandle& operator=(const UniqueHandle&) = delete;
  UniqueHandle(UniqueHandle&& other) noexcept : handle_(other.Release()) {}
  UniqueHandle& operator=(UniqueHandle&& other) noexcept {
    if (this != &other) {
      Reset();
      handle_ = other.Release();
    }
    return *this;
  }

  // A view of the handle, valid while this owner keeps it.
  Handle get() const { return handle_; }
  bool empty() const { return handle_ == Traits::kNull; }

  // Gives the handle away; the caller destroys it.
  [[nodiscard]] Handle Release() { return std::exchange(handle_, Traits::kNull); }

  // Destroys what it owns, if anything.
  void Reset() {
    if (!empty()) Traits::Destroy(Release());
  }

 private:
  Handle handle_ = Traits::kNull;
};

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_DEVICE_UNIQUE_HANDLE_H_
