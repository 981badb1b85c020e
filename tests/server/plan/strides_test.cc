// Sources whose elements do not lie in row-major order, and files that are listed more than once.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/copy/algebra.h"
#include "server/base/errors.h"
#include "server/plan/plan.h"
#include "server/plan/schedule.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr DType kF32 = DType::kFloat32;

// One tensor of six floats, three columns one behind the other.
std::shared_ptr<Manifest> Columns() {
  auto manifest = std::make_shared<Manifest>();
  manifest->files = {{"pytorch_model.bin", 100}};
  manifest->tensors = {{{"w", kF32, {2, 3}, {1, 2}}, 0, 8, 32}};
  return manifest;
}

Layout TwoNodes() {
  Layout layout;
  layout.world_size = 2;
  layout.num_nodes = 2;
  layout.node_of_rank = {0, 1};
  layout.read_mode = ReadMode::kLocal;
  return layout;
}

absl::StatusOr<Plan> Compile(std::shared_ptr<const Manifest> manifest) {
  Report report;
  return CompilePlan(std::move(manifest), nullptr, {}, TwoNodes(), &report);
}

TEST(CheckedReach, CountsElementsAndGaps) {
  int64_t reach = 0;
  const auto reaches = [&reach](std::vector<int64_t> shape, std::vector<int64_t> strides) {
    return CheckedReach(shape, strides, &reach) ? reach : -1;
  };
  EXPECT_EQ(reaches({2, 3}, {}), 6);
  EXPECT_EQ(reaches({2, 0}, {}), 0);
  EXPECT_EQ(reaches({}, {}), 1);
  EXPECT_EQ(reaches({2, 3}, {1, 2}), 6);
  EXPECT_EQ(reaches({2, 3}, {5, 1}), 8);
  EXPECT_EQ(reaches({2, 1, 3}, {5, 0, 1}), 8);
  EXPECT_EQ(reaches({2, 3}, {0, 1}), -1);
  EXPECT_EQ(reaches({2, 3}, {2, 1}), -1);
  EXPECT_EQ(reaches({2, 3}, {3}), -1);
  EXPECT_EQ(reaches({2, 0}, {3, 1}), -1);
  EXPECT_EQ(reaches({2, 3}, {-3, 1}), -1);
  EXPECT_EQ(reaches({-2}, {}), -1);
  EXPECT_EQ(reaches({int64_t{1} << 32, int64_t{1} << 32}, {}), -1);
  EXPECT_EQ(reaches({3, int64_t{1} << 31}, {int64_t{1} << 62, int64_t{1} << 31}), -1);
}

TEST(StridedSource, IsReadByItsStrides) {
  ZC_ASSERT_OK_AND_ASSIGN(const Plan plan, Compile(Columns()));
  ASSERT_EQ(plan.targets.size(), 1u);
  EXPECT_THAT(plan.targets[0].shape, ElementsAre(2, 3));
  const BoxDim dims[] = {{2, 1, 3}, {3, 2, 1}};
  ZC_ASSERT_OK_AND_ASSIGN(const Box box, MakeBox(0, 0, 0, dims));
  EXPECT_THAT(plan.targets[0].boxes, ElementsAre(box));
}

TEST(StridedSource, ChangesTheDigest) {
  ZC_ASSERT_OK_AND_ASSIGN(Plan plan, Compile(Columns()));
  const std::string digest = PlanDigest(plan);
  auto other = Columns();
  other->tensors[0].tensor.strides = {1, 3};
  plan.manifest = other;
  EXPECT_NE(PlanDigest(plan), digest);
}

TEST(StridedSource, MustReachAsFarAsItsBytes) {
  for (const std::vector<int64_t>& strides :
       {std::vector<int64_t>{4, 1}, {1, 1}, {0, 1}, {1}, {-1, 2}}) {
    ZC_ASSERT_OK_AND_ASSIGN(Plan plan, Compile(Columns()));
    auto other = Columns();
    other->tensors[0].tensor.strides = strides;
    plan.manifest = other;
    EXPECT_THAT(ProvePlan(plan), StatusIs(absl::StatusCode::kDataLoss,
                                          HasSubstr("source 'w' of shape (2, 3), strides (")));
  }
}

TEST(StridedSource, WithTooManyLoopsIsRefusedByName) {
  auto manifest = Columns();
  manifest->files[0].num_bytes = 4000;
  manifest->tensors[0] = {
      {"w", kF32, {2, 2, 2, 2, 2, 2, 2}, {1, 3, 9, 27, 81, 243, 729}}, 0, 8, 8 + 4 * 1094};
  manifest->files[0].num_bytes = 8 + 4 * 1094;
  EXPECT_THAT(Compile(manifest),
              StatusIs(absl::StatusCode::kUnimplemented,
                       ::testing::AllOf(HasSubstr("convert 'w' in pytorch_model.bin: "),
                                        HasSubstr("save it again after .contiguous()"))));
}

TEST(StridedSource, ThatIsNoneIsBadInput) {
  auto manifest = Columns();
  manifest->tensors[0].tensor.strides = {1, 1};
  EXPECT_THAT(Compile(manifest), StatusIs(absl::StatusCode::kInvalidArgument,
                                          HasSubstr("strides [1, 1] of shape [2, 3]")));
}

// Two names of the same bytes: the file has two entries, and both targets are read.
TEST(SharedBytes, GoToBothTargets) {
  auto manifest = Columns();
  manifest->files.push_back(manifest->files[0]);
  manifest->tensors.push_back({{"tied", kF32, {6}}, 1, 8, 32});
  ZC_ASSERT_OK_AND_ASSIGN(Plan plan, Compile(manifest));
  ASSERT_EQ(plan.targets.size(), 2u);
  ZC_ASSERT_OK_AND_ASSIGN(const Schedule schedule, Schedule::Create(plan));
  EXPECT_GE(schedule.ReadBytes(0) + schedule.ReadBytes(1), 48);
  // Within one entry they are refused.
  auto same = std::make_shared<Manifest>(*manifest);
  same->tensors[1].file = 0;
  plan.manifest = same;
  EXPECT_THAT(ProvePlan(plan), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("share bytes")));
}

}  // namespace
}  // namespace zerocast
