// Quantised checkpoints: which are refused, and what becomes of weights and their scales.

#include "server/conversion/quantization.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/copy/algebra.h"
#include "server/base/errors.h"
#include "server/conversion/convert.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr DType kF8 = DType::kFloat8E4M3, kF32 = DType::kFloat32, kBF16 = DType::kBFloat16;

std::string ConfigOf(const std::string& method) {
  return absl::StrCat(R"({"quantization_config": {"quant_method": ")", method, "\"}}");
}

Quantization MethodOf(const std::string& config_json) {
  const absl::StatusOr<QuantizationConfig> read = ReadQuantization(config_json);
  EXPECT_THAT(read, IsOk());
  return read.ok() ? read->method : Quantization::kNone;
}

std::vector<Rule> Rewritten(Quantization method, std::vector<Rule> rules,
                            const std::vector<SpecTensor>& model = {}) {
  return QuantizedRules({method, {}}, *CatalogueDialect("5.23.0"), std::move(rules), model);
}

class RefusedMethods : public ::testing::TestWithParam<const char*> {};

TEST_P(RefusedMethods, ByNameWithWhatToDo) {
  const absl::StatusOr<QuantizationConfig> read = ReadQuantization(ConfigOf(GetParam()));
  EXPECT_THAT(read, StatusIs(absl::StatusCode::kUnimplemented,
                             AllOf(HasSubstr(absl::StrCat("quant_method '", GetParam(), "'")),
                                   HasSubstr("dequantize()"))));
  EXPECT_EQ(ReasonOf(read.status()), "UNSUPPORTED");
}

// All methods of Transformers 5.23.0 (utils/quantization_config.py) but those that are decoded.
INSTANTIATE_TEST_SUITE_P(All, RefusedMethods,
                         ::testing::Values("bitsandbytes", "gptq", "awq", "aqlm", "vptq", "quanto",
                                           "eetq", "higgs", "hqq", "compressed-tensors",
                                           "fbgemm_fp8", "torchao", "gguf", "bitnet", "spqr",
                                           "quark", "fp_quant", "auto-round", "nvfp4", "metal",
                                           "fouroversix", "sinq", "gemma", "a_method_of_tomorrow"));

TEST(ReadQuantization, KnowsWhatIsDecoded) {
  EXPECT_EQ(MethodOf(""), Quantization::kNone);
  EXPECT_EQ(MethodOf("{}"), Quantization::kNone);
  EXPECT_EQ(MethodOf(R"({"quantization_config": null})"), Quantization::kNone);
  EXPECT_EQ(MethodOf(R"({"quantization_config": {}})"), Quantization::kNone);
  EXPECT_EQ(MethodOf(ConfigOf("fp8")), Quantization::kFp8);
  EXPECT_EQ(MethodOf(ConfigOf("mxfp8")), Quantization::kFp8);
  EXPECT_EQ(MethodOf(ConfigOf("mxfp4")), Quantization::kMxfp4);
}

TEST(ReadQuantization, LooksIntoTheTextModelToo) {
  EXPECT_EQ(MethodOf(absl::StrCat(R"({"text_config": )", ConfigOf("fp8"), "}")),
            Quantization::kFp8);
  EXPECT_THAT(ReadQuantization(absl::StrCat(R"({"text_config": )", ConfigOf("gptq"), "}")),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("gptq")));
}

TEST(ReadQuantization, RefusesConfigsThatNameNoMethod) {
  EXPECT_THAT(ReadQuantization(R"({"quantization_config": {"load_in_8bit": true}})"),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("'bitsandbytes'")));
  EXPECT_THAT(ReadQuantization(R"({"quantization_config": {"bits": 4}})"),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("without a quant_method")));
  EXPECT_THAT(ReadQuantization(R"({"compression_config": {"quant_method": "compressed-tensors"}})"),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("'compressed-tensors'")));
  EXPECT_THAT(ReadQuantization("[1]"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("not a JSON object")));
}

