// From manifest and spec to a plan: what is filled, what is reported, what is refused.

#include "server/plan/plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "server/base/errors.h"
#include "server/plan/assemble.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

using Shape = std::vector<int64_t>;

// Tensors one behind the other in one file, from byte 8 on.
std::shared_ptr<const Manifest> MakeManifest(std::vector<SourceTensor> tensors) {
  auto manifest = std::make_shared<Manifest>();
  int64_t at = 8;
  for (SourceTensor& tensor : tensors) {
    int64_t bytes = SizeOf(tensor.dtype);
    for (const int64_t size : tensor.shape) bytes *= size;
    manifest->tensors.push_back({std::move(tensor), 0, at, at + bytes});
    at += bytes;
  }
  manifest->files.push_back({"model.safetensors", at, 0, 0});
  return manifest;
}

constexpr DType kBF16 = DType::kBFloat16;
constexpr DType kF32 = DType::kFloat32;

ModelSpec SmallSpec() {
  ModelSpec spec;
  spec.architecture = "M";
  spec.params = {{"embed.weight", {5, 2}, kBF16}, {"norm.weight", {2}, kBF16}};
  spec.buffers = {{"bias", {3}, kF32}};
  return spec;
}

std::vector<SourceTensor> SmallSources() {
  return {{"embed.weight", kBF16, {5, 2}}, {"norm.weight", kF32, {2}}, {"bias", kF32, {3}}};
}

Layout TwoRanks() {
  Layout layout;
  layout.world_size = 2;
  layout.num_nodes = 1;
  layout.node_of_rank = {0, 0};
  return layout;
}

class PlanTest : public ::testing::Test {
 protected:
  absl::StatusOr<Plan> Compile(std::vector<SourceTensor> sources) {
    return CompilePlan(MakeManifest(std::move(sources)), &spec_, mapping_, layout_, &report_);
  }

  ModelSpec spec_ = SmallSpec();
  std::vector<Rule> mapping_;
  Layout layout_ = TwoRanks();
  Report report_;
};

TEST_F(PlanTest, PlacesParametersThenBuffers) {
  ZC_ASSERT_OK_AND_ASSIGN(const Plan plan, Compile(SmallSources()));
  ASSERT_EQ(plan.targets.size(), 3u);
  const Target& embed = plan.targets[0];
  EXPECT_EQ(embed.name, "embed.weight");
  EXPECT_TRUE(embed.partitioned);
  EXPECT_EQ(embed.partition_elements, 5);
  EXPECT_EQ(embed.arena_offset, 0);
  const Target& norm = plan.targets[1];
  EXPECT_EQ(norm.dtype, kF32);  // as stored
  EXPECT_EQ(norm.partition_elements, 1);
  EXPECT_EQ(norm.arena_offset, 64);
  const Target& bias = plan.targets[2];
  EXPECT_TRUE(bias.is_buffer);
  EXPECT_FALSE(bias.partitioned);
  EXPECT_EQ(bias.partition_elements, 3);
  EXPECT_EQ(bias.arena_offset, 128);
  EXPECT_EQ(plan.arena_bytes, 192);
  EXPECT_EQ(plan.digest, PlanDigest(plan));
  EXPECT_THAT(ProvePlan(plan), IsOk());
}

TEST_F(PlanTest, StagesBelowThreeHoldParametersWhole) {
  layout_.zero_stage = 2;
  ZC_ASSERT_OK_AND_ASSIGN(const Plan plan, Compile(SmallSources()));
  EXPECT_FALSE(plan.targets[0].partitioned);
  EXPECT_EQ(plan.targets[0].partition_elements, 10);
}

