#ifndef ZEROCAST_KERNELS_COMM_GLOO_COMPAT_GLOO_COMMON_MEMORY_H_
#define ZEROCAST_KERNELS_COMM_GLOO_COMPAT_GLOO_COMMON_MEMORY_H_

// Debian's libgloo-dev leaves out gloo/common/memory.h, which the transport headers that it does
// ship include.  This is our own header with the three names they use.  Each wraps exactly one
// standard pointer, as the classes compiled into libgloo do, so that objects which cross into the
// library have the layout it expects.

#include <memory>
#include <thread>

namespace gloo {

template <typename T>
class ShareableNonOwningPtr;

// A handle that does not keep its object alive and can tell whether it was ever bound to one.
template <typename T>
class WeakNonOwningPtr final {
 public:
  WeakNonOwningPtr() = default;
  explicit WeakNonOwningPtr(const ShareableNonOwningPtr<T>& root);

  // Bound once, whether or not the object still lives: an unbound weak_ptr has no control block and
  // so is equivalent in owner order to an empty one.
  explicit operator bool() const noexcept {
    const std::weak_ptr<T> unbound;
    return handle_.owner_before(unbound) || unbound.owner_before(handle_);
  }

  std::shared_ptr<T> Lock() const { return handle_.lock(); }

 private:
  std::weak_ptr<T> handle_;
};

// A short use of the object: as long as one exists, the object's destructor waits.
template <typename T>
class NonOwningPtr final {
 public:
  NonOwningPtr() = default;
  explicit NonOwningPtr(const WeakNonOwningPtr<T>& handle) : use_(handle.Lock()) {}

  T* operator->() const noexcept { return use_.get(); }
  explicit operator bool() const noexcept { return use_ != nullptr; }

 private:
  std::shared_ptr<T> use_;
};

// Lives inside the object and hands out handles to it.  Its destructor ends once the last use has:
// only then may the object go.
template <typename T>
class ShareableNonOwningPtr final {
 public:
  // The shared_ptr counts uses; it never deletes.
  explicit ShareableNonOwningPtr(T* object) : uses_(object, [](T*) {}) {}
  ShareableNonOwningPtr(const ShareableNonOwningPtr&) = delete;
  ShareableNonOwningPtr& operator=(const ShareableNonOwningPtr&) = delete;

  ~ShareableNonOwningPtr() {
    const std::weak_ptr<T> last = uses_;
    uses_.reset();
    while (!last.expired()) std::this_thread::yield();
  }

 private:
  friend class WeakNonOwningPtr<T>;
  std::shared_ptr<T> uses_;
};

template <typename T>
WeakNonOwningPtr<T>::WeakNonOwningPtr(const ShareableNonOwningPtr<T>& root) : handle_(root.uses_) {}

}  // namespace gloo

#endif  // ZEROCAST_KERNELS_COMM_GLOO_COMPAT_GLOO_COMMON_MEMORY_H_
