#include "kernels/copy/algebra.h"

#include <algorithm>
#include <vector>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/kernels/copy/naive.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using copy_testing::Concatenated;
using copy_testing::Element;
using copy_testing::Elements;
using copy_testing::Expected;
using copy_testing::IsCanonical;
using copy_testing::Permuted;
using copy_testing::Random;
using copy_testing::RandomBox;
using copy_testing::RandomTensor;
using copy_testing::Seed;
using copy_testing::Sliced;
using copy_testing::SourceTensor;
using copy_testing::Stacked;
using copy_testing::Tensor;
using ::testing::HasSubstr;

Box BoxOf(int32_t source, int64_t source_offset, int64_t target_offset,
          const std::vector<BoxDim>& dims) {
  return MakeBox(source, source_offset, target_offset, dims).value();
}

TEST(MakeBox, MergesLoopsThatAreOne) {
  const Box box = BoxOf(3, 7, 9, {{4, 6, 6}, {1, 5, 5}, {2, 3, 3}, {3, 1, 1}});
  ASSERT_EQ(box.num_dims, 1);
  EXPECT_EQ(box.dims[0], (BoxDim{24, 1, 1}));
  EXPECT_EQ(box.source, 3);
  EXPECT_EQ(box.source_offset, 7);
  EXPECT_EQ(box.target_offset, 9);
}

TEST(IsContiguous, WhereBothSidesGoOnByOne) {
  EXPECT_TRUE(IsContiguous(BoxOf(0, 7, 9, {})));
  EXPECT_TRUE(IsContiguous(BoxOf(0, 7, 9, {{5, 1, 1}})));
  EXPECT_FALSE(IsContiguous(BoxOf(0, 7, 9, {{5, 2, 1}})));
  EXPECT_FALSE(IsContiguous(BoxOf(0, 7, 9, {{5, 1, 2}})));
  EXPECT_FALSE(IsContiguous(BoxOf(0, 7, 9, {{5, 1, 3}, {3, 5, 1}})));
}

TEST(MakeBox, SortsByTheTarget) {
  const Box box = BoxOf(0, 0, 0, {{3, 4, 1}, {4, 1, 3}});
  ASSERT_EQ(box.num_dims, 2);
  EXPECT_EQ(box.dims[0], (BoxDim{4, 1, 3}));
  EXPECT_EQ(box.dims[1], (BoxDim{3, 4, 1}));
}

TEST(MakeBox, OneElementHasNoLoops) { EXPECT_EQ(BoxOf(0, 1, 2, {{1, 9, 9}}).num_dims, 0); }

TEST(MakeBox, TakesMoreLoopsThanABoxHoldsWhenTheyMerge) {
  std::vector<BoxDim> dims;
  for (int64_t stride = 1; stride < 1024; stride *= 2) dims.push_back({2, stride, stride});
  EXPECT_EQ(BoxOf(0, 0, 0, dims).dims[0], (BoxDim{1024, 1, 1}));
}

