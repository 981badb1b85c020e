#include "kernels/copy/copy.h"

#include <cstring>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/copy/algebra.h"
#include "kernels/copy/pack.h"
#include "tests/kernels/copy/naive.h"

namespace zerocast {
namespace {

using copy_testing::Elements;
using copy_testing::IsCanonical;
using copy_testing::Random;
using copy_testing::RandomBox;
using copy_testing::Seed;

struct Pair {
  DType from, to;
};

Pair RandomPair(Random* random) {
  for (;;) {
    const auto from = static_cast<DType>(random->Between(1, 15));
    const auto to = static_cast<DType>(random->Between(1, 15));
    if (CanCast(from, to)) return {from, to};
  }
}

std::vector<uint8_t> RandomBytes(Random* random, int64_t size) {
  std::vector<uint8_t> bytes(size);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random->Between(0, 255));
  return bytes;
}

// Runs `box` by both functions from misaligned buffers; true when all bytes agree, those that the
// box leaves alone too.
bool BothAgree(Random* random, const Box& box, const Pair& pair) {
  const int64_t source_shift = random->Between(0, 7);
  const int64_t target_shift = random->Between(0, 7);
  const std::vector<uint8_t> source =
      RandomBytes(random, source_shift + SourceEnd(box) * SizeOf(pair.from));
  const std::vector<uint8_t> blank =
      RandomBytes(random, target_shift + TargetEnd(box) * SizeOf(pair.to) + 8);
  std::vector<uint8_t> fast = blank;
  std::vector<uint8_t> reference = blank;
  CopyBox(box, source.data() + source_shift, pair.from, fast.data() + target_shift, pair.to);
  CopyBoxReference(box, source.data() + source_shift, pair.from, reference.data() + target_shift,
                   pair.to);
  return fast == reference;
}

TEST(CopyBox, EqualsTheReferenceOnRandomBoxes) {
  Random random(Seed());
  for (int round = 0; round < 3000; ++round) {
    const Box box = RandomBox(&random, 4, 7);
    const Pair pair = RandomPair(&random);
    ASSERT_TRUE(BothAgree(&random, box, pair)) << DTypeName(pair.from) << " " << DTypeName(pair.to);
  }
}

TEST(CopyBox, EqualsTheReferenceOnRunsOfEveryLength) {
  Random random(Seed());
  for (int64_t count = 1; count < 70; ++count) {
    for (int from = 1; from <= 15; ++from) {
      for (int to = 1; to <= 15; ++to) {
        const Pair pair = {static_cast<DType>(from), static_cast<DType>(to)};
        if (!CanCast(pair.from, pair.to)) continue;
        Box box = WholeBox(0, count, 1);
        box.source_offset = 3;
        ASSERT_TRUE(BothAgree(&random, box, pair))
            << count << " " << DTypeName(pair.from) << " " << DTypeName(pair.to);
      }
    }
  }
}

TEST(CopyBox, EqualsTheReferenceOnTranspositionsOfEveryShape) {
  Random random(Seed());
  for (const int64_t rows : {2, 3, 4, 7, 8, 31, 64, 65, 130}) {
    for (const int64_t columns : {2, 3, 5, 8, 33, 64, 66, 129}) {
      const Pair pair = RandomPair(&random);
      const Box box =
          MakeBox(0, 2, 3,
                  {{2, rows * columns, rows * columns}, {rows, columns, 1}, {columns, 1, rows}})
              .value();
      ASSERT_TRUE(BothAgree(&random, box, pair)) << rows << " x " << columns;
      const Pair half = {DType::kBFloat16, DType::kBFloat16};
      ASSERT_TRUE(BothAgree(&random, box, half)) << rows << " x " << columns;
    }
  }
}

TEST(CopyBox, ReferenceMovesEachElementOfTheBox) {
  Random random(Seed());
  for (int round = 0; round < 500; ++round) {
    const Box box = RandomBox(&random, 4, 5);
    std::vector<int32_t> source(SourceEnd(box));
    for (size_t i = 0; i < source.size(); ++i) source[i] = static_cast<int32_t>(i);
    std::vector<int32_t> target(TargetEnd(box), -1);
    std::vector<int32_t> expected = target;
    for (const auto& element : Elements({&box, 1})) {
      expected[element.target] = static_cast<int32_t>(element.place);
    }
    CopyBoxReference(box, source.data(), DType::kInt32, target.data(), DType::kInt32);
    ASSERT_EQ(target, expected);
  }
}

TEST(CastElements, OfNoneTouchesNothing) {
  CastElements(nullptr, DType::kFloat32, nullptr, DType::kBFloat16, 0);
}

TEST(MakePackBoxes, PackThenUnpackIsThePiece) {
  Random random(Seed());
  for (int round = 0; round < 2000; ++round) {
    const Box piece = RandomBox(&random, 4, 5);
    const int64_t packed_offset = random.Between(0, 5);
    Box pack;
    Box unpack;
    MakePackBoxes(piece, packed_offset, &pack, &unpack);
    ASSERT_TRUE(IsCanonical(pack) && IsCanonical(unpack));
    ASSERT_EQ(pack.target_offset, packed_offset);
    ASSERT_EQ(TargetEnd(pack), packed_offset + NumElements(piece));
    ASSERT_EQ(SourceEnd(unpack), packed_offset + NumElements(piece));
    ASSERT_EQ(pack.source, piece.source);
    std::vector<Box> composed;
    ASSERT_TRUE(Compose({&pack, 1}, {&unpack, 1}, 100, &composed).ok());
    ASSERT_EQ(Elements(composed), Elements({&piece, 1}));
    // The order of places in the packed buffer is that of the target.
    const auto unpacked = Elements({&unpack, 1});
    for (size_t i = 0; i < unpacked.size(); ++i) {
      ASSERT_EQ(unpacked[i].place, packed_offset + static_cast<int64_t>(i));
    }
  }
}

}  // namespace
}  // namespace zerocast