TEST_F(PlanTest, HierarchicalPartitionsLieBehindAllTargets) {
  layout_.world_size = 4;
  layout_.node_of_rank.assign(4, 0);
  layout_.hpz_partition_size = 2;
  ZC_ASSERT_OK_AND_ASSIGN(const Plan plan, Compile(SmallSources()));
  const Target& embed = plan.targets[0];
  EXPECT_EQ(embed.partition_elements, 3);  // of 10, padded to 12
  EXPECT_EQ(embed.secondary_elements, 6);
  EXPECT_EQ(embed.secondary_offset, 192);
  const Target& norm = plan.targets[1];
  EXPECT_EQ(norm.secondary_elements, 2);
  EXPECT_EQ(norm.secondary_offset, 256);
  EXPECT_EQ(plan.targets[2].secondary_elements, 0) << "a buffer";
  EXPECT_EQ(plan.arena_bytes, 320);
  EXPECT_THAT(ProvePlan(plan), IsOk());

  layout_.hpz_partition_size = 8;  // DeepSpeed takes as many as there are
  ZC_ASSERT_OK_AND_ASSIGN(const Plan all, Compile(SmallSources()));
  EXPECT_EQ(all.targets[0].secondary_elements, 3);
  layout_.zero_stage = 2;
  ZC_ASSERT_OK_AND_ASSIGN(const Plan whole, Compile(SmallSources()));
  EXPECT_EQ(whole.targets[0].secondary_elements, 0);
}

TEST_F(PlanTest, GroupsThatDoNotDivideTheWorldAreRefused) {
  layout_.world_size = 4;
  layout_.node_of_rank.assign(4, 0);
  for (const int32_t size : {3, -1}) {
    layout_.hpz_partition_size = size;
    EXPECT_THAT(Compile(SmallSources()), StatusIs(absl::StatusCode::kInvalidArgument,
                                                  HasSubstr("layout.hpz_partition_size")));
  }
}

TEST_F(PlanTest, MoreRanksThanElementsAndNoElementsAtAll) {
  layout_.world_size = 8;
  layout_.node_of_rank.assign(8, 0);
  spec_.params.push_back({"empty", {0, 4}, kBF16});
  auto sources = SmallSources();
  sources.push_back({"empty", kBF16, {0, 4}});
  ZC_ASSERT_OK_AND_ASSIGN(const Plan plan, Compile(sources));
  EXPECT_EQ(plan.targets[1].partition_elements, 1);
  EXPECT_EQ(plan.targets[2].name, "empty");
  EXPECT_TRUE(plan.targets[2].is_filled);
  EXPECT_EQ(plan.targets[2].partition_elements, 0);
  EXPECT_EQ(plan.targets[3].arena_offset, plan.targets[2].arena_offset);
}

TEST(ArenaTest, IsRefusedBeforeItsNumbersOverflow) {
  const auto lay_out = [](std::vector<int64_t> elements, int32_t zero_stage) {
    Plan plan;
    plan.layout = TwoRanks();
    plan.layout.zero_stage = zero_stage;
    for (const int64_t count : elements) {
      Target& target = plan.targets.emplace_back();
      target.name = "w" + std::to_string(count);
      target.shape = {count};
      target.dtype = DType::kInt8;
    }
    return LayOutArena(&plan);
  };
  constexpr int64_t kLimit = int64_t{1} << 61;
  EXPECT_THAT(lay_out({kLimit - 1}, 3), IsOk());
  for (const int64_t count : {kLimit, std::numeric_limits<int64_t>::max()}) {
    EXPECT_THAT(lay_out({count}, 3), StatusIs(absl::StatusCode::kInvalidArgument,
                                              AllOf(HasSubstr("'w" + std::to_string(count) + "'"),
                                                    HasSubstr("2305843009213693952 bytes"))));
  }
  EXPECT_THAT(lay_out({kLimit / 2, kLimit / 4}, 0), IsOk());
  EXPECT_THAT(lay_out({kLimit / 2, kLimit / 2}, 0),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("lay out the arena")));
}

