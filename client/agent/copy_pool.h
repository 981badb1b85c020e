#ifndef ZEROCAST_CLIENT_AGENT_COPY_POOL_H_
#define ZEROCAST_CLIENT_AGENT_COPY_POOL_H_

#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kernels/base/mutex.h"

namespace zerocast {

// Threads that work on memory: what they are given always ends.  One thread at a time calls Start
// and Wait.
class CopyPool {
 public:
  // Some calls of one function.  Belongs to who starts it; outlives the pool, or was waited for.
  class Batch {
   private:
    friend class CopyPool;
    std::function<absl::Status(size_t)> body;
    size_t count = 0;
    size_t next = 0;  // that no thread has taken
    size_t left = 0;  // that have not returned
    absl::Status status;
  };

  // Errors: RESOURCE_EXHAUSTED when the system has no threads left.
  static absl::StatusOr<std::unique_ptr<CopyPool>> Create(int num_threads);
  // Waits for everything that was started.
  ~CopyPool();
  CopyPool(const CopyPool&) = delete;
  CopyPool& operator=(const CopyPool&) = delete;

  // Calls body(0) ... body(count - 1) on the threads, in no order, after what was started earlier.
  // `batch` must not be at work.
  void Start(Batch* batch, size_t count, std::function<absl::Status(size_t)> body);
  // Returns when `batch` is done, at once when it never was started: the first error of its calls,
  // each of which is made whatever the others return.
  absl::Status Wait(Batch* batch);

  // Time spent in calls so far, all threads together.  Any thread.
  absl::Duration busy() const;

 private:
  CopyPool() = default;
  void Run();

  mutable Mutex mutex_;
  CondVar changed_;
  std::deque<Batch*> batches_ ABSL_GUARDED_BY(mutex_);  // with calls that no thread has taken
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Duration busy_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::thread> threads_;
};

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_COPY_POOL_H_
