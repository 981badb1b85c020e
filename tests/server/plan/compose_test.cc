// Plans of checkpoints that a training engine saved: weights and optimizer states at any world
// size.

#include "server/plan/compose.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/copy/algebra.h"
#include "server/base/errors.h"
#include "server/plan/flat_group.h"
#include "server/plan/schedule.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr DType kBF16 = DType::kBFloat16;
constexpr DType kF32 = DType::kFloat32;

// Two ranks of ZeRO-3 saved a (5 elements) and b (2), each with a master and one moment, a frozen
// parameter of 3 and a buffer of 1: flats a[0,3) b[0,1) and a[3,5), a gap of the padding, b[1,2).
Manifest TwoRanksManifest() {
  Manifest manifest;
  manifest.files = {{"t/rank0.pt", 1000, 0, 1}, {"t/rank1.pt", 1000, 0, 2}};
  int64_t at = 0;
  const auto add = [&](const std::string& name, DType dtype, int64_t elements, int32_t file) {
    manifest.tensors.push_back(
        {{name, dtype, {elements}}, file, at, at + elements * SizeOf(dtype)});
    at += elements * SizeOf(dtype);
  };
  add("fp32 of rank 0", kF32, 4, 0);
  add("exp_avg of rank 0", kF32, 4, 0);
  add("frozen", kBF16, 3, 0);
  add("buffer", kF32, 1, 0);
  at = 0;
  add("fp32 of rank 1", kF32, 4, 1);
  add("exp_avg of rank 1", kF32, 4, 1);
  EngineCheckpoint& engine = manifest.engine.emplace();
  engine.tag = "t";
  engine.stage = 3;
  engine.world_size = 2;
  engine.global_steps = 7;
  engine.states = {"fp32", "exp_avg"};
  engine.flats = {{0, 1}, {4, 5}};
  const auto weight = [&](const std::string& name, std::vector<int64_t> shape) -> EngineWeight& {
    EngineWeight& added = engine.weights.emplace_back();
    added.name = name;
    added.shape = std::move(shape);
    added.dtype = kBF16;
    return added;
  };
  EngineWeight& a = weight("a", {5});
  a.group = a.place = 0;
  a.aliases = {"tied"};
  a.in_states = {{0, 0, 3}, {1, 0, 2}};
  weight("frozen", {3}).stored = {{2, 0, 3}};
  EngineWeight& b = weight("b", {2});
  b.group = 0;
  b.place = 1;
  b.in_states = {{0, 3, 1}, {1, 3, 1}};
  EngineWeight& buffer = weight("buffer", {});
  buffer.dtype = kF32;
  buffer.is_buffer = true;
  buffer.stored = {{3, 0, 1}};
  return manifest;
}

Layout Ranks(int32_t world_size, int32_t stage = 3) {
  Layout layout;
  layout.world_size = world_size;
  layout.num_nodes = 1;
  layout.node_of_rank = PlaceRanks(world_size, 1);
  layout.zero_stage = stage;
  return layout;
}

absl::StatusOr<Plan> Compile(Manifest manifest, const Layout& layout,
                             const ModelSpec* spec = nullptr, Report* report = nullptr) {
  return CompilePlan(std::make_shared<const Manifest>(std::move(manifest)), spec, {}, layout,
                     report);
}

std::vector<std::string> Names(const Plan& plan) {
  std::vector<std::string> names;
  for (const Target& target : plan.targets) names.push_back(target.name);
  return names;
}

const Target& Find(const Plan& plan, const std::string& name) {
  for (const Target& target : plan.targets) {
    if (target.name == name) return target;
  }
  ADD_FAILURE() << "no target " << name;
  return plan.targets[0];
}

TEST(ComposeTest, PutsWeightsAndStatesTogetherUnderZero3) {
  Report report;
  ZC_ASSERT_OK_AND_ASSIGN(const Plan plan, Compile(TwoRanksManifest(), Ranks(3), nullptr, &report));
  EXPECT_THAT(Names(plan),
              ElementsAre("a", "frozen", "b", "buffer", "optimizer/fp32/a", "optimizer/fp32/b",
                          "optimizer/exp_avg/a", "optimizer/exp_avg/b"));
  const Target& a = Find(plan, "a");
  EXPECT_EQ(a.dtype, kBF16);
  EXPECT_TRUE(a.partitioned);
  EXPECT_THAT(a.aliases, ElementsAre("tied"));
  ASSERT_EQ(a.boxes.size(), 2u);
  EXPECT_EQ(a.boxes[1].source, 4);
  EXPECT_EQ(a.boxes[1].target_offset, 3);
  const Target& master = Find(plan, "optimizer/fp32/a");
  EXPECT_TRUE(master.is_state);
  EXPECT_EQ(master.dtype, kF32);
  EXPECT_EQ(master.partition_elements, 2);
  EXPECT_EQ(master.boxes, a.boxes);
  EXPECT_EQ(Find(plan, "optimizer/exp_avg/b").boxes[0].source, 1);
  EXPECT_FALSE(Find(plan, "buffer").partitioned);
  EXPECT_FALSE(report.missing_unknown);
  EXPECT_FALSE(report.rules_unknown);
  ASSERT_TRUE(report.engine.has_value());
  EXPECT_EQ(report.engine->global_steps, 7);
  EXPECT_THAT(report.engine->states, ElementsAre("fp32", "exp_avg"));
}

