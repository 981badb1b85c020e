// A plan with anything wrong in it is refused.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/copy/algebra.h"
#include "server/base/errors.h"
#include "server/plan/plan.h"
#include "tests/server/plan/random_plan.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// A number of a target that has boxes; -1 when none has.
int64_t PickFilled(const Plan& plan, Random* random) {
  std::vector<int64_t> filled;
  for (size_t t = 0; t < plan.targets.size(); ++t) {
    if (!plan.targets[t].boxes.empty()) filled.push_back(static_cast<int64_t>(t));
  }
  if (filled.empty()) return -1;
  return filled[random->Between(0, static_cast<int64_t>(filled.size()) - 1)];
}

// Changes one loop of a box: steps, source or target stride.  No box with other loops writes, or
// reads, the same elements.  Says what it did.
std::string DamageLoop(Box* box, Random* random) {
  const int64_t k = random->Between(0, box->num_dims - 1);
  BoxDim& dim = box->dims[k];
  const int64_t by = random->OneIn(2) ? 1 : -1;
  const std::string what = " of loop " + std::to_string(k) + " by " + std::to_string(by) + " in ";
  switch (random->Between(0, 2)) {
    case 0:
      dim.extent += by;
      return "changed the steps" + what;
    case 1:
      dim.target_stride += by;
      return "changed the target stride" + what;
    default:
      dim.source_stride += by;
      return "changed the source stride" + what;
  }
}

// Deletes, shifts or doubles one box, or changes one of its loops; says which.
std::string Damage(Target* target, Random* random) {
  std::vector<Box>& boxes = target->boxes;
  const int64_t at = random->Between(0, static_cast<int64_t>(boxes.size()) - 1);
  int64_t by = random->Between(1, target->num_elements + 1);
  if (random->OneIn(2)) by = -by;
  const std::string what = "box " + std::to_string(at) + " of " + target->name;
  if (boxes[at].num_dims > 0 && random->OneIn(2)) return DamageLoop(&boxes[at], random) + what;
  switch (random->Between(0, 3)) {
    case 0:
      boxes.erase(boxes.begin() + at);
      return "deleted " + what;
    case 1:
      boxes[at].target_offset += by;
      return "shifted the target of " + what + " by " + std::to_string(by);
    case 2:
      boxes[at].source_offset += by;
      return "shifted the source of " + what + " by " + std::to_string(by);
    default:
      boxes.push_back(boxes[at]);
      return "doubled " + what;
  }
}

TEST(ProofTest, RefusesTenThousandDamagedPlans) {
  const uint64_t seed = TestSeed();
  int refused = 0;
  for (uint64_t i = 0; refused < 10000; ++i) {
    Random random(seed + i);
    const Layout layout = RandomLayout(&random);
    Plan plan = RandomPlan(&random, layout);  // proven
    const int64_t target = PickFilled(plan, &random);
    if (target < 0) continue;
    const std::string digest = plan.digest;
    const std::string damage = Damage(&plan.targets[target], &random);
    const absl::Status proof = ProvePlan(plan);
    ASSERT_EQ(proof.code(), absl::StatusCode::kDataLoss)
        << damage << ": " << proof << "; repeat with ZC_SEED=" << seed + i;
    ASSERT_EQ(ReasonOf(proof), "PLAN_REFUSED") << proof;
    ASSERT_NE(PlanDigest(plan), digest) << damage;
    ++refused;
  }
  std::printf("%d damaged plans refused\n", refused);
}

TEST(ProofTest, RefusesDamagedDecoders) {
  const uint64_t seed = TestSeed();
  int refused = 0;
  for (uint64_t i = 0; refused < 1000; ++i) {
    Random random(seed + i);
    const Layout layout = RandomLayout(&random);
    Plan plan = RandomPlan(&random, layout);
    if (plan.decoders.empty()) continue;
    SourceDecoder& source = plan.decoders[0];
    Decoder& form = source.decoder;
    const int64_t damage = random.Between(0, 9);
    switch (damage) {
      case 0:
        form.kind = static_cast<DecoderKind>((static_cast<int>(form.kind) + 1) % 4);
        if (form.kind == DecoderKind::kMxfp4) form.kind = DecoderKind::kPlain;
        break;
      case 1:
        form.stored = DType::kBFloat16;
        break;
      case 2:
        form.scale = DType::kFloat64;
        break;
      case 3:
        form.rows *= 5;
        break;
      case 4:
        form.cols += 1;
        break;
      case 5:
        form.block_cols += 1;
        form.block_rows += 1;
        form.rows += 1;
        break;
      case 6:
        form.matrix_scales += 1;
        break;
      case 7:
        source.scale = source.source;
        break;
      case 8:
        source.scale = static_cast<int32_t>(plan.manifest->tensors.size());
        break;
      default:  // the scales themselves go into a target
        for (Target& target : plan.targets) {
          for (Box& box : target.boxes) {
            if (box.source == source.source) box.source = source.scale;
          }
        }
        break;
    }
    const absl::Status proof = ProvePlan(plan);
    ASSERT_EQ(proof.code(), absl::StatusCode::kDataLoss)
        << "damage " << damage << ": " << proof << "; repeat with ZC_SEED=" << seed + i;
    ASSERT_EQ(ReasonOf(proof), "PLAN_REFUSED") << proof;
    ++refused;
  }
}

