#include "client/agent/copy_pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <vector>

#include "tests/status_matchers.h"

namespace zerocast {
namespace {

TEST(CopyPool, CallsEachNumberOnce) {
  for (const int num_threads : {1, 3}) {
    ZC_ASSERT_OK_AND_ASSIGN(const auto pool, CopyPool::Create(num_threads));
    std::vector<std::atomic<int>> calls(1000);
    CopyPool::Batch batch;
    pool->Start(&batch, calls.size(), [&calls](size_t k) {
      ++calls[k];
      return absl::OkStatus();
    });
    EXPECT_THAT(pool->Wait(&batch), IsOk());
    for (const std::atomic<int>& count : calls) EXPECT_EQ(count, 1);
  }
}

TEST(CopyPool, SeveralBatchesAreAtWorkAtOnceAndUsedAgain) {
  ZC_ASSERT_OK_AND_ASSIGN(const auto pool, CopyPool::Create(2));
  CopyPool::Batch batches[2];
  int64_t sums[2][100] = {};
  for (int round = 0; round < 200; ++round) {
    CopyPool::Batch& batch = batches[round % 2];
    EXPECT_THAT(pool->Wait(&batch), IsOk());  // sums of this one are at rest
    pool->Start(&batch, 100, [&sum = sums[round % 2]](size_t k) {
      sum[k] += static_cast<int>(k);
      return absl::OkStatus();
    });
  }
  for (CopyPool::Batch& batch : batches) EXPECT_THAT(pool->Wait(&batch), IsOk());
  for (const auto& sum : sums) {
    for (int k = 0; k < 100; ++k) EXPECT_EQ(sum[k], 100 * k);
  }
}

TEST(CopyPool, AnEmptyOrUnusedBatchIsDone) {
  ZC_ASSERT_OK_AND_ASSIGN(const auto pool, CopyPool::Create(1));
  CopyPool::Batch batch;
  EXPECT_THAT(pool->Wait(&batch), IsOk());
  pool->Start(&batch, 0, [](size_t) { return absl::InternalError("was called"); });
  EXPECT_THAT(pool->Wait(&batch), IsOk());
}

TEST(CopyPool, MakesAllCallsAndTellsTheFirstError) {
  ZC_ASSERT_OK_AND_ASSIGN(const auto pool, CopyPool::Create(1));
  CopyPool::Batch batch;
  std::atomic<int> calls{0};
  pool->Start(&batch, 10, [&calls](size_t k) {
    ++calls;
    return k < 4 ? absl::OkStatus() : absl::ResourceExhaustedError(std::to_string(k));
  });
  EXPECT_THAT(pool->Wait(&batch), StatusIs(absl::StatusCode::kResourceExhausted, "4"));
  EXPECT_EQ(calls, 10);
  // Of the next use nothing is left.
  pool->Start(&batch, 1, [](size_t) { return absl::OkStatus(); });
  EXPECT_THAT(pool->Wait(&batch), IsOk());
}

TEST(CopyPool, EndsWhatWasStarted) {
  std::atomic<int> calls{0};
  CopyPool::Batch batch;
  {
    ZC_ASSERT_OK_AND_ASSIGN(const auto pool, CopyPool::Create(2));
    pool->Start(&batch, 500, [&calls](size_t) {
      ++calls;
      return absl::OkStatus();
    });
  }
  EXPECT_EQ(calls, 500);
}

TEST(CopyPool, MeasuresTheTimeInCalls) {
  ZC_ASSERT_OK_AND_ASSIGN(const auto pool, CopyPool::Create(1));
  EXPECT_EQ(pool->busy(), absl::ZeroDuration());
  CopyPool::Batch batch;
  std::atomic<int64_t> sum{0};
  pool->Start(&batch, 1, [&sum](size_t) {
    for (int i = 0; i < 1000; ++i) sum += i;
    return absl::OkStatus();
  });
  EXPECT_THAT(pool->Wait(&batch), IsOk());
  EXPECT_GT(pool->busy(), absl::ZeroDuration());
}

}  // namespace
}  // namespace zerocast
