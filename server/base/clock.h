#ifndef ZEROCAST_SERVER_BASE_CLOCK_H_
#define ZEROCAST_SERVER_BASE_CLOCK_H_

#include "absl/time/time.h"

namespace zerocast {

// Where time comes from.  Safe for concurrent use.
class Clock {
 public:
  virtual ~Clock() = default;

  // Time since an arbitrary fixed point; never goes back.  For every timeout and lease.
  virtual absl::Duration Steady() const = 0;

  // The wall clock, only for timestamps that people read: it may jump.
  virtual absl::Time Now() const = 0;

  // The machine's clocks.  Never null; lives as long as the process.
  static const Clock* Real();
};

// A clock that stands still until it is told to move.
class FakeClock : public Clock {
 public:
  absl::Duration Steady() const override { return steady_; }
  absl::Time Now() const override { return absl::FromUnixSeconds(1700000000) + steady_; }
  void Advance(absl::Duration by) { steady_ += by; }

 private:
  absl::Duration steady_ = absl::ZeroDuration();
};

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_BASE_CLOCK_H_