// One source of 6 elements in one target of shape (2, 3), two ranks.
Plan SmallPlan() {
  auto manifest = std::make_shared<Manifest>();
  manifest->files.push_back({"model.safetensors", 100, 0, 0});
  manifest->tensors.push_back({{"a", DType::kFloat32, {3}}, 0, 10, 22});
  manifest->tensors.push_back({{"b", DType::kFloat32, {3}}, 0, 22, 34});
  Plan plan;
  plan.manifest = manifest;
  plan.layout.world_size = 2;
  plan.layout.num_nodes = 1;
  plan.layout.node_of_rank = {0, 0};
  Target target;
  target.name = "w";
  target.shape = {2, 3};
  target.num_elements = 6;
  target.dtype = DType::kBFloat16;
  target.partitioned = true;
  target.partition_elements = 3;
  target.is_filled = true;
  target.boxes = {WholeBox(0, 3, 0), WholeBox(1, 3, 3)};
  plan.targets = {target};
  plan.arena_bytes = 64;
  return plan;
}

// The plan after `change` is refused with all of `parts` in the message.
template <typename Change>
void ExpectRefused(Change change, const std::string& part, const std::string& other = "") {
  Plan plan = SmallPlan();
  ASSERT_THAT(ProvePlan(plan), IsOk());
  change(&plan);
  EXPECT_THAT(ProvePlan(plan),
              StatusIs(absl::StatusCode::kDataLoss, AllOf(HasSubstr(part), HasSubstr(other))));
}

TEST(ProofTest, NamesTargetRangeAndSources) {
  ExpectRefused([](Plan* plan) { plan->targets[0].boxes.pop_back(); }, "target 'w'",
                "elements [3, 6)");
  ExpectRefused([](Plan* plan) { plan->targets[0].boxes.pop_back(); }, "source 0 is 'a'");
  ExpectRefused([](Plan* plan) { plan->targets[0].boxes[1].target_offset = 2; }, "elements [2, 3)",
                "source 0 is 'a', source 1 is 'b'");
}

TEST(ProofTest, RefusesABoxOutsideOfItsSource) {
  ExpectRefused([](Plan* plan) { plan->targets[0].boxes[1].source_offset = 1; }, "('b')",
                "reads outside of its 3 elements");
  ExpectRefused([](Plan* plan) { plan->targets[0].boxes[1].source_offset = -1; }, "('b')");
  ExpectRefused([](Plan* plan) { plan->targets[0].boxes[1].source = 2; },
                "a tensor that the manifest does not have");
  ExpectRefused([](Plan* plan) { plan->targets[0].boxes[1].source = -1; },
                "a tensor that the manifest does not have");
}

TEST(ProofTest, RefusesElementsThatGoToTwoPlaces) {
  ExpectRefused([](Plan* plan) { plan->targets[0].boxes[1].source = 0; },
                "both read elements of source 0 ('a')");
}

TEST(ProofTest, RefusesHostileNumbers) {
  constexpr int64_t kHuge = int64_t{1} << 62;
  ExpectRefused([](Plan* plan) { plan->targets[0].boxes[0].dims[0].extent = kHuge; }, "outside");
  ExpectRefused([](Plan* plan) { plan->targets[0].boxes[0].dims[0].source_stride = kHuge; },
                "outside");
  ExpectRefused([](Plan* plan) { plan->targets[0].boxes[0].dims[0].source_stride = 0; }, "twice");
  ExpectRefused([](Plan* plan) { plan->targets[0].boxes[0].dims[0].target_stride = -1; }, "twice");
  ExpectRefused([](Plan* plan) { plan->targets[0].boxes[0].num_dims = 7; }, "too many loops");
  ExpectRefused([](Plan* plan) { plan->targets[0].shape = {kHuge, 3}; }, "does not have");
  ExpectRefused([](Plan* plan) { plan->targets[0].arena_offset = kHuge; }, "leave the arena");
  ExpectRefused([](Plan* plan) { plan->layout.world_size = 0; }, "layout.world_size");
}

TEST(ProofTest, RefusesNumbersOfElementsThatPartitionsCouldOverflow) {
  // 2^63 - 1 elements fit 64 bits; the end of the last of seven partitions does not.
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  const auto resize = [](int64_t elements) {
    return [elements](Plan* plan) {
      Target& target = plan->targets[0];
      target.dtype = DType::kInt8;
      target.shape = {elements};
      target.num_elements = elements;
      plan->layout.world_size = 7;
      plan->layout.node_of_rank.assign(7, 0);
      target.partition_elements = elements / 7 + (elements % 7 != 0 ? 1 : 0);
      target.boxes.clear();
      target.is_filled = false;
      plan->arena_bytes = target.partition_elements;
    };
  };
  ExpectRefused(resize(kMost), "target 'w'", "does not have 9223372036854775807 elements");
  ExpectRefused(resize(int64_t{1} << 61), "target 'w'");
  Plan plan = SmallPlan();
  resize((int64_t{1} << 61) - 1)(&plan);
  EXPECT_THAT(ProvePlan(plan), IsOk());
  ExpectRefused([](Plan* p) { p->arena_bytes = kMost; }, "an arena of");
  ExpectRefused([](Plan* p) { p->arena_bytes = -kMost; }, "an arena of");
}

