// Blocks of random boxes do what the box does.
#include "client/formats/deepspeed/box_blocks.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "kernels/copy/algebra.h"
#include "kernels/copy/copy.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

// A box whose sides are nested in orders of their own, with gaps.
Box RandomBox(std::mt19937_64* random) {
  const auto below = [random](int64_t most) {
    return static_cast<int64_t>((*random)() % static_cast<uint64_t>(most));
  };
  const auto num_dims = static_cast<size_t>(1 + below(4));
  std::vector<BoxDim> dims(num_dims);
  for (BoxDim& dim : dims) dim.extent = 1 + below(7);
  std::vector<size_t> order(num_dims);
  std::iota(order.begin(), order.end(), size_t{0});
  for (const bool source : {true, false}) {
    std::shuffle(order.begin(), order.end(), *random);
    int64_t stride = 1;
    for (const size_t k : order) {
      if (below(3) == 0) stride += below(3);
      (source ? dims[k].source_stride : dims[k].target_stride) = stride;
      stride *= dims[k].extent;
    }
  }
  return *MakeBox(0, below(5), below(5), dims);
}

std::vector<int32_t> Counting(int64_t count) {
  std::vector<int32_t> values(static_cast<size_t>(count));
  std::iota(values.begin(), values.end(), 1);
  return values;
}

TEST(BoxBlocks, DoTogetherWhatTheBoxDoes) {
  const char* const given = std::getenv("ZC_SEED");
  const uint64_t seed = given != nullptr ? std::stoull(given) : std::random_device{}();
  SCOPED_TRACE("ZC_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  int64_t num_blocks = 0;
  for (int round = 0; round < 2000; ++round) {
    const Box box = RandomBox(&random);
    const std::vector<int32_t> source = Counting(SourceEnd(box));
    std::vector<int32_t> wanted(static_cast<size_t>(TargetEnd(box))), made(wanted.size());
    CopyBoxReference(box, source.data(), DType::kInt32, wanted.data(), DType::kInt32);
    const int64_t most = 1 + static_cast<int64_t>(random() % 40);
    const BoxBlocks blocks(box, most);
    for (int64_t k = 0; k < blocks.count(); ++k, ++num_blocks) {
      const Box block = blocks.Get(k);
      const int64_t elements = NumElements(block);
      ASSERT_LE(elements, most);
      std::vector<int32_t> in, out(static_cast<size_t>(elements));
      int64_t end = -1;
      EXPECT_THAT(
          ForEachStretch(block, BoxSide::kSource,
                         [&](const BoxStretch& stretch) {
                           EXPECT_EQ(stretch.packed_offset, static_cast<int64_t>(in.size()));
                           EXPECT_GT(stretch.offset, end);
                           end = stretch.offset;
                           for (int64_t k2 = 0; k2 < stretch.num_elements; ++k2) {
                             in.push_back(source.at(static_cast<size_t>(stretch.offset + k2)));
                           }
                           return absl::OkStatus();
                         }),
          IsOk());
      ASSERT_EQ(in.size(), out.size());
      ZC_ASSERT_OK_AND_ASSIGN(const Box packed, PackBothSides(block));
      CopyBox(packed, in.data(), DType::kInt32, out.data(), DType::kInt32);
      EXPECT_THAT(
          ForEachStretch(block, BoxSide::kTarget,
                         [&](const BoxStretch& stretch) {
                           for (int64_t k2 = 0; k2 < stretch.num_elements; ++k2) {
                             int32_t& place = made.at(static_cast<size_t>(stretch.offset + k2));
                             EXPECT_EQ(place, 0);
                             place = out.at(static_cast<size_t>(stretch.packed_offset + k2));
                           }
                           return absl::OkStatus();
                         }),
          IsOk());
    }
    ASSERT_EQ(made, wanted);
  }
  EXPECT_GT(num_blocks, 5000);
}

TEST(BoxBlocks, HaveLongStretchesOnBothSidesOfATransposition) {
  constexpr int64_t kRows = 5000, kColumns = 3000;
  const BoxDim dims[] = {{kColumns, 1, kRows}, {kRows, kColumns, 1}};
  ZC_ASSERT_OK_AND_ASSIGN(const Box box, MakeBox(0, 0, 0, dims));
  const BoxBlocks blocks(box, 1 << 18);
  EXPECT_LT(blocks.count(), 100);
  const Box block = blocks.Get(0);
  for (const BoxSide side : {BoxSide::kSource, BoxSide::kTarget}) {
    EXPECT_THAT(ForEachStretch(block, side,
                               [&](const BoxStretch& stretch) {
                                 EXPECT_GE(stretch.num_elements, 256);
                                 return absl::OkStatus();
                               }),
                IsOk());
  }
}

TEST(BoxBlocks, OfAContiguousBoxAreContiguous) {
  const BoxBlocks blocks(WholeBox(0, 1000, 0), 300);
  ASSERT_EQ(blocks.count(), 4);
  const Box last = blocks.Get(3);
  EXPECT_EQ(last.source_offset, 900);
  EXPECT_EQ(NumElements(last), 100);
}

TEST(BoxBlocks, StopWithTheFirstError) {
  int calls = 0;
  const Box box = BoxBlocks(WholeBox(0, 10, 0), 10).Get(0);
  EXPECT_THAT(ForEachStretch(box, BoxSide::kSource,
                             [&](const BoxStretch&) {
                               ++calls;
                               return absl::DataLossError("no");
                             }),
              StatusIs(absl::StatusCode::kDataLoss, ::testing::_));
  EXPECT_EQ(calls, 1);
}

}  // namespace
}  // namespace zerocast
