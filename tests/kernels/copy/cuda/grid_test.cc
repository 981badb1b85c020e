#include "kernels/copy/cuda/grid.h"

#include <algorithm>
#include <cstdint>

#include "gtest/gtest.h"
#include "kernels/copy/cuda/divider.h"
#include "tests/kernels/copy/naive.h"

namespace zerocast {
namespace {

using copy_testing::Random;
using copy_testing::Seed;

int64_t NumSegments(const Grid& grid, int64_t num_elements) {
  return (num_elements - 1) / grid.segment_elements + 1;
}

TEST(DivideBatch, GivesEachWarpEqualWork) {
  constexpr int64_t kWarps = 132 * 20;
  for (const int64_t megabytes : {64, 65, 100, 333, 1000, 5000}) {
    const int64_t num_elements = megabytes << 19;  // of 2 bytes
    const Grid grid = DivideBatch(num_elements, 10, 2, kWarps);
    EXPECT_EQ(grid.num_blocks, kWarps / kBlockWarps) << megabytes;
    // The last round of segments is as full as the others, but for rounding.
    const int64_t segments = NumSegments(grid, num_elements);
    const int64_t rounds = (segments - 1) / kWarps + 1;
    EXPECT_GT(segments, rounds * kWarps * 99 / 100) << megabytes;
    EXPECT_LE(grid.segment_elements * 2, 32 << 10);
  }
}

TEST(DivideBatch, DoesNotCutSmallBatchesIntoDust) {
  const Grid grid = DivideBatch(1000, 1, 2, 2640);
  EXPECT_EQ(grid.num_blocks, 1u);
  EXPECT_GE(grid.segment_elements, 1000);
}

TEST(DivideBatch, GivesManyTinyPiecesToManyWarps) {
  const Grid grid = DivideBatch(10000 * 32, 10000, 2, 2640);  // of 64 bytes each
  EXPECT_GE(grid.num_blocks, 150u);
}

TEST(DivideBatch, CoversEveryElement) {
  Random random(Seed());
  for (int round = 0; round < 1000; ++round) {
    const int64_t num_elements = random.Between(1, int64_t{1} << random.Between(1, 50));
    const int64_t num_pieces = random.Between(1, std::min<int64_t>(num_elements, 100000));
    const int64_t num_warps = random.Between(1, 10000);
    const int64_t element_bytes = int64_t{1} << random.Between(0, 3);
    const Grid grid = DivideBatch(num_elements, num_pieces, element_bytes, num_warps);
    ASSERT_GE(grid.segment_elements, 1);
    ASSERT_GE(grid.num_blocks, 1u);
    ASSERT_LE(int64_t{grid.num_blocks} - 1, (num_warps - 1) / kBlockWarps);
  }
}

TEST(Divider, EqualsDivision) {
  Random random(Seed());
  const auto edge = [&]() -> uint32_t {
    const int64_t power = int64_t{1} << random.Between(0, 32);
    return static_cast<uint32_t>(std::clamp<int64_t>(power + random.Between(-2, 2), 0, 0xffffffff));
  };
  for (int round = 0; round < 1000000; ++round) {
    const uint32_t divisor = std::max(1u, edge());
    const Divider divider = MakeDivider(divisor);
    const auto any = static_cast<uint32_t>(random.Between(0, 0xffffffff));
    const uint32_t multiple = static_cast<uint32_t>(any / divisor * uint64_t{divisor});
    for (const uint32_t number : {edge(), any, multiple, multiple - 1}) {
      ASSERT_EQ(Quotient(number, divider), number / divisor) << number << " / " << divisor;
    }
  }
}

}  // namespace
}  // namespace zerocast
