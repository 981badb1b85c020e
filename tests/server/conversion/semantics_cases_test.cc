// The cases that are most likely to be got wrong, as the real libraries answered them.
//
// - T1, every "auto" at stage 3: config: FillsEveryAuto
// - T2, the same at stage 2: config: LeavesStage3BucketsAutoBelowStage3
// - T3, four mismatches in one message: config: CollectsEveryMismatchInPythonsWords
// - T4, hidden_size null, hidden_sizes: config: Hidden.SizesTheBuckets
// - T5, stage as text or float: config: Stage, BadSections
// - T6, finalize twice: config: StepsOfTheSchedulerMustMatch
// - T7, warmup as a ratio: config: Warmup.CountsSteps
// - T8, configs as text and base64: config: inputs_test
// - T9, the batch triangle: config: lint_golden_test
// - T10, experts in natural order: here
// - T11, a piece missing: here
// - T12, a dot is any character: here
// - T13, replaced by text, first or everywhere: here
// - T14, a scale beside a weight: here
// - T15, the base prefix: here
// - T16, the order of keys: here
// - T17, chunks that do not divide: here
// - T18, Ernie's runs: here
// - T19, partitions and padding: plan: plan_test, random plans
// - T20, a DeepSpeed folder: no conversion in it
// - T21, another shape: here; plan: MismatchedWeightsStopTheLoadUnlessIgnored
// - T22, buffers are loaded: plan: checkpoints_test
// - T23, rounding to bfloat16: kernels/copy: casts_test
// - T24, tensor parallelism: config: NotesTensorParallelInitialisation
// - T25, unknown keys: config: lint_golden_test
// - T26, Ernie's correction bias: here

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/conversion/convert.h"
#include "server/conversion/natural_key.h"
#include "server/conversion/rename.h"
#include "tests/each_element.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Shape = std::vector<int64_t>;

constexpr char kOld[] = "5.1.0";
constexpr char kNew[] = "5.23.0";

class SemanticsCase : public ::testing::Test {
 protected:
  void Rules(const std::string& model_type, const std::string& dialect) {
    rules_.rules = CatalogueRules("", model_type, dialect).value();
    rules_.dialect = CatalogueDialect(dialect).value();
  }
  // A source whose element k holds first + k.
  void Source(const std::string& name, const Shape& shape, int first = 0) {
    sources_.push_back({name, DType::kFloat32, shape});
    first_.push_back(first);
  }
  Conversion Run(const std::vector<SpecTensor>& model = {}) {
    ConversionInput input;
    input.sources = sources_;
    input.rules = &rules_;
    input.model = model;
    input.any_name = model.empty();
    absl::StatusOr<Conversion> conversion = Convert(input);
    EXPECT_THAT(conversion, IsOk());
    return conversion.ok() ? *std::move(conversion) : Conversion();
  }
  std::string Renamed(const std::string& key) {
    sources_.clear();
    Source(key, {2, 2});
    const Conversion conversion = Run();
    return conversion.tensors.empty() ? "nothing" : conversion.tensors[0].name;
  }
  // The elements of a target.
  std::vector<int> Values(const ConvertedTensor& tensor) const {
    int64_t numel = 1;
    for (const int64_t size : tensor.shape) numel *= size;
    std::vector<int> values(numel, -1);
    for (const Box& box : tensor.boxes) {
      ForEachElement(box, [&](int64_t from, int64_t to) {
        values.at(to) = first_[box.source] + static_cast<int>(from);
      });
    }
    return values;
  }

  ConversionRules rules_;
  std::vector<SourceTensor> sources_;
  std::vector<int> first_;
};

TEST_F(SemanticsCase, T10ExpertsComeInNaturalOrder) {
  for (const char* dialect : {kNew, kOld}) {
    Rules("qwen2_moe", dialect);
    sources_.clear();
    first_.clear();
    for (const int i : {10, 1, 2, 0}) {
      Source(absl::StrCat("mlp.experts.", i, ".up_proj.weight"), {1, 2}, 100 + 2 * i);
      Source(absl::StrCat("mlp.experts.", i, ".gate_proj.weight"), {1, 2}, 2 * i);
    }
    const Conversion conversion = Run();
    ASSERT_EQ(conversion.tensors.size(), 1u);
    EXPECT_EQ(conversion.tensors[0].shape, (Shape{4, 2, 2}));
    EXPECT_THAT(Values(conversion.tensors[0]),
                ElementsAre(0, 1, 100, 101, 2, 3, 102, 103, 4, 5, 104, 105, 20, 21, 120, 121));
  }
}

