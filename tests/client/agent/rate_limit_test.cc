#include "client/agent/rate_limit.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

namespace zerocast {
namespace {

TEST(RateLimit, WhoAsksForMoreThanTheRateAllowsWaits) {
  FakeClock clock;
  RateLimit limit(1000, &clock);
  EXPECT_EQ(limit.Take(500), absl::ZeroDuration());
  EXPECT_EQ(limit.Take(2000), absl::Milliseconds(500));
  EXPECT_EQ(limit.Take(1), absl::Milliseconds(2500));
  clock.Advance(absl::Seconds(1));
  EXPECT_EQ(limit.Take(0), absl::Milliseconds(1501));
}

TEST(RateLimit, UnusedTimeIsNotSaved) {
  FakeClock clock;
  RateLimit limit(1000, &clock);
  limit.Take(1000);
  clock.Advance(absl::Hours(1));
  EXPECT_EQ(limit.Take(1000), absl::ZeroDuration());
  EXPECT_EQ(limit.Take(1000), absl::Seconds(1));
}

TEST(RateLimit, NoneIsNoLimit) {
  RateLimit limit(0);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(limit.Take(int64_t{1} << 60), absl::ZeroDuration());
}

TEST(RateLimit, ThreadsShareIt) {
  RateLimit limit(int64_t{1} << 20);
  const absl::Duration start = Clock::Real()->Steady();
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&limit] {
      for (int k = 0; k < 5; ++k) limit.Wait(1 << 14, nullptr);
    });
  }
  for (std::thread& thread : threads) thread.join();
  // 20 times 1/64 s, of which the last one is not waited for.
  EXPECT_GE(Clock::Real()->Steady() - start, absl::Seconds(19.0 / 64) - absl::Milliseconds(1));
}

TEST(RateLimit, AWaitEndsWhenItIsStopped) {
  RateLimit limit(1);
  limit.Take(1'000'000);
  std::atomic<int> asked{0};
  limit.Wait(1, [&asked] { return ++asked == 3; });
  EXPECT_EQ(asked, 3);
}

}  // namespace
}  // namespace zerocast