TEST_F(PlanTest, AllViolationsOfALayoutComeAtOnce) {
  layout_.world_size = 2;
  layout_.node_of_rank = {1, 0, 0};
  layout_.num_nodes = 2;
  layout_.zero_stage = 4;
  layout_.round_bytes = 1;
  layout_.allow_missing = {"("};
  const auto plan = Compile(SmallSources());
  ASSERT_THAT(plan, StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("layout.zero_stage")));
  std::vector<std::string> fields;
  for (const FieldViolation& violation : ViolationsOf(plan.status())) {
    fields.push_back(violation.field);
  }
  EXPECT_THAT(fields, ElementsAre("layout.node_of_rank", "layout.node_of_rank", "layout.zero_stage",
                                  "layout.round_bytes", "layout.allow_missing[0]"));
}

TEST_F(PlanTest, WorldSizeZeroIsRefused) {
  layout_.world_size = 0;
  layout_.node_of_rank.clear();
  EXPECT_THAT(Compile(SmallSources()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("layout.world_size")));
}

TEST_F(PlanTest, AContradictorySpecIsRefusedWithAllContradictions) {
  spec_.params.push_back({"bias", {3}, kF32});
  spec_.params.push_back({"huge", {int64_t{1} << 62, 8}, kBF16});
  spec_.tied = {{"a", "b"}, {"b", "a"}, {"c", "nowhere"}, {"norm.weight", "embed.weight"}};
  const auto plan = Compile(SmallSources());
  ASSERT_THAT(plan, StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("listed twice")));
  EXPECT_EQ(ViolationsOf(plan.status()).size(), 6u) << plan.status();
}

TEST_F(PlanTest, MissingWeightsStopTheLoadAndAreListed) {
  report_.dtype_reason = "default";
  const auto plan = Compile({{"norm.weight", kBF16, {2}}, {"extra", kBF16, {1}}});
  EXPECT_THAT(plan,
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr("2 missing: embed.weight, bias"), Not(HasSubstr("extra")))));
  EXPECT_EQ(ReasonOf(plan.status()), "WEIGHTS_INCOMPLETE");
  EXPECT_THAT(report_.missing, ElementsAre("embed.weight", "bias"));
  EXPECT_THAT(report_.unexpected, ElementsAre("extra"));
  EXPECT_EQ(report_.dtype_reason, "default");
}

TEST_F(PlanTest, AllowedMissingWeightsStayEmpty) {
  layout_.allow_missing = {"^embed", "ia"};
  ZC_ASSERT_OK_AND_ASSIGN(const Plan plan, Compile({{"norm.weight", kBF16, {2}}}));
  EXPECT_FALSE(plan.targets[0].is_filled);
  EXPECT_THAT(plan.targets[0].boxes, IsEmpty());
  EXPECT_EQ(plan.targets[0].dtype, kBF16);
  EXPECT_EQ(plan.targets[2].dtype, kF32);
  EXPECT_TRUE(plan.targets[1].is_filled);
  EXPECT_THAT(plan.report.missing, ElementsAre("embed.weight", "bias"));
}

TEST_F(PlanTest, ACatastrophicAllowancePatternIsBadInput) {
  layout_.allow_missing = {"(\\w+\\w+)+\\.$"};
  spec_.params[0].name = std::string(60, 'a') + ".x";
  const auto plan = Compile({{"norm.weight", kBF16, {2}}});
  EXPECT_THAT(plan, StatusIs(absl::StatusCode::kInvalidArgument,
                             AllOf(HasSubstr("layout.allow_missing"), HasSubstr("(\\w+\\w+)+\\.$"),
                                   HasSubstr(spec_.params[0].name), HasSubstr("match limit"))));
  EXPECT_EQ(ReasonOf(plan.status()), "INVALID_FIELDS");
}

TEST_F(PlanTest, OnlyWhatIsAllowedMayBeMissing) {
  layout_.allow_missing = {"bias"};
  EXPECT_THAT(Compile({{"norm.weight", kBF16, {2}}}),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr("1 missing: embed.weight"), Not(HasSubstr("bias")))));
}