TEST_F(SemanticsCase, T11APieceIsMissing) {
  Rules("qwen2_moe", kNew);
  for (const int i : {0, 1, 2, 10}) {
    Source(absl::StrCat("mlp.experts.", i, ".gate_proj.weight"), {1, 2});
    if (i != 10) Source(absl::StrCat("mlp.experts.", i, ".up_proj.weight"), {1, 2});
  }
  Conversion conversion = Run();
  ASSERT_EQ(conversion.errors.size(), 1u);
  EXPECT_THAT(
      conversion.errors[0].message,
      HasSubstr("Sizes of tensors must match except in dimension 1. Expected size 4 but got "
                "size 3 for tensor number 1 in the list."));
  sources_.erase(std::remove_if(sources_.begin(), sources_.end(),
                                [](const SourceTensor& source) {
                                  return source.name.find("up_proj") != std::string::npos;
                                }),
                 sources_.end());
  conversion = Run();
  ASSERT_EQ(conversion.errors.size(), 1u);
  EXPECT_THAT(conversion.errors[0].message,
              HasSubstr("torch.cat(): expected a non-empty list of Tensors"));
  Rules("qwen2_moe", kOld);
  conversion = Run();
  ASSERT_EQ(conversion.errors.size(), 1u);
  EXPECT_THAT(conversion.errors[0].message, HasSubstr("'mlp.experts.*.gate_proj.weight'"));
}

TEST_F(SemanticsCase, T12ADotIsAnyCharacter) {
  Rules("phimoe", kNew);
  EXPECT_EQ(Renamed("l.mlp.shared_expert_gate.weight"), "l.mlp.shared_expert.router.weight");
  Rules("", kOld);
  EXPECT_EQ(Renamed("foo_weight_g"), "foo.parametrizations.weight.original0");
  EXPECT_EQ(Renamed("x.weight_g.y"), "x.weight_g.y");
  Rules("", kNew);
  EXPECT_EQ(Renamed("x.weight_g.y"), "x.parametrizations.weight.original0.y");
}

TEST_F(SemanticsCase, T13TheTextIsReplacedNotThePlace) {
  Rules("ernie4_5_vl_moe", kOld);
  EXPECT_EQ(Renamed("layers.0.layers.1.weight"),
            "language_model.layers.0.language_model.layers.1.weight");
  Rules("ernie4_5_vl_moe", kNew);
  EXPECT_EQ(Renamed("layers.0.layers.1.weight"), "language_model.layers.0.layers.1.weight");
}

TEST_F(SemanticsCase, T14AScaleIsNoWeight) {
  const std::string scale = "l.mlp.experts.7.gate_proj.weight_scale_inv";
  Rules("qwen2_moe", kNew);
  EXPECT_EQ(Renamed(scale), scale);
  const auto renamed = [&scale](const std::vector<Rule>& rules) {
    return Renamer::Create(rules, CatalogueDialect(kOld).value(), false, "")
        ->Rename(scale, [](absl::string_view) { return false; })
        ->renamed;
  };
  EXPECT_EQ(renamed(CatalogueRules("", "qwen2_moe", kOld).value()),
            "l.mlp.experts.gate_up_proj_scale_inv");
}

TEST_F(SemanticsCase, T15TheBasePrefix) {
  const auto looked_up = [](absl::string_view prefix, absl::string_view key) {
    const auto in_model = [](absl::string_view name) {
      return name == "model.lin.weight" || name == "head.weight" || name == "weight";
    };
    return Renamer::Create({}, CatalogueDialect(kNew).value(), true, prefix)
        ->Rename(key, in_model)
        ->with_prefix;
  };
  EXPECT_EQ(looked_up("model", "lin.weight"), "model.lin.weight");
  EXPECT_EQ(looked_up("model", "model.head.weight"), "head.weight");
  EXPECT_EQ(looked_up("model", "model.model.lin.weight"), "model.lin.weight");
  EXPECT_EQ(looked_up("model", "modelXhead.weight"), "head.weight");
  EXPECT_EQ(looked_up("model", "modelhead.weight"), "modelhead.weight");
  EXPECT_EQ(looked_up("", "xweight"), "weight");
}

