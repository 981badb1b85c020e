// The coverage proof: it accepts what covers and refuses everything else, naming the place.

#include <algorithm>
#include <map>
#include <vector>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/copy/algebra.h"
#include "tests/kernels/copy/naive.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using copy_testing::Element;
using copy_testing::Elements;
using copy_testing::Random;
using copy_testing::RandomTensor;
using copy_testing::Seed;
using copy_testing::Tensor;
using ::testing::AllOf;
using ::testing::HasSubstr;

Box BoxOf(int32_t source, int64_t target_offset, const std::vector<BoxDim>& dims) {
  return MakeBox(source, 0, target_offset, dims).value();
}

auto IsRefused(const std::string& what) {
  return StatusIs(absl::StatusCode::kDataLoss, HasSubstr(what));
}

// The first element of [0, num_elements) not written once, or one written outside; -1 if none.
int64_t FirstWrong(const std::vector<Box>& boxes, int64_t num_elements) {
  std::map<int64_t, int> writes;
  for (const Element& element : Elements(boxes)) ++writes[element.target];
  for (int64_t place = 0; place < num_elements; ++place) {
    const auto found = writes.find(place);
    if (found == writes.end() || found->second != 1) return place;
  }
  return writes.size() == static_cast<size_t>(num_elements) ? -1 : num_elements;
}

// A valid covering by several boxes: a random chain of operations, some of its boxes cut up.
std::vector<Box> RandomCovering(Random* random, int64_t* num_elements) {
  for (;;) {
    const Tensor tensor = RandomTensor(random, 3);
    *num_elements = tensor.num_elements();
    std::vector<Box> boxes;
    for (const Box& box : tensor.boxes) {
      const int64_t cut = random->Between(box.target_offset, TargetEnd(box));
      SliceTarget(box, 0, cut, &boxes);
      SliceTarget(box, cut, TargetEnd(box), &boxes);
    }
    random->Shuffle(&boxes);
    if (boxes.size() > 1) return boxes;
  }
}

// Whether no element of the target is written twice by `box` alone, as every Box promises.
bool IsNested(const Box& box) {
  int64_t inner_end = 1;
  for (int k = box.num_dims - 1; k >= 0; --k) {
    if (box.dims[k].extent < 2 || box.dims[k].target_stride < inner_end) return false;
    inner_end = box.dims[k].extent * box.dims[k].target_stride;
  }
  return true;
}

// Gives one loop of `box` a step more or less, or its target stride an element; the box stays a
// box.  False, and nothing is changed, when no draw did.
bool ChangeALoop(Random* random, bool extent, int64_t by, Box* box) {
  for (int draw = 0; draw < 8 && box->num_dims > 0; ++draw) {
    Box changed = *box;
    BoxDim& dim = changed.dims[random->Between(0, box->num_dims - 1)];
    (extent ? dim.extent : dim.target_stride) += by;
    if (!IsNested(changed)) continue;
    *box = changed;
    return true;
  }
  return false;
}

TEST(Coverage, OneDamagedBoxOfManyIsRefused) {
  Random random(Seed());
  int by_kind[6] = {};
  for (int round = 0; round < 10000; ++round) {
    int64_t num_elements = 0;
    std::vector<Box> boxes = RandomCovering(&random, &num_elements);
    ASSERT_THAT(ProveCoverage(boxes, num_elements), IsOk());
    const int64_t victim = random.Between(0, static_cast<int64_t>(boxes.size()) - 1);
    const int64_t up_or_down = random.Between(0, 1) == 0 ? 1 : -1;
    switch (round % 6) {
      case 0:
        boxes.erase(boxes.begin() + victim);
        break;
      case 1: {
        const int64_t by = random.Between(1, 3);
        boxes[victim].target_offset += random.Between(0, 1) == 0 ? by : -by;
        break;
      }
      case 2:
        boxes.push_back(boxes[victim]);
        break;
      case 3:
        if (!ChangeALoop(&random, /*extent=*/true, up_or_down, &boxes[victim])) continue;
        break;
      case 4:
        if (!ChangeALoop(&random, /*extent=*/false, up_or_down, &boxes[victim])) continue;
        break;
      default: {  // a step of one box goes to another
        const int64_t heir = random.Between(0, static_cast<int64_t>(boxes.size()) - 1);
        if (heir == victim || !ChangeALoop(&random, /*extent=*/true, -1, &boxes[victim]) ||
            !ChangeALoop(&random, /*extent=*/true, 1, &boxes[heir]) ||
            FirstWrong(boxes, num_elements) < 0) {
          continue;
        }
        break;
      }
    }
    ++by_kind[round % 6];
    const absl::Status status = ProveCoverage(boxes, num_elements);
    ASSERT_THAT(status, IsRefused("elements ["));
    const bool outside = std::any_of(boxes.begin(), boxes.end(), [&](const Box& box) {
      return box.target_offset < 0 || TargetEnd(box) > num_elements;
    });
    if (outside) {
      ASSERT_THAT(status, IsRefused("outside"));
    } else {
      ASSERT_THAT(status,
                  IsRefused("elements [" + std::to_string(FirstWrong(boxes, num_elements)) + ", "));
    }
  }
  for (const int count : by_kind) EXPECT_GT(count, 50);
}