TEST_F(PlanTest, TheModelsOwnPatternsTakeNamesOffTheReport) {
  spec_.ignore_missing = {"(^|\\.)bias$"};
  spec_.ignore_unexpected = {"inv_freq"};
  auto sources = SmallSources();
  sources[2] = {"rotary.inv_freq", kF32, {3}};
  ZC_ASSERT_OK_AND_ASSIGN(const Plan plan, Compile(sources));
  EXPECT_THAT(plan.report.missing, IsEmpty());
  EXPECT_THAT(plan.report.unexpected, IsEmpty());
  EXPECT_FALSE(plan.targets[2].is_filled);
}

TEST_F(PlanTest, ABadPatternOfTheSpecIsNamed) {
  spec_.ignore_missing = {"("};
  EXPECT_THAT(Compile(SmallSources()), StatusIs(absl::StatusCode::kInvalidArgument,
                                                HasSubstr("keys_to_ignore_on_load_missing")));
}

TEST_F(PlanTest, MismatchedWeightsStopTheLoadUnlessIgnored) {
  auto sources = SmallSources();
  sources[0].shape = {4, 2};
  EXPECT_THAT(Compile(sources), StatusIs(absl::StatusCode::kFailedPrecondition,
                                         HasSubstr("embed.weight is (4, 2) in the checkpoint, "
                                                   "(5, 2) in the model (from 'embed.weight' in "
                                                   "model.safetensors)")));
  layout_.ignore_mismatched = true;
  ZC_ASSERT_OK_AND_ASSIGN(const Plan plan, Compile(sources));
  EXPECT_FALSE(plan.targets[0].is_filled);
  EXPECT_THAT(plan.targets[0].boxes, IsEmpty());
  EXPECT_THAT(plan.report.missing, IsEmpty());
  ASSERT_EQ(plan.report.mismatched.size(), 1u);
  EXPECT_EQ(plan.report.mismatched[0].checkpoint_shape, Shape({4, 2}));
  EXPECT_EQ(plan.report.mismatched[0].model_shape, Shape({5, 2}));
}

// The head shares the embedding's weight.
class TiedTest : public PlanTest {
 protected:
  TiedTest() {
    spec_.params.push_back({"head.weight", {5, 2}, kBF16});
    spec_.tied = {{"head.weight", "embed.weight"}};
  }
};

TEST_F(TiedTest, AreOneTarget) {
  ZC_ASSERT_OK_AND_ASSIGN(const Plan plan, Compile(SmallSources()));
  ASSERT_EQ(plan.targets.size(), 3u);
  EXPECT_THAT(plan.targets[0].aliases, ElementsAre("head.weight"));
  EXPECT_THAT(plan.report.missing, IsEmpty());
}

TEST_F(TiedTest, TheHeadAloneFillsTheEmbedding) {
  auto sources = SmallSources();
  sources[0].name = "head.weight";
  ZC_ASSERT_OK_AND_ASSIGN(const Plan plan, Compile(sources));
  EXPECT_EQ(plan.targets[0].name, "embed.weight");
  EXPECT_TRUE(plan.targets[0].is_filled);
  EXPECT_THAT(plan.report.missing, IsEmpty());
}

TEST_F(TiedTest, BothInTheCheckpointMeansTheEmbedding) {
  auto sources = SmallSources();
  sources.push_back({"head.weight", kBF16, {5, 2}});
  ZC_ASSERT_OK_AND_ASSIGN(const Plan plan, Compile(sources));
  ASSERT_EQ(plan.targets[0].boxes.size(), 1u);
  EXPECT_EQ(plan.targets[0].boxes[0].source, 0);
  EXPECT_THAT(plan.report.unexpected, IsEmpty());
}

TEST_F(TiedTest, BothMissingAreBothReported) {
  auto sources = SmallSources();
  sources.erase(sources.begin());
  EXPECT_THAT(Compile(sources), StatusIs(absl::StatusCode::kFailedPrecondition,
                                         HasSubstr("embed.weight, head.weight")));
  EXPECT_THAT(report_.missing, ElementsAre("embed.weight", "head.weight"));
}