TEST_F(SemanticsCase, T16TheOrderOfKeys) {
  const auto sorted = [](std::vector<absl::string_view> keys, const char* dialect) {
    std::vector<std::string> result;
    const absl::StatusOr<std::vector<int32_t>> order =
        NaturalOrder(keys, CatalogueDialect(dialect).value());
    if (!order.ok()) return std::vector<std::string>{"error"};
    for (const int32_t index : *order) result.emplace_back(keys[index]);
    return result;
  };
  EXPECT_THAT(sorted({"a.0.b", "a.w.b"}, kOld), ElementsAre("error"));
  EXPECT_THAT(sorted({"a.0.b", "a.w.b"}, kNew), ElementsAre("a.0.b", "a.w.b"));
  EXPECT_THAT(sorted({"l.shard_11", "l.shard_2"}, kOld), ElementsAre("l.shard_11", "l.shard_2"));
  EXPECT_THAT(sorted({"l.shard_11", "l.shard_2"}, kNew), ElementsAre("l.shard_2", "l.shard_11"));
  for (const char* dialect : {kOld, kNew}) {
    EXPECT_THAT(sorted({"e.2.up", "e.10.down", "e.2.down"}, dialect),
                ElementsAre("e.2.down", "e.2.up", "e.10.down"));
  }
}

TEST_F(SemanticsCase, T17ChunksOfSizesThatDoNotDivide) {
  Rules("", kNew);
  Rule rule;
  rule.kind = RuleKind::kConvert;
  rule.from = {"fused"};
  rule.to = {"a", "b"};
  rule.ops.emplace_back();
  rule.ops[0].kind = OpKind::kChunk;
  rules_.rules = {rule};
  Source("fused", {5});
  Conversion conversion = Run();
  ASSERT_EQ(conversion.tensors.size(), 2u);
  EXPECT_THAT(conversion.tensors[0].shape, ElementsAre(3));
  EXPECT_THAT(conversion.tensors[1].shape, ElementsAre(2));
  rules_.rules[0].to.push_back("c");
  sources_[0].shape = {4};
  conversion = Run();
  ASSERT_EQ(conversion.tensors.size(), 2u) << "the third target is absent";
  EXPECT_THAT(conversion.tensors[1].shape, ElementsAre(2));
}

TEST_F(SemanticsCase, T18ErniesRuns) {
  Rules("ernie4_5_vl_moe", kNew);
  for (int i = 0; i < 5; ++i) Source(absl::StrCat("experts.", i, ".down_proj.weight"), {1, 2});
  Conversion conversion = Run();
  ASSERT_EQ(conversion.tensors.size(), 2u);
  EXPECT_EQ(conversion.tensors[0].shape, (Shape{3, 1, 2}));
  EXPECT_EQ(conversion.tensors[1].shape, (Shape{2, 1, 2}));
  sources_.clear();
  first_.clear();
  for (int i = 0; i < 3; ++i) {
    Source(absl::StrCat("experts.", i, ".gate_proj.weight"), {1, 1}, i);
    Source(absl::StrCat("experts.", i, ".up_proj.weight"), {1, 1}, 10 + i);
  }
  conversion = Run();
  ASSERT_EQ(conversion.tensors.size(), 2u);
  EXPECT_THAT(Values(conversion.tensors[0]), ElementsAre(0, 10, 1, 11));
  EXPECT_THAT(Values(conversion.tensors[1]), ElementsAre(2, 12));
  sources_.clear();
  Source("experts.0.down_proj.weight", {1, 2});
  conversion = Run();
  ASSERT_EQ(conversion.errors.size(), 1u);
  EXPECT_THAT(conversion.errors[0].message, HasSubstr("stack expects a non-empty TensorList"));
}

TEST_F(SemanticsCase, T21AnotherShapeIsToldBothWays) {
  Rules("", kNew);
  Source("head.weight", {5, 3});
  const Conversion conversion = Run({{"head.weight", {2, 3}, DType::kFloat32}});
  EXPECT_THAT(conversion.errors, IsEmpty());
  ASSERT_EQ(conversion.tensors.size(), 1u) << "no error of the conversion: the plan reports it";
  EXPECT_THAT(conversion.tensors[0].shape, ElementsAre(5, 3));
}

TEST_F(SemanticsCase, T26TheCorrectionBiasIsCutInTwo) {
  Rules("ernie4_5_vl_moe", kOld);
  Source("mlp.moe_statics.e_score_correction_bias", {2, 3});
  const Conversion conversion = Run();
  ASSERT_EQ(conversion.tensors.size(), 2u);
  EXPECT_EQ(conversion.tensors[0].name, "mlp.text_moe.gate.moe_statics.e_score_correction_bias");
  EXPECT_EQ(conversion.tensors[0].shape, (Shape{1, 3}));
  EXPECT_THAT(Values(conversion.tensors[0]), ElementsAre(0, 1, 2));
  EXPECT_EQ(conversion.tensors[1].name, "mlp.vision_moe.gate.moe_statics.e_score_correction_bias");
  EXPECT_THAT(Values(conversion.tensors[1]), ElementsAre(3, 4, 5));
}

}  // namespace
}  // namespace zerocast
