#ifndef ZEROCAST_CLIENT_AGENT_RATE_LIMIT_H_
#define ZEROCAST_CLIENT_AGENT_RATE_LIMIT_H_

#include <cstdint>
#include <functional>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "kernels/base/mutex.h"
#include "server/base/clock.h"

namespace zerocast {

// The least rate: the peers of who waits for it to send have their deadlines, a round of 32 MiB its
// minute.
inline constexpr int64_t kLeastRate = int64_t{1} << 20;

// Keeps what several threads do together below a rate.  Work is never cut: who asks for more than
// the rate allows begins later.  Thread-safe.
class RateLimit {
 public:
  // 0: no limit.
  explicit RateLimit(int64_t bytes_per_second, const Clock* clock = Clock::Real())
      : bytes_per_second_(bytes_per_second), clock_(clock) {}

  // Takes `num_bytes` from the rate; how long from now the caller must wait before it uses them.
  absl::Duration Take(int64_t num_bytes) ABSL_LOCKS_EXCLUDED(mutex_);

  // Takes them and sleeps; at most some 50 ms longer than until `stop`, which may be null, says so.
  // False when there was nothing to wait for.
  bool Wait(int64_t num_bytes, const std::function<bool()>& stop);

 private:
  const int64_t bytes_per_second_;
  const Clock* const clock_;
  Mutex mutex_;
  // When all that was taken will have been used; on the steady clock.
  absl::Duration free_at_ ABSL_GUARDED_BY(mutex_) = -absl::InfiniteDuration();
};

// The waits of some threads for a rate: time that is neither the file system's nor a peer's.
// Thread-safe.
class RateWaits {
 public:
  // As limit->Wait; `limit` may be null.
  void Wait(RateLimit* limit, int64_t num_bytes, const std::function<bool()>& stop)
      ABSL_LOCKS_EXCLUDED(mutex_);

  // Of all threads together, those that have ended.
  absl::Duration total() const ABSL_LOCKS_EXCLUDED(mutex_);
  // When the last one ended, on the real steady clock; now while somebody waits.
  absl::Duration LastEnd() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  mutable Mutex mutex_;
  int num_waiting_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Duration total_ ABSL_GUARDED_BY(mutex_);
  absl::Duration last_end_ ABSL_GUARDED_BY(mutex_) = -absl::InfiniteDuration();
};

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_RATE_LIMIT_H_