TEST_F(TiedTest, AnAliasThatTheModelDoesNotListIsOneAllTheSame) {
  spec_.params.pop_back();
  auto sources = SmallSources();
  sources[0].name = "head.weight";
  ZC_ASSERT_OK_AND_ASSIGN(const Plan plan, Compile(sources));
  EXPECT_TRUE(plan.targets[0].is_filled);
  EXPECT_THAT(plan.targets[0].aliases, ElementsAre("head.weight"));
}

TEST_F(TiedTest, AMismatchedEmbeddingIsReportedButTheHeadFills) {
  auto sources = SmallSources();
  sources[0].shape = {4, 2};
  sources.push_back({"head.weight", kBF16, {5, 2}});
  layout_.ignore_mismatched = true;
  ZC_ASSERT_OK_AND_ASSIGN(const Plan plan, Compile(sources));
  EXPECT_TRUE(plan.targets[0].is_filled);
  ASSERT_EQ(plan.report.mismatched.size(), 1u);
  EXPECT_EQ(plan.report.mismatched[0].name, "embed.weight");
}

// dtypes of embed (stored bf16), norm (stored fp32, in the model bf16), bias (fp32) and an integer.
std::vector<DType> DTypesUnder(DTypePolicy policy) {
  ModelSpec spec = SmallSpec();
  spec.params.push_back({"ids", {2}, DType::kInt64});
  spec.buffers[0].dtype = DType::kFloat64;
  auto sources = SmallSources();
  sources.push_back({"ids", DType::kInt64, {2}});
  Layout layout = TwoRanks();
  layout.dtype = policy;
  const auto plan = CompilePlan(MakeManifest(sources), &spec, {}, layout, nullptr);
  EXPECT_THAT(plan, IsOk());
  std::vector<DType> dtypes;
  if (!plan.ok()) return dtypes;
  for (const Target& target : plan->targets) dtypes.push_back(target.dtype);
  return dtypes;
}

TEST(DTypeTest, FollowsThePolicy) {
  constexpr DType kI64 = DType::kInt64, kF64 = DType::kFloat64, kF16 = DType::kFloat16;
  EXPECT_THAT(DTypesUnder(DTypePolicy::kStored), ElementsAre(kBF16, kF32, kI64, kF32));
  EXPECT_THAT(DTypesUnder(DTypePolicy::kSpec), ElementsAre(kBF16, kBF16, kI64, kF64));
  EXPECT_THAT(DTypesUnder(DTypePolicy::kBFloat16), ElementsAre(kBF16, kBF16, kI64, kF64));
  EXPECT_THAT(DTypesUnder(DTypePolicy::kFloat16), ElementsAre(kF16, kF16, kI64, kF64));
  EXPECT_THAT(DTypesUnder(DTypePolicy::kFloat32), ElementsAre(kF32, kF32, kI64, kF64));
}

TEST_F(PlanTest, IntegersBecomeTheFloatsThatTheModelHas) {
  auto sources = SmallSources();
  sources[0].dtype = DType::kInt64;
  sources[2].dtype = DType::kUInt8;
  layout_.dtype = DTypePolicy::kFloat16;
  ZC_ASSERT_OK_AND_ASSIGN(const Plan plan, Compile(sources));
  EXPECT_EQ(plan.targets[0].dtype, DType::kFloat16);
  EXPECT_TRUE(plan.targets[0].is_filled);
  EXPECT_EQ(plan.targets[2].dtype, kF32);
  EXPECT_TRUE(plan.targets[2].is_filled);
}

TEST_F(PlanTest, ASourceThatCannotBeCastIsAnErrorOfItsTarget) {
  auto sources = SmallSources();
  spec_.params[1].dtype = DType::kInt32;
  EXPECT_THAT(Compile(sources), IsOk()) << "as stored";
  layout_.dtype = DTypePolicy::kSpec;
  EXPECT_THAT(Compile(sources),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("1 not convertible: norm.weight ('norm.weight' in "
                                 "model.safetensors is stored as float32, which cannot become "
                                 "int32)")));
}