TEST(ComposeTest, ReadsEachByteOnceAlthoughMastersGoToTwoPlaces) {
  Layout layout = Ranks(4);
  layout.num_nodes = 2;
  layout.node_of_rank = PlaceRanks(4, 2);
  ZC_ASSERT_OK_AND_ASSIGN(const Plan plan, Compile(TwoRanksManifest(), layout));
  ZC_ASSERT_OK_AND_ASSIGN(const Schedule schedule, Schedule::Create(plan));
  // Four flat tensors of 16 bytes, 6 of the frozen one, 4 of the buffer.
  EXPECT_EQ(schedule.ReadBytes(0) + schedule.ReadBytes(1), 74);
}

TEST(ComposeTest, CutsAGroupIntoEqualPartsBelowZero3) {
  Manifest manifest = TwoRanksManifest();
  manifest.engine->parameter_alignment = true;  // to 8 elements of two bytes
  manifest.engine->round_robin_gradients = true;
  ZC_ASSERT_OK_AND_ASSIGN(const Plan plan, Compile(manifest, Ranks(3, 2)));
  EXPECT_FALSE(Find(plan, "a").partitioned);
  const Target& group = Find(plan, "optimizer/fp32/0");
  EXPECT_TRUE(group.is_state);
  EXPECT_TRUE(group.partitioned);
  EXPECT_THAT(group.shape, ElementsAre(12));  // a and 3, b, then to a multiple of 6
  EXPECT_EQ(group.partition_elements, 4);
  EXPECT_THAT(group.aliases, ElementsAre("a", "b"));
  ASSERT_EQ(group.gaps.size(), 2u);
  EXPECT_EQ(group.gaps[0].offset, 5);
  EXPECT_EQ(group.gaps[0].num_elements, 3);
  EXPECT_EQ(group.gaps[1].offset, 10);
  // The config of the engine that takes it counts.
  Layout layout = Ranks(3, 1);
  layout.parameter_alignment = false;
  ZC_ASSERT_OK_AND_ASSIGN(const Plan dense, Compile(manifest, layout));
  EXPECT_THAT(Find(dense, "optimizer/fp32/0").shape, ElementsAre(12));
  EXPECT_EQ(Find(dense, "optimizer/fp32/0").gaps[0].offset, 7);
}

TEST(ComposeTest, LoadsTheWeightsAlone) {
  Layout layout = Ranks(2);
  layout.weights_only = true;
  Report report;
  ZC_ASSERT_OK_AND_ASSIGN(const Plan plan, Compile(TwoRanksManifest(), layout, nullptr, &report));
  EXPECT_THAT(Names(plan), ElementsAre("a", "frozen", "b", "buffer"));
  EXPECT_THAT(report.engine->states, IsEmpty());
  layout.dtype = DTypePolicy::kFloat32;
  ZC_ASSERT_OK_AND_ASSIGN(const Plan wide, Compile(TwoRanksManifest(), layout));
  EXPECT_EQ(Find(wide, "a").dtype, kF32);
}

TEST(ComposeTest, SaysWhatTheModelLacksAndWhatItHasMore) {
  ModelSpec spec;
  spec.params = {{"tied", {5}, kBF16}, {"more", {1}, kBF16}, {"frozen", {3}, kBF16}};
  Layout layout = Ranks(2);
  Report report;
  EXPECT_THAT(Compile(TwoRanksManifest(), layout, &spec, &report),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("more")));
  layout.allow_missing = {"more"};
  ZC_ASSERT_OK_AND_ASSIGN(const Plan plan, Compile(TwoRanksManifest(), layout, &spec, &report));
  EXPECT_THAT(report.missing, ElementsAre("more"));
  EXPECT_THAT(report.unexpected, ElementsAre("b", "buffer"));
  EXPECT_THAT(Names(plan), ElementsAre("tied", "more", "frozen", "optimizer/fp32/tied",
                                       "optimizer/exp_avg/tied"));
  spec.params[0].shape = {1, 5};
  layout.ignore_mismatched = true;
  const auto misfit = Compile(TwoRanksManifest(), layout, &spec, &report);
  EXPECT_THAT(misfit, StatusIs(absl::StatusCode::kFailedPrecondition,
                               AllOf(HasSubstr("--no-optimizer"), HasSubstr("(a)"))));
  EXPECT_EQ(ReasonOf(misfit.status()), "WEIGHTS_INCOMPLETE");
}