TEST(ProofTest, RefusesSourcesOutsideOfTheirFiles) {
  const auto change = [](std::function<void(Manifest*)> of_manifest) {
    return [of_manifest](Plan* plan) {
      Manifest manifest = *plan->manifest;
      of_manifest(&manifest);
      plan->manifest = std::make_shared<Manifest>(manifest);
    };
  };
  ExpectRefused(change([](Manifest* m) { m->files[0].num_bytes = 33; }),
                "source 'b' ends at byte 34 of 'model.safetensors', which has 33");
  ExpectRefused(change([](Manifest* m) { m->tensors[1].file = 1; }), "source 'b'", "of file 1");
  ExpectRefused(change([](Manifest* m) { m->tensors[1].file = -1; }), "source 'b'", "of file -1");
  Plan plan = SmallPlan();
  change([](Manifest* m) { m->files[0].num_bytes = 34; })(&plan);
  EXPECT_THAT(ProvePlan(plan), IsOk());
}

TEST(ProofTest, RefusesTypesThatCannotBeCast) {
  ExpectRefused([](Plan* plan) { plan->targets[0].dtype = DType::kInt16; },
                "cannot turn float32 into int16");
}

TEST(ProofTest, RefusesAFilledTargetWithoutBoxesAndTheReverse) {
  ExpectRefused([](Plan* plan) { plan->targets[0].boxes.clear(); }, "elements [0, 6)");
  ExpectRefused([](Plan* plan) { plan->targets[0].is_filled = false; }, "is not to be filled");
  Plan plan = SmallPlan();
  plan.targets[0].boxes.clear();
  plan.targets[0].is_filled = false;
  EXPECT_THAT(ProvePlan(plan), IsOk());
}

TEST(ProofTest, RefusesPartitionsThatDoNotFollowFromTheLayout) {
  ExpectRefused([](Plan* plan) { plan->targets[0].partition_elements = 4; }, "holds 3");
  ExpectRefused([](Plan* plan) { plan->targets[0].partitioned = false; }, "holds 6");
}

TEST(ProofTest, RefusesSecondaryPartitionsThatDoNotFollowFromTheLayout) {
  const auto with_groups = [](int64_t elements, int64_t offset) {
    return [elements, offset](Plan* plan) {
      plan->layout.hpz_partition_size = 2;
      plan->targets[0].secondary_elements = elements;
      plan->targets[0].secondary_offset = offset;
      plan->arena_bytes = 128;
    };
  };
  Plan plan = SmallPlan();
  with_groups(3, 64)(&plan);
  EXPECT_THAT(ProvePlan(plan), IsOk());
  ExpectRefused(with_groups(0, 0), "holds 3 of its 6 elements in its secondary partition, not 0");
  ExpectRefused(with_groups(6, 64), "secondary partition, not 6");
  ExpectRefused([](Plan* plan) { plan->targets[0].secondary_elements = 3; },
                "holds 0 of its 6 elements in its secondary partition");
  ExpectRefused(with_groups(3, 0), "share bytes of the arena");
  ExpectRefused(with_groups(3, 65), "are not aligned");
  ExpectRefused(with_groups(3, 128), "leave the arena");
  ExpectRefused(with_groups(3, -64), "leave the arena");
}

TEST(ProofTest, RefusesOverlapsInTheArena) {
  const auto second = [](int64_t offset) {
    Target target;
    target.name = "empty";
    target.shape = {33};
    target.num_elements = 33;
    target.dtype = DType::kFloat32;
    target.partition_elements = 33;
    target.arena_offset = offset;
    return target;
  };
  ExpectRefused(
      [&](Plan* plan) {
        plan->targets.push_back(second(0));
        plan->arena_bytes = 256;
      },
      "share bytes of the arena");
  ExpectRefused(
      [&](Plan* plan) {
        plan->targets.push_back(second(32));
        plan->arena_bytes = 256;
      },
      "not aligned");
  ExpectRefused([&](Plan* plan) { plan->targets.push_back(second(64)); }, "leave the arena");
}

TEST(ProofTest, RefusesSourcesThatShareBytes) {
  ExpectRefused(
      [](Plan* plan) {
        Manifest manifest = *plan->manifest;
        manifest.tensors[1].file_begin = 18;
        manifest.tensors[1].file_end = 30;
        plan->manifest = std::make_shared<Manifest>(manifest);
      },
      "share bytes of file 0");
}

}  // namespace
}  // namespace zerocast