TEST(MakeBox, RefusesWhatIsNoBox) {
  const auto code = [](const std::vector<BoxDim>& dims) {
    return MakeBox(0, 0, 0, dims).status().code();
  };
  EXPECT_EQ(code({{0, 1, 1}}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({{2, -1, 1}}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({{2, 1, -1}}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({{2, 0, 1}}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({{2, 1, 0}}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({{3, 3, 2}, {3, 1, 1}}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({{3, 2, 3}, {3, 1, 1}}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({{int64_t{1} << 62, 4, 4}}), absl::StatusCode::kInvalidArgument);
  std::vector<BoxDim> gaps;
  for (int64_t stride = 1; gaps.size() < 7; stride *= 3) gaps.push_back({2, stride, stride});
  EXPECT_EQ(code(gaps), absl::StatusCode::kUnimplemented);
}

TEST(WholeBox, IsCanonical) {
  EXPECT_EQ(WholeBox(2, 10, 5), BoxOf(2, 0, 5, {{10, 1, 1}}));
  EXPECT_EQ(WholeBox(2, 1, 5), BoxOf(2, 0, 5, {}));
}

TEST(Slice, SlicesPartitionEveryBox) {
  Random random(Seed());
  for (int round = 0; round < 3000; ++round) {
    const Box box = RandomBox(&random, 4, 5);
    const bool target = round % 2 == 0;
    const int64_t begin = target ? box.target_offset : box.source_offset;
    const int64_t end = target ? TargetEnd(box) : SourceEnd(box);
    std::vector<int64_t> cuts = {begin - random.Between(0, 2), end + random.Between(0, 2)};
    for (int i = 0; i < 3; ++i) cuts.push_back(random.Between(begin, end));
    std::sort(cuts.begin(), cuts.end());
    std::vector<Element> joined;
    for (size_t i = 0; i + 1 < cuts.size(); ++i) {
      std::vector<Box> parts;
      (target ? SliceTarget : SliceSource)(box, cuts[i], cuts[i + 1], &parts);
      ASSERT_LE(parts.size(), 2u * box.num_dims + 1);
      for (size_t k = 0; k < parts.size(); ++k) {
        ASSERT_TRUE(IsCanonical(parts[k]));
        ASSERT_TRUE(k == 0 || parts[k - 1].target_offset < parts[k].target_offset);
        ASSERT_GE(target ? parts[k].target_offset : parts[k].source_offset, cuts[i]);
        ASSERT_LE(target ? TargetEnd(parts[k]) : SourceEnd(parts[k]), cuts[i + 1]);
      }
      const std::vector<Element> some = Elements(parts);
      joined.insert(joined.end(), some.begin(), some.end());
    }
    std::sort(joined.begin(), joined.end());
    ASSERT_EQ(joined, Elements({&box, 1}));
  }
}

TEST(Compose, ChainsOfOperationsMoveEveryElementWhereTheyShould) {
  Random random(Seed());
  for (int round = 0; round < 2000; ++round) {
    const Tensor tensor = RandomTensor(&random, static_cast<int>(random.Between(0, 4)));
    ASSERT_EQ(Elements(tensor.boxes), Expected(tensor)) << "round " << round;
    for (const Box& box : tensor.boxes) ASSERT_TRUE(IsCanonical(box));
    ASSERT_THAT(ProveCoverage(tensor.boxes, tensor.num_elements()), IsOk());
  }
}

TEST(Compose, AnyBoxesMeetWhereTheirElementsDo) {
  Random random(Seed());
  for (int round = 0; round < 4000; ++round) {
    std::vector<Box> inner;
    for (int64_t i = random.Between(1, 3); i > 0; --i) inner.push_back(RandomBox(&random, 4, 6));
    const Box outer = RandomBox(&random, 4, 6);
    std::vector<Element> expected;
    for (const Element& read : Elements({&outer, 1})) {
      for (const Element& written : Elements(inner)) {
        if (written.target == read.place) {
          expected.push_back({read.target, written.source, written.place});
        }
      }
    }
    std::sort(expected.begin(), expected.end());
    std::vector<Box> composed;
    const absl::Status status = Compose(inner, {&outer, 1}, 100000, &composed);
    if (absl::IsUnimplemented(status)) continue;  // more than kMaxBoxDims loops
    ASSERT_THAT(status, IsOk());
    ASSERT_EQ(Elements(composed), expected) << "round " << round;
    for (const Box& box : composed) ASSERT_TRUE(IsCanonical(box));
  }
}

std::vector<Tensor> Experts(int num_experts, const std::vector<int64_t>& shape,
                            int32_t first_source) {
  std::vector<Tensor> experts;
  for (int32_t e = 0; e < num_experts; ++e)
    experts.push_back(SourceTensor(first_source + e, shape));
  return experts;
}

TEST(Compose, ConcatenatedStacksAreOneRunAnExpert) {
  const Tensor fused =
      Concatenated({Stacked(Experts(8, {6, 4}, 0)), Stacked(Experts(8, {6, 4}, 8))}, 1);
  EXPECT_EQ(fused.boxes.size(), 16u);
  for (const Box& box : fused.boxes) EXPECT_LE(box.num_dims, 1);
}

TEST(Compose, ATransposedStackIsOneBoxAnExpert) {
  const Tensor stack = Stacked(Experts(8, {6, 4}, 0));
  const Tensor transposed = Permuted(stack, {8, 6, 4}, {0, 2, 1});
  EXPECT_EQ(transposed.boxes.size(), 8u);
  EXPECT_EQ(Permuted(transposed, {8, 4, 6}, {0, 2, 1}).boxes, stack.boxes);
}

TEST(Compose, ATransposedFusionIsTwoBoxesAnExpert) {
  const Tensor fused =
      Concatenated({Stacked(Experts(8, {6, 4}, 0)), Stacked(Experts(8, {6, 4}, 8))}, 1);
  EXPECT_EQ(Permuted(fused, {8, 12, 4}, {0, 2, 1}).boxes.size(), 16u);
  EXPECT_EQ(Permuted(fused, {8, 2, 6, 4}, {0, 2, 1, 3}).boxes.size(), 16u);  // interleaved
}

TEST(Compose, WholeTensorsStayOneBox) {
  const Tensor weight = SourceTensor(0, {24, 10});
  EXPECT_EQ(Permuted(weight, {24, 10}, {1, 0}).boxes.size(), 1u);
  EXPECT_EQ(Permuted(weight, {3, 4, 2, 10}, {0, 2, 1, 3}).boxes.size(), 1u);  // rope
  EXPECT_EQ(Sliced(weight, 1, 5, 10).boxes.size(), 1u);                       // chunk
  EXPECT_EQ(Sliced(Permuted(weight, {24, 10}, {1, 0}), 0, 5, 10).boxes.size(), 1u);
  EXPECT_EQ(Sliced(Permuted(weight, {2, 12, 10}, {1, 0, 2}), 1, 1, 2).boxes.size(), 1u);
}

TEST(Compose, ChunksOfAFusionAreItsParts) {
  const Tensor fused =
      Concatenated({SourceTensor(0, {6, 4}), SourceTensor(1, {6, 4}), SourceTensor(2, {6, 4})}, 1);
  const Tensor part = Sliced(fused, 1, 4, 8);
  ASSERT_EQ(part.boxes.size(), 1u);
  EXPECT_EQ(part.boxes[0], WholeBox(1, 24, 0));
}

TEST(Compose, RefusesMoreBoxesThanAllowed) {
  const Tensor stack = Stacked(Experts(8, {6, 4}, 0));
  const Box whole = WholeBox(0, stack.num_elements(), 0);
  std::vector<Box> out;
  EXPECT_THAT(Compose(stack.boxes, {&whole, 1}, 7, &out),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("more than 7 boxes")));
  EXPECT_TRUE(out.empty());
  EXPECT_THAT(Compose(stack.boxes, {&whole, 1}, 8, &out), IsOk());
}

TEST(Compose, RefusesMoreLoopsThanABoxHolds) {
  // The digits of both are cut at different bits, and both reverse theirs: 11 loops together.
  const Tensor source = SourceTensor(0, {4096});
  const Tensor inner = Permuted(source, {4, 4, 4, 4, 4, 4}, {5, 4, 3, 2, 1, 0});
  std::vector<BoxDim> dims;
  int64_t reads = 4096;
  int64_t writes = 1;
  for (const int64_t extent : {8, 4, 4, 4, 4, 2}) {
    reads /= extent;
    dims.push_back({extent, reads, writes});
    writes *= extent;
  }
  const Box outer = BoxOf(0, 0, 0, dims);
  std::vector<Box> out;
  EXPECT_THAT(Compose(inner.boxes, {&outer, 1}, 4096, &out),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("more than 6 loops")));
}

TEST(Compose, KeepsWhatWasThere) {
  std::vector<Box> out = {WholeBox(5, 3, 0)};
  const Box inner = WholeBox(0, 10, 0);
  const Box outer = WholeBox(0, 10, 3);
  EXPECT_THAT(Compose({&inner, 1}, {&outer, 1}, 10, &out), IsOk());
  ASSERT_EQ(out.size(), 2u);
  EXPECT_EQ(out[0], WholeBox(5, 3, 0));
}

TEST(TargetsOverlap, IsTrueExactlyWhenAnElementIsShared) {
  Random random(Seed());
  int shared = 0;
  for (int round = 0; round < 5000; ++round) {
    const Box a = RandomBox(&random, 3, 6);
    const Box b = RandomBox(&random, 3, 6);
    bool expected = false;
    std::vector<Element> both = Elements(std::vector<Box>{a, b});
    for (size_t i = 1; i < both.size(); ++i) {
      expected = expected || both[i - 1].target == both[i].target;
    }
    ASSERT_EQ(TargetsOverlap(a, b), expected);
    shared += expected ? 1 : 0;
  }
  EXPECT_GT(shared, 250);
  EXPECT_LT(shared, 4750);
}

TEST(TargetsOverlap, AnswersForHugeBoxesAtOnce) {
  const int64_t rows = 1 << 20;
  const Box even = BoxOf(0, 0, 0, {{rows, 1 << 16, 1 << 17}, {1 << 16, 1, 1}});
  Box odd = even;
  odd.target_offset = 1 << 16;
  EXPECT_FALSE(TargetsOverlap(even, odd));
  --odd.target_offset;
  EXPECT_TRUE(TargetsOverlap(even, odd));
}

TEST(MergeBoxes, KeepsTheJointEffect) {
  Random random(Seed());
  for (int round = 0; round < 3000; ++round) {
    Tensor tensor = RandomTensor(&random, 3);
    std::vector<Box> parts;
    for (const Box& box : tensor.boxes) {
      const int64_t cut = random.Between(box.target_offset, TargetEnd(box));
      SliceTarget(box, 0, cut, &parts);
      SliceTarget(box, cut, TargetEnd(box), &parts);
    }
    random.Shuffle(&parts);
    MergeBoxes(&parts);
    ASSERT_EQ(Elements(parts), Expected(tensor));
    for (size_t k = 1; k < parts.size(); ++k) {
      ASSERT_LT(parts[k - 1].target_offset, parts[k].target_offset);
    }
    for (const Box& box : parts) ASSERT_TRUE(IsCanonical(box));
  }
}

TEST(MergeBoxes, JoinsTheSlicesOfARun) {
  std::vector<Box> parts;
  for (int64_t begin = 0; begin < 100; begin += 7) {
    SliceTarget(WholeBox(0, 100, 0), begin, std::min<int64_t>(100, begin + 7), &parts);
  }
  std::reverse(parts.begin(), parts.end());
  MergeBoxes(&parts);
  ASSERT_EQ(parts.size(), 1u);
  EXPECT_EQ(parts[0], WholeBox(0, 100, 0));
}

TEST(MergeBoxes, JoinsTheRowsOfABlock) {
  std::vector<Box> rows;
  for (int64_t row = 0; row < 7; ++row) rows.push_back(BoxOf(0, 40 * row, 9 * row, {{5, 1, 1}}));
  MergeBoxes(&rows);
  ASSERT_EQ(rows.size(), 1u);
  EXPECT_EQ(rows[0], BoxOf(0, 0, 0, {{7, 40, 9}, {5, 1, 1}}));
}

}  // namespace
}  // namespace zerocast