TEST(CheckQuantized, RefusesScalesThatNothingExplains) {
  const std::vector<SourceTensor> sources = {{"a.weight", kF8, {4, 4}},
                                             {"a.weight_scale_inv", kF32, {1, 1}}};
  const absl::Status refused = CheckQuantized(Quantization::kNone, sources, {});
  EXPECT_THAT(refused, StatusIs(absl::StatusCode::kFailedPrecondition,
                                AllOf(HasSubstr("'a.weight'"), HasSubstr("'a.weight_scale_inv'"))));
  EXPECT_EQ(ReasonOf(refused), "UNSUPPORTED");
  EXPECT_THAT(CheckQuantized(Quantization::kFp8, sources, {}), IsOk());
  const std::vector<SourceTensor> alone = {{"a.weight", kF8, {4, 4}}};
  EXPECT_THAT(CheckQuantized(Quantization::kNone, alone, {}), IsOk());
}

TEST(CheckQuantized, RefusesModelsThatKeepTheScales) {
  const std::vector<SpecTensor> model = {{"a.weight", {4, 4}, kF8},
                                         {"a.weight_scale_inv", {1, 1}, kF32}};
  EXPECT_THAT(CheckQuantized(Quantization::kFp8, {}, model),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("'a.weight_scale_inv'")));
  const std::vector<SpecTensor> experts = {{"e.down_proj_blocks", {1}, DType::kUInt8}};
  EXPECT_THAT(CheckQuantized(Quantization::kMxfp4, {}, experts),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("'e.down_proj_blocks'")));
}

// Two experts of 4 x 6, fused.
Rule ExpertRule() {
  Rule rule;
  rule.kind = RuleKind::kConvert;
  rule.from = {"e.*.up.weight"};
  rule.to = {"e.up"};
  Op stack;
  stack.kind = OpKind::kStack;
  rule.ops = {stack};
  return rule;
}

TEST(QuantizedRules, PutTheDecodersBeforeTheOperations) {
  const std::vector<Rule> rules = Rewritten(Quantization::kFp8, {ExpertRule()});
  ASSERT_EQ(rules.size(), 4u);  // two names of scales, the experts, all other weights
  EXPECT_THAT(rules[2].from,
              ElementsAre("e.*.up.weight", "e.*.up.weight_scale_inv", "e.*.up.activation_scale"));
  ASSERT_EQ(rules[2].ops.size(), 2u);
  EXPECT_EQ(rules[2].ops[0].kind, OpKind::kFp8Dequantize);
  EXPECT_EQ(rules[2].ops[1].kind, OpKind::kStack);
  EXPECT_THAT(rules[3].from, ElementsAre("weight", "weight_scale_inv", "activation_scale"));
}

TEST(QuantizedRules, LeaveRulesThatDecodeAlready) {
  const std::vector<Rule> once = Rewritten(Quantization::kMxfp4, {ExpertRule()});
  EXPECT_EQ(Rewritten(Quantization::kMxfp4, once).size(), once.size());
  EXPECT_EQ(Rewritten(Quantization::kNone, {ExpertRule()}).size(), 1u);
}

TEST(QuantizedRules, LeaveAParameterThatIsNamedAsAScale) {
  const std::vector<SpecTensor> model = {{"a.q_l2_clip.scale", {1}, kF32}};
  EXPECT_EQ(Rewritten(Quantization::kFp8, {}, model).size(), 2u);
}

TEST(QuantizedRules, OfTheFirstReleaseDecodeWhatNoRuleTakes) {
  const absl::StatusOr<QuantizationConfig> config = ReadQuantization(
      R"({"quantization_config": {"quant_method": "fp8", "weight_block_size": [2, 3]}})");
  ASSERT_THAT(config, IsOk());
  const Dialect dialect = *CatalogueDialect("5.1.0");
  const std::vector<Rule> rules = QuantizedRules(*config, dialect, {ExpertRule()}, {});
  ASSERT_EQ(rules.size(), 2u);
  EXPECT_THAT(rules[0].from, ElementsAre("e.*.up.weight"));
  EXPECT_THAT(rules[1].from, ElementsAre("weight$", "weight_scale_inv", "activation_scale"));
  EXPECT_THAT(rules[1].ops[0].block, ElementsAre(2, 3));
  const std::vector<Rule> mxfp4 = QuantizedRules({Quantization::kMxfp4, {}}, dialect, {}, {});
  ASSERT_EQ(mxfp4.size(), 1u);
  EXPECT_THAT(mxfp4[0].from, ElementsAre("_blocks", "_scales"));
}