TEST(ComposeTest, ReportsFrozenParametersThatWereNotSaved) {
  Manifest manifest = TwoRanksManifest();
  manifest.engine->weights[1].stored.clear();
  Report report;
  EXPECT_THAT(Compile(manifest, Ranks(2), nullptr, &report),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("frozen")));
  EXPECT_THAT(report.missing, ElementsAre("frozen"));
}

TEST(ComposeTest, RefusesPiecesThatAreNone) {
  const std::vector<void (*)(EngineCheckpoint*)> changes = {
      [](EngineCheckpoint* e) { e->weights[0].in_states[0].flat = 2; },
      [](EngineCheckpoint* e) { e->weights[0].in_states[0].num_elements = 2; },
      [](EngineCheckpoint* e) { e->weights[0].in_states[0].flat_offset = 2; },
      [](EngineCheckpoint* e) { e->weights[1].stored[0].tensor = 6; },
      [](EngineCheckpoint* e) { e->weights[1].stored[0].tensor_offset = -1; },
      [](EngineCheckpoint* e) { e->flats[0] = {}; },
  };
  for (const auto& change : changes) {
    Manifest manifest = TwoRanksManifest();
    change(&*manifest.engine);
    EXPECT_THAT(Compile(manifest, Ranks(2)),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("")));
  }
  // Two weights of one master's elements.
  Manifest manifest = TwoRanksManifest();
  manifest.engine->weights[2].in_states[0].flat_offset = 2;
  EXPECT_THAT(Compile(manifest, Ranks(2)),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("both read elements")));
}

TEST(ProveStates, FindsWrongGapsAndStatesThatMeet) {
  ZC_ASSERT_OK_AND_ASSIGN(const Plan plan, Compile(TwoRanksManifest(), Ranks(3, 1)));
  const auto index = static_cast<size_t>(&Find(plan, "optimizer/fp32/0") - plan.targets.data());
  const auto refuses = [&](auto change) {
    Plan changed = plan;
    change(&changed.targets[index], &changed);
    return !ProvePlan(changed).ok();
  };
  EXPECT_THAT(ProvePlan(plan), IsOk());
  EXPECT_TRUE(refuses([](Target* t, Plan*) { t->gaps.clear(); }));
  EXPECT_TRUE(refuses([](Target* t, Plan*) { t->gaps[0].offset--; }));
  EXPECT_TRUE(refuses([](Target* t, Plan*) { t->gaps[0].num_elements++; }));
  EXPECT_TRUE(refuses([](Target* t, Plan*) { t->gaps.push_back({-1, 1}); }));
  // The moments' boxes read the masters: two states of one element.
  EXPECT_TRUE(refuses([index](Target* t, Plan* p) { p->targets[index + 1].boxes = t->boxes; }));
}

TEST(LayOutFlatGroup, FollowsTheEngine) {
  FlatGroup group;
  ASSERT_TRUE(LayOutFlatGroup({3, 4, 5, 6}, {2, true, 1}, &group));
  EXPECT_THAT(group.offsets, ElementsAre(0, 8, 3, 12));  // 0, 2, 1, 3
  EXPECT_EQ(group.num_elements, 20);
  ASSERT_TRUE(LayOutFlatGroup({3, 4, 5, 6}, {3, true, 4}, &group));
  EXPECT_THAT(group.offsets, ElementsAre(0, 12, 16, 4));  // 0, 3, 1, 2
  EXPECT_EQ(group.num_elements, 24);
  ASSERT_TRUE(LayOutFlatGroup({}, {3, true, 4}, &group));
  EXPECT_EQ(group.num_elements, 0);
  EXPECT_FALSE(LayOutFlatGroup({int64_t{1} << 60, int64_t{1} << 60}, {1, false, 1}, &group));
  EXPECT_THAT(FlatOrder(5, 2, true), ElementsAre(0, 2, 4, 1, 3));
  EXPECT_THAT(FlatOrder(3, 2, false), ElementsAre(0, 1, 2));
  EXPECT_THAT(FlatOrder(2, 8, true), ElementsAre(0, 1));
}

}  // namespace
}  // namespace zerocast
