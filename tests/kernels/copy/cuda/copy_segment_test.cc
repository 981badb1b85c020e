// The functions of the copy kernel, run on the CPU: a loop over lanes in place of a warp.

#include "kernels/copy/cuda/copy_segment.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/copy/cuda/copy_batch.h"
#include "tests/kernels/copy/cuda/random_batch.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using copy_testing::AllTypePairs;
using copy_testing::MakeRandomBatch;
using copy_testing::Random;
using copy_testing::RandomBatch;
using copy_testing::Seed;
using copy_testing::TypePair;

// Runs all lanes of all segments, segments in random order.
template <typename Cast>
void RunAs(Random* random, const CopyBatch& batch) {
  const int64_t num_segments = (batch.num_elements() - 1) / kSegmentElements<Cast> + 1;
  std::vector<int64_t> segments(num_segments);
  std::iota(segments.begin(), segments.end(), 0);
  random->Shuffle(&segments);
  for (const int64_t segment : segments) {
    for (int lane = 0; lane < kWarpSize; ++lane) {
      CopyBatchSegment<Cast>(batch.pieces.data(), batch.first_elements.data(),
                             static_cast<int64_t>(batch.pieces.size()), segment, lane);
    }
  }
}

template <DType kFrom, DType kTo>
void RunIf(Random* random, const CopyBatch& batch) {
  if constexpr (kFrom == kTo || kIsElementCast<kFrom, kTo>) {
    if (batch.source_dtype == kFrom && batch.target_dtype == kTo) {
      RunAs<ElementCast<kFrom, kTo>>(random, batch);
    }
  }
}

template <int kFrom, int... kTo>
void RunFrom(std::integer_sequence<int, kTo...>, Random* random, const CopyBatch& batch) {
  (RunIf<static_cast<DType>(kFrom), static_cast<DType>(kTo + 1)>(random, batch), ...);
}

template <int... kFrom>
void RunAny(std::integer_sequence<int, kFrom...> all, Random* random, const CopyBatch& batch) {
  (RunFrom<kFrom + 1>(all, random, batch), ...);
}

// A copy of bytes at an address that is aligned as memory of a device is.
std::vector<std::aligned_storage_t<16, 16>> Aligned(const std::vector<uint8_t>& bytes) {
  std::vector<std::aligned_storage_t<16, 16>> aligned(bytes.size() / 16 + 1);
  std::memcpy(aligned.data(), bytes.data(), bytes.size());
  return aligned;
}

TEST(CopyBatchSegment, EqualsTheReferenceForAllTypes) {
  Random random(Seed());
  for (const TypePair& types : AllTypePairs()) {
    for (int round = 0; round < 6; ++round) {
      const RandomBatch random_batch =
          MakeRandomBatch(&random, types, static_cast<int>(random.Between(1, 12)));
      const auto source = Aligned(random_batch.source);
      auto target = Aligned(random_batch.target);
      ZC_ASSERT_OK_AND_ASSIGN(
          const CopyBatch batch,
          MakeCopyBatch(random_batch.Placed(source.data(), target.data()), types.from, types.to));
      RunAny(std::make_integer_sequence<int, 15>(), &random, batch);
      const std::vector<uint8_t> expected = random_batch.Expected();
      ASSERT_EQ(std::memcmp(target.data(), expected.data(), expected.size()), 0)
          << DTypeName(types.from) << " to " << DTypeName(types.to) << ", round " << round;
    }
  }
}

// Bytes, counted as they are copied.
struct Counted {
  using From = uint8_t;
  using To = uint8_t;
  static constexpr int64_t kWiderBytes = 1;
  static constexpr int kVectorElements = 16;
  static constexpr int kLoads = 4;
  template <int kCount>
  static constexpr int kNarrower = kCount / 2;
  static uint8_t Apply(uint8_t bits) {
    ++copied;
    return bits;
  }
  static int64_t copied;
};
int64_t Counted::copied = 0;

TEST(CopyBatchSegment, CopiesEachElementOnce) {
  Random random(Seed());
  for (int round = 0; round < 50; ++round) {
    const RandomBatch random_batch = MakeRandomBatch(&random, {DType::kUInt8, DType::kUInt8}, 8);
    const auto source = Aligned(random_batch.source);
    auto target = Aligned(random_batch.target);
    ZC_ASSERT_OK_AND_ASSIGN(const CopyBatch batch,
                            MakeCopyBatch(random_batch.Placed(source.data(), target.data()),
                                          DType::kUInt8, DType::kUInt8));
    Counted::copied = 0;
    RunAs<Counted>(&random, batch);
    ASSERT_EQ(Counted::copied, batch.num_elements());
  }
}

TEST(PlaceOf, CountsBeyond32Bits) {
  constexpr int64_t kHuge = (int64_t{1} << 33) + 5;
  CopyPiece piece = {};
  piece.num_dims = 2;
  piece.dims[0] = {3, 7 * kHuge, kHuge};
  piece.dims[1] = {kHuge, 2, 1};
  const Place place = PlaceOf(piece, 2 * kHuge + kHuge - 1);
  EXPECT_EQ(place.source, 14 * kHuge + 2 * (kHuge - 1));
  EXPECT_EQ(place.target, 3 * kHuge - 1);
}

}  // namespace
}  // namespace zerocast
