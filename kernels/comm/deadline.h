#ifndef ZEROCAST_KERNELS_COMM_DEADLINE_H_
#define ZEROCAST_KERNELS_COMM_DEADLINE_H_

#include <algorithm>
#include <chrono>

#include "absl/time/time.h"

namespace zerocast {

// The moment, on the steady clock, at which a call must have ended.
class Deadline {
 public:
  using Clock = std::chrono::steady_clock;

  // `timeout` from now; a timeout of more than a day, infinity too, is a day: nothing here waits
  // for ever.
  explicit Deadline(absl::Duration timeout)
      : at_(Clock::now() +
            absl::ToChronoNanoseconds(std::clamp(timeout, absl::ZeroDuration(), absl::Hours(24)))) {
  }

  Clock::time_point at() const { return at_; }
  bool Passed() const { return Clock::now() >= at_; }

  // Never negative.
  absl::Duration Remaining() const {
    return std::max(absl::ZeroDuration(), absl::FromChrono(at_ - Clock::now()));
  }

  // Rounded up, so that a wait of this many milliseconds ends after the deadline, not before.
  std::chrono::milliseconds RemainingMillis() const {
    return absl::ToChronoMilliseconds(absl::Ceil(Remaining(), absl::Milliseconds(1)));
  }

 private:
  Clock::time_point at_;
};

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_COMM_DEADLINE_H_
