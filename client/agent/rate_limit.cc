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

void RateLimit::Wait(int64_t num_bytes, const std::function<bool()>& stop) {
  for (absl::Duration left = Take(num_bytes); left > absl::ZeroDuration(); left -= kPoll) {
    if (stop != nullptr && stop()) return;
    absl::SleepFor(std::min(left, kPoll));
  }
}

}  // namespace zerocast
