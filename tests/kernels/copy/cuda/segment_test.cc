// The functions of the copy kernel, run on the CPU: a loop over lanes in place of a warp.

#include "kernels/copy/cuda/segment.h"

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

// Cuts the batch into segments and calls run(begin, end, memory, warp) for them in random order.
template <typename Source, typename Piece, typename Run>
void ForEachSegment(Random* random, const std::vector<Piece>& pieces,
                    const std::vector<int64_t>& first_elements, const Run& run) {
  const BatchView<Piece> view = {pieces.data(), first_elements.data(),
                                 static_cast<int64_t>(pieces.size()), first_elements.back()};
  const int64_t segment_elements =
      random->Between(0, 3) == 0 ? random->Between(1, 400) : random->Between(400, 9000);
  std::vector<int64_t> segments((view.num_elements - 1) / segment_elements + 1);
  std::iota(segments.begin(), segments.end(), 0);
  random->Shuffle(&segments);
  alignas(kVectorBytes) char memory[WarpMemory<Source>::kNumBytes];
  for (const int64_t segment : segments) {
    run(view, segment * segment_elements, (segment + 1) * segment_elements, memory);
  }
}

template <DType kFrom, DType kTo>
void RunIf(Random* random, const CopyBatch& batch) {
  if constexpr (kFrom == kTo || kIsElementCast<kFrom, kTo>) {
    if (batch.source_dtype == kFrom && batch.target_dtype == kTo) {
      ForEachSegment<PlainSource<kFrom, kTo>>(
          random, batch.pieces, batch.first_elements,
          [](const auto& view, int64_t begin, int64_t end, char* memory) {
            MoveSegment<kFrom, kTo>(view, begin, end, memory, Warp(0));
          });
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

TEST(MoveSegment, EqualsTheReferenceForAllTypes) {
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

// Bytes, counted as they are loaded.
class Counted : public PlainSource<DType::kUInt8, DType::kUInt8> {
 public:
  static constexpr bool kShifts = false;
  using PlainSource::PlainSource;
  template <int kCount>
  Loaded<kCount> Load(int64_t place) const {
    loaded += kCount;
    return PlainSource::Load<kCount>(place);
  }
  static int64_t loaded;
};
int64_t Counted::loaded = 0;

TEST(MovePiece, LoadsEachElementOnce) {
  Random random(Seed());
  for (int round = 0; round < 50; ++round) {
    const RandomBatch random_batch = MakeRandomBatch(&random, {DType::kUInt8, DType::kUInt8}, 8);
    const auto source = Aligned(random_batch.source);
    auto target = Aligned(random_batch.target);
    ZC_ASSERT_OK_AND_ASSIGN(const CopyBatch batch,
                            MakeCopyBatch(random_batch.Placed(source.data(), target.data()),
                                          DType::kUInt8, DType::kUInt8));
    Counted::loaded = 0;
    ForEachSegment<Counted>(
        &random, batch.pieces, batch.first_elements,
        [](const auto& view, int64_t begin, int64_t end, char* memory) {
          CopyPiece shared;
          ForEachPiece(view, begin, end, &shared, Warp(0),
                       [&](const CopyPiece& piece, int64_t count, int64_t from, int64_t to) {
                         MovePiece<Counted>(piece, count, from, to, memory, Warp(0));
                       });
        });
    ASSERT_EQ(Counted::loaded, batch.num_elements());
  }
}

TEST(PlaceOf, CountsPlacesBeyond32Bits) {
  constexpr int64_t kHuge = int64_t{1} << 40;
  CopyPiece piece = {};
  piece.num_dims = 2;
  piece.dims[0] = {3, 7 * kHuge, kHuge, MakeDivider(3)};
  piece.dims[1] = {700000000, 2, 1, MakeDivider(700000000)};
  const Place place = PlaceOf(piece, 2099999999);
  EXPECT_EQ(place.source, 14 * kHuge + 2 * 699999999);
  EXPECT_EQ(place.target, 2 * kHuge + 699999999);
}

}  // namespace
}  // namespace zerocast
