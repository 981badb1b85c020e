#include "client/agent/rate_limit.h"

#include <algorithm>

#include "absl/time/clock.h"

namespace zerocast {
namespace {

constexpr absl::Duration kPoll = absl::Milliseconds(50);

}  // namespace

absl::Duration RateLimit::Take(int64_t num_bytes) {
  if (bytes_per_second_ == 0) return absl::ZeroDuration();
  const absl::Duration now = clock_->Steady();
  MutexLock lock(&mutex_);
  const absl::Duration begin = std::max(free_at_, now);
  free_at_ = begin +
             absl::Seconds(static_cast<double>(num_bytes) / static_cast<double>(bytes_per_second_));
  return begin - now;
}

bool RateLimit::Wait(int64_t num_bytes, const std::function<bool()>& stop) {
  const absl::Duration wait = Take(num_bytes);
  for (absl::Duration left = wait; left > absl::ZeroDuration(); left -= kPoll) {
    if (stop != nullptr && stop()) break;
    absl::SleepFor(std::min(left, kPoll));
  }
  return wait > absl::ZeroDuration();
}

void RateWaits::Wait(RateLimit* limit, int64_t num_bytes, const std::function<bool()>& stop) {
  if (limit == nullptr) return;
  const absl::Duration start = Clock::Real()->Steady();
  {
    MutexLock lock(&mutex_);
    ++num_waiting_;
  }
  const bool waited = limit->Wait(num_bytes, stop);
  MutexLock lock(&mutex_);
  --num_waiting_;
  if (!waited) return;
  last_end_ = Clock::Real()->Steady();
  total_ += last_end_ - start;
}

absl::Duration RateWaits::total() const {
  MutexLock lock(&mutex_);
  return total_;
}

absl::Duration RateWaits::LastEnd() const {
  MutexLock lock(&mutex_);
  return num_waiting_ > 0 ? Clock::Real()->Steady() : last_end_;
}

}  // namespace zerocast