TEST(Coverage, BoxesThatInterleaveWithUnequalNumbersOfStepsAreRefused) {
  // Read as steps of one loop they would seem to fill [0, 10) and so all 37 elements.
  const std::vector<Box> boxes = {BoxOf(0, 0, {{3, 4, 10}, {4, 1, 1}}),
                                  BoxOf(1, 4, {{4, 3, 10}, {3, 1, 1}}),
                                  BoxOf(2, 17, {{2, 3, 10}, {3, 1, 1}})};
  EXPECT_EQ(FirstWrong(boxes, 37), 7);
  EXPECT_THAT(ProveCoverage(boxes, 37), IsRefused("elements [7, 10) are written by no source"));
}

TEST(Coverage, NamesAGapAndItsNeighbours) {
  const std::vector<Box> boxes = {WholeBox(4, 10, 0), WholeBox(5, 10, 12)};
  EXPECT_THAT(ProveCoverage(boxes, 22), IsRefused("elements [10, 12) are written by no source; "
                                                  "beside them write sources 4 and 5"));
}

TEST(Coverage, NamesAGapAtTheEndAndInAnEmptyList) {
  EXPECT_THAT(ProveCoverage(std::vector<Box>{WholeBox(4, 10, 0)}, 22),
              IsRefused("elements [10, 22) are written by no source; beside them write source 4"));
  EXPECT_THAT(ProveCoverage({}, 22), IsRefused("elements [0, 22) are written by no source"));
  EXPECT_THAT(ProveCoverage({}, 0), IsOk());
}

TEST(Coverage, NamesAnOverlapAndItsSources) {
  const std::vector<Box> boxes = {WholeBox(4, 10, 0), WholeBox(5, 10, 7)};
  EXPECT_THAT(ProveCoverage(boxes, 17),
              IsRefused("elements [7, 10) are written twice, by sources 4 and 5"));
}

TEST(Coverage, NamesAWriteOutside) {
  EXPECT_THAT(ProveCoverage(std::vector<Box>{WholeBox(4, 10, 0)}, 8),
              IsRefused("elements [8, 10) outside the target are written by source 4"));
  EXPECT_THAT(ProveCoverage(std::vector<Box>{WholeBox(4, 10, -2)}, 8),
              IsRefused("elements [-2, 0) outside the target are written by source 4"));
}

TEST(Coverage, AGapAndAnOverlapOfOneSizeDoNotCancel) {
  const std::vector<Box> boxes = {WholeBox(0, 4, 0), WholeBox(1, 4, 3), WholeBox(2, 4, 8)};
  EXPECT_THAT(ProveCoverage(boxes, 12), IsRefused("elements [3, 4) are written twice"));
}

TEST(Coverage, InterleavedBoxesOfDifferentLoopsAreProved) {
  // Even rows by one box, odd rows by two of half the length.
  const std::vector<Box> boxes = {BoxOf(0, 0, {{8, 10, 20}, {10, 1, 1}}),
                                  BoxOf(1, 10, {{4, 10, 20}, {10, 1, 1}}),
                                  BoxOf(2, 90, {{4, 10, 20}, {10, 1, 1}})};
  EXPECT_THAT(ProveCoverage(boxes, 160), IsOk());
  std::vector<Box> shifted = boxes;
  shifted[2].target_offset = 91;
  EXPECT_THAT(ProveCoverage(shifted, 171), IsRefused("elements [90, 91) are written by no source"));
}

TEST(Coverage, ATargetOfManyElementsIsProvedWithoutVisitingThem) {
  // 1e11 elements: a transposed box an expert, and one fused on top of another.
  const int64_t rows = 10000;
  const int64_t columns = 20000;
  std::vector<Box> boxes;
  for (int32_t expert = 0; expert < 500; ++expert) {
    boxes.push_back(
        MakeBox(expert, 0, expert * rows * columns, {{rows, 1, columns}, {columns, rows, 1}})
            .value());
  }
  EXPECT_THAT(ProveCoverage(boxes, 500 * rows * columns), IsOk());
  std::vector<Box> fused;
  for (int32_t expert = 0; expert < 500; ++expert) {
    for (int32_t half = 0; half < 2; ++half) {
      fused.push_back(BoxOf(2 * expert + half, expert * rows * columns + half * columns / 2,
                            {{rows, columns / 2, columns}, {columns / 2, 1, 1}}));
    }
  }
  EXPECT_THAT(ProveCoverage(fused, 500 * rows * columns), IsOk());
  fused[700].target_offset += 1;
  EXPECT_THAT(ProveCoverage(fused, 500 * rows * columns),
              IsRefused("elements [70000000000, 70000000001) are written by no source"));
}

}  // namespace
}  // namespace zerocast
