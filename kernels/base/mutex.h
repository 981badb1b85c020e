#ifndef ZEROCAST_KERNELS_BASE_MUTEX_H_
#define ZEROCAST_KERNELS_BASE_MUTEX_H_

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"

namespace zerocast {

// std::mutex with thread-safety annotations.
//
// Not absl::Mutex: ThreadSanitizer reports false races through distribution builds of it, because
// they are compiled without the annotations that TSan needs.
class ABSL_LOCKABLE Mutex {
 public:
  Mutex() = default;
  Mutex(const Mutex&) = delete;
  Mutex& operator=(const Mutex&) = delete;

  void Lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() { mutex_.lock(); }
  void Unlock() ABSL_UNLOCK_FUNCTION() { mutex_.unlock(); }

 private:
  friend class CondVar;
  std::mutex mutex_;
};

class ABSL_SCOPED_LOCKABLE MutexLock {
 public:
  explicit MutexLock(Mutex* mutex) ABSL_EXCLUSIVE_LOCK_FUNCTION(mutex) : mutex_(mutex) {
    mutex_->Lock();
  }
  ~MutexLock() ABSL_UNLOCK_FUNCTION() { mutex_->Unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex* const mutex_;
};

// A condition variable for Mutex.  Waits can wake spuriously: call them in a loop on the condition.
class CondVar {
 public:
  // Releases `mutex` while waiting and holds it again on return.
  void Wait(Mutex* mutex) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    std::unique_lock<std::mutex> lock(mutex->mutex_, std::adopt_lock);
    cv_.wait(lock);
    lock.release();
  }
  // As Wait, but for at most `timeout`.  Returns true when the time ran out.
  bool WaitWithTimeout(Mutex* mutex, absl::Duration timeout) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    std::unique_lock<std::mutex> lock(mutex->mutex_, std::adopt_lock);
    // wait_until on the steady clock: wait_for of a huge duration overflows in libstdc++.
    const absl::Duration bounded = std::min(timeout, absl::Hours(24));
    const bool timed_out =
        cv_.wait_until(lock, std::chrono::steady_clock::now() +
                                 absl::ToChronoNanoseconds(bounded)) == std::cv_status::timeout;
    lock.release();
    return timed_out;
  }
  void Signal() { cv_.notify_one(); }
  void SignalAll() { cv_.notify_all(); }

 private:
  std::condition_variable cv_;
};

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_BASE_MUTEX_H_