TEST_F(PlanTest, AWeightThatLooksQuantisedIsAnErrorOfItsTarget) {
  auto sources = SmallSources();
  sources[0].dtype = DType::kInt8;
  layout_.dtype = DTypePolicy::kBFloat16;
  EXPECT_THAT(Compile(sources),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("1 not convertible: embed.weight ('embed.weight' in "
                                 "model.safetensors is stored as int8, which cannot become "
                                 "bfloat16: it looks quantised, and nothing reads its scales)")));
  ASSERT_EQ(report_.conversion_errors.size(), 1u);
  EXPECT_THAT(report_.conversion_errors[0].sources, ElementsAre("embed.weight"));
  layout_.allow_missing = {"embed"};
  ZC_ASSERT_OK_AND_ASSIGN(const Plan plan, Compile(sources));
  EXPECT_FALSE(plan.targets[0].is_filled);
  EXPECT_THAT(plan.report.missing, ElementsAre("embed.weight"));
}

TEST_F(PlanTest, KeyMappingRunsBeforeTheModelsRules) {
  Rule rename;
  rename.from = {"^old\\."};
  rename.to = {"embed."};
  mapping_ = {rename};
  auto sources = SmallSources();
  sources[0].name = "old.weight";
  ZC_ASSERT_OK_AND_ASSIGN(const Plan plan, Compile(sources));
  EXPECT_TRUE(plan.targets[0].is_filled);
}

// Experts of two layers of a Mixtral, with config.json but no spec.
std::shared_ptr<const Manifest> MixtralManifest() {
  std::vector<SourceTensor> sources;
  for (const char* part : {"w1", "w3"}) {
    for (int expert = 0; expert < 2; ++expert) {
      sources.push_back({"model.layers.0.block_sparse_moe.experts." + std::to_string(expert) + "." +
                             part + ".weight",
                         kBF16,
                         {3, 4}});
    }
  }
  auto manifest = std::make_shared<Manifest>(*MakeManifest(sources));
  manifest->config_json = R"({"model_type": "mixtral", "architectures": ["MixtralForCausalLM"],
                             "nested": {"a": {"b": [[1]]}}})";
  return manifest;
}

TEST(NoSpecTest, TakesTheRulesFromTheCatalogue) {
  ZC_ASSERT_OK_AND_ASSIGN(const Plan plan,
                          CompilePlan(MixtralManifest(), nullptr, {}, TwoRanks(), nullptr));
  ASSERT_EQ(plan.targets.size(), 1u);
  EXPECT_EQ(plan.targets[0].name, "model.layers.0.mlp.experts.gate_up_proj");
  EXPECT_EQ(plan.targets[0].shape, Shape({2, 6, 4}));
  EXPECT_TRUE(plan.report.missing_unknown);
  EXPECT_FALSE(plan.report.rules_unknown);
  EXPECT_EQ(plan.report.dtype, "stored");
}

TEST(NoSpecTest, AnUnknownModelKeepsItsNames) {
  ZC_ASSERT_OK_AND_ASSIGN(
      const Plan plan, CompilePlan(MakeManifest(SmallSources()), nullptr, {}, TwoRanks(), nullptr));
  EXPECT_EQ(plan.targets.size(), 3u);
  EXPECT_TRUE(plan.report.rules_unknown);
}

TEST(NoSpecTest, CannotFollowTheDtypesOfASpec) {
  Layout layout = TwoRanks();
  layout.dtype = DTypePolicy::kSpec;
  EXPECT_THAT(CompilePlan(MakeManifest(SmallSources()), nullptr, {}, layout, nullptr),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("layout.dtype")));
}

TEST(NoSpecTest, RefusesAConfigThatIsNoObject) {
  Manifest manifest = *MakeManifest(SmallSources());
  for (const std::string& text : {std::string("[]"), std::string("{"), std::string(100000, '[')}) {
    manifest.config_json = text;
    EXPECT_THAT(CompilePlan(std::make_shared<Manifest>(manifest), nullptr, {}, TwoRanks(), nullptr),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("config.json")));
  }
}

}  // namespace
}  // namespace zerocast