TEST(ReadQuantization, BlocksAreTheLibrarysWhereTheConfigHasNone) {
  EXPECT_THAT(ReadQuantization(ConfigOf("fp8"))->block, ElementsAre(128, 128));
  EXPECT_THAT(ReadQuantization(
                  R"({"quantization_config": {"quant_method": "fp8", "weight_block_size": null}})")
                  ->block,
              IsEmpty());
}

class ConvertQuantized : public ::testing::Test {
 protected:
  Conversion Run(const std::vector<SourceTensor>& sources, Quantization quantization) {
    ConversionRules rules;
    rules.dialect = *CatalogueDialect("5.23.0");
    rules.quantization = quantization;
    rules.rules = Rewritten(quantization, {ExpertRule()});
    ConversionInput input;
    input.sources = sources;
    input.rules = &rules;
    input.any_name = true;
    absl::StatusOr<Conversion> conversion = Convert(input);
    EXPECT_THAT(conversion, IsOk());
    return *std::move(conversion);
  }
};

TEST_F(ConvertQuantized, WeightsGoWithTheirScales) {
  const Conversion made = Run({{"a.weight", kF8, {4, 6}},
                               {"a.weight_scale_inv", kF32, {2, 3}},
                               {"b.weight", kBF16, {5}},
                               {"c.weight", DType::kInt8, {4, 3}},
                               {"c.scale", DType::kFloat8E8M0, {4, 1}},
                               {"d.weight", kF8, {4, 6}},
                               {"d.qscale_weight", kBF16, {}}},
                              Quantization::kFp8);
  EXPECT_THAT(made.errors, IsEmpty());
  EXPECT_THAT(made.unexpected, IsEmpty());
  ASSERT_EQ(made.tensors.size(), 4u);
  ASSERT_EQ(made.decoders.size(), 3u);
  EXPECT_EQ(made.decoders[0].source, 0);
  EXPECT_EQ(made.decoders[0].scale, 1);
  EXPECT_EQ(made.decoders[0].decoder.block_rows, 2);
  EXPECT_EQ(made.decoders[0].decoder.block_cols, 2);
  EXPECT_EQ(made.tensors[0].dtype, kF32);
  EXPECT_THAT(made.tensors[0].sources, ElementsAre(0)) << "scales are no elements";
  EXPECT_EQ(made.tensors[1].dtype, kBF16);
  EXPECT_EQ(made.decoders[1].decoder.kind, DecoderKind::kFp4Block);
  EXPECT_THAT(made.tensors[2].shape, ElementsAre(4, 6)) << "logical elements";
  EXPECT_EQ(made.tensors[2].dtype, kBF16);
  EXPECT_EQ(made.decoders[2].decoder.block_rows, 4) << "one scale for all";
}

TEST_F(ConvertQuantized, ExpertsAreDecodedBeforeTheyAreFused) {
  const Conversion made = Run({{"e.0.up.activation_scale", kF32, {}},
                               {"e.0.up.weight", kF8, {4, 6}},
                               {"e.0.up.weight_scale_inv", kF32, {1, 1}},
                               {"e.1.up.weight", kF8, {4, 6}},
                               {"e.1.up.weight_scale_inv", kF32, {4, 3}}},
                              Quantization::kFp8);
  EXPECT_THAT(made.errors, IsEmpty());
  ASSERT_EQ(made.tensors.size(), 1u);
  EXPECT_THAT(made.tensors[0].shape, ElementsAre(2, 4, 6));
  EXPECT_THAT(made.tensors[0].sources, ElementsAre(1, 3));
  ASSERT_EQ(made.decoders.size(), 2u);
  EXPECT_EQ(made.decoders[1].scale, 4);
}

TEST_F(ConvertQuantized, AWeightWithoutItsScaleIsAnError) {
  const Conversion made =
      Run({{"a.weight", kF8, {4, 6}}, {"e.0.up.weight", kF8, {4, 6}}}, Quantization::kFp8);
  EXPECT_THAT(made.tensors, IsEmpty());
  ASSERT_EQ(made.errors.size(), 2u);
  EXPECT_THAT(made.errors[0].message, HasSubstr("has no scales for it"));
  EXPECT_THAT(made.errors[0].sources, ElementsAre("a.weight"));
  EXPECT_EQ(made.errors[1].target, "e.up");
}

TEST_F(ConvertQuantized, OneExpertWithoutItsScaleIsAnErrorOfTheFusedTarget) {
  const Conversion made = Run({{"e.0.up.weight", kF8, {4, 6}},
                               {"e.1.up.weight", kF8, {4, 6}},
                               {"e.1.up.weight_scale_inv", kF32, {1, 1}}},
                              Quantization::kFp8);
  EXPECT_THAT(made.tensors, IsEmpty());
  ASSERT_EQ(made.errors.size(), 1u);
  EXPECT_THAT(made.errors[0].message, HasSubstr("2 weights vs 1 scales"));
}

TEST_F(ConvertQuantized, AScaleWithoutItsWeightIsAnError) {
  const Conversion made = Run({{"a.weight_scale_inv", kF32, {2, 3}}}, Quantization::kFp8);
  EXPECT_THAT(made.tensors, IsEmpty());
  ASSERT_EQ(made.errors.size(), 1u);
  EXPECT_THAT(made.errors[0].message, HasSubstr("no place for 'a.weight_scale_inv'; by rule"));
}

TEST_F(ConvertQuantized, BlocksThatDoNotFitAreAnErrorOfTheTarget) {
  const Conversion made =
      Run({{"a.weight", kF8, {4, 6}}, {"a.weight_scale_inv", kF32, {3, 1}}}, Quantization::kFp8);
  ASSERT_EQ(made.errors.size(), 1u);
  EXPECT_THAT(made.errors[0].message, HasSubstr("not divisible by scale grid (3, 1)"));
  const Conversion wide = Run(
      {{"a.weight", kF8, {2, 4, 6}}, {"a.weight_scale_inv", kF32, {3, 1, 1}}}, Quantization::kFp8);
  ASSERT_EQ(wide.errors.size(), 1u);
  EXPECT_THAT(wide.errors[0].message, HasSubstr("do not belong to"));
}

TEST_F(ConvertQuantized, Mxfp4BlocksComeTransposed) {
  const Conversion made = Run({{"x.down_proj_blocks", DType::kUInt8, {2, 3, 4, 16}},
                               {"x.down_proj_scales", DType::kUInt8, {2, 3, 4}}},
                              Quantization::kMxfp4);
  EXPECT_THAT(made.errors, IsEmpty());
  ASSERT_EQ(made.tensors.size(), 1u);
  EXPECT_EQ(made.tensors[0].name, "x.down_proj");
  EXPECT_THAT(made.tensors[0].shape, ElementsAre(2, 128, 3));
  EXPECT_EQ(made.tensors[0].dtype, kBF16);
  ASSERT_EQ(made.decoders.size(), 1u);
  EXPECT_EQ(made.decoders[0].decoder.cols, 32);
  const Conversion alone =
      Run({{"x.down_proj_blocks", DType::kUInt8, {2, 3, 4, 16}}}, Quantization::kMxfp4);
  ASSERT_EQ(alone.errors.size(), 1u);
  EXPECT_THAT(alone.errors[0].message, HasSubstr("down_proj_scales"));
}

TEST_F(ConvertQuantized, ATensorOfNoElementsNeedsNoDecoder) {
  const Conversion made =
      Run({{"a.weight", kF8, {0, 6}}, {"a.weight_scale_inv", kF32, {0, 1}}}, Quantization::kFp8);
  EXPECT_THAT(made.decoders, IsEmpty());
  EXPECT_THAT(made.errors, IsEmpty());
  ASSERT_EQ(made.tensors.size(), 1u);
  EXPECT_EQ(made.tensors[0].name, "a.weight");
}

}  // namespace
}  // namespace zerocast
