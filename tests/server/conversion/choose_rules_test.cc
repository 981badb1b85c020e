// Which rules load a checkpoint that comes without a model spec.

#include "server/conversion/choose_rules.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/conversion/convert.h"
#include "server/conversion/digit_blind.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using ::testing::ElementsAre;

std::string Config(const std::string& architecture, const std::string& model_type) {
  return absl::StrCat(R"({"architectures":[")", architecture, R"("],"model_type":")", model_type,
                      R"("})");
}

// What the names become for that class, in the order of the names.
std::vector<std::string> Converted(const std::string& config,
                                   const std::vector<std::string>& names) {
  RuleChoice choice;
  choice.config_json = config;
  const absl::StatusOr<ConversionRules> rules = ChooseRules(choice);
  EXPECT_THAT(rules, IsOk());
  if (!rules.ok()) return {};
  std::vector<std::string> result;
  for (const std::string& name : names) {
    const std::vector<SourceTensor> source = {{name, DType::kFloat32, {2}}};
    ConversionInput input;
    input.sources = source;
    input.rules = &*rules;
    input.any_name = true;
    const absl::StatusOr<Conversion> conversion = Convert(input);
    EXPECT_THAT(conversion, IsOk());
    if (!conversion.ok() || conversion->tensors.size() != 1) return result;
    result.push_back(conversion->tensors[0].name);
  }
  return result;
}

// The rules of the type are those of the model with a head, and name everything below its base.
TEST(ChooseRulesTest, ABaseModelHoldsNothingBelowItsOwnPrefix) {
  EXPECT_THAT(Converted(Config("PaddleOCRVLModel", "paddleocr_vl"),
                        {"visual.post_layernorm.bias", "mlp_AR.linear_1.bias",
                         "language_model.norm.weight", "model.norm.weight"}),
              ElementsAre("visual.post_layernorm.bias", "projector.linear_1.bias",
                          "language_model.norm.weight", "language_model.norm.weight"));
  EXPECT_THAT(Converted(Config("PaddleOCRVLForConditionalGeneration", "paddleocr_vl"),
                        {"visual.post_layernorm.bias", "mlp_AR.linear_1.bias"}),
              ElementsAre("model.visual.post_layernorm.bias", "model.projector.linear_1.bias"));
}

// A rule puts all names below the base model, the heads' too.
TEST(ChooseRulesTest, HeadsStayBesideTheBaseModel) {
  const std::vector<std::string> names = {"class_embed.bias", "query_feat.weight",
                                          "class_embedding.bias", "segmentation_bias"};
  EXPECT_THAT(Converted(Config("RfDetrForObjectDetection", "rf_detr"), names),
              ElementsAre("class_embed.bias", "model.query_feat.weight",
                          "model.class_embedding.bias", "model.segmentation_bias"));
  EXPECT_THAT(Converted(Config("RfDetrForInstanceSegmentation", "rf_detr"), names),
              ElementsAre("model.class_embed.bias", "model.model.query_feat.weight",
                          "model.model.class_embedding.bias", "segmentation_bias"));
}

// With a spec the model's names decide.  Without one, keys of one shape still share their work.
TEST(ChooseRulesTest, TheStepForUnknownNamesIsThatOfLoadsWithoutASpec) {
  const std::string config = Config("RfDetrForObjectDetection", "rf_detr");
  RuleChoice choice;
  choice.config_json = config;
  ZC_ASSERT_OK_AND_ASSIGN(const ConversionRules without, ChooseRules(choice));
  ModelSpec spec;
  spec.transforms_from_table = true;
  choice.spec = &spec;
  ZC_ASSERT_OK_AND_ASSIGN(const ConversionRules with, ChooseRules(choice));
  ASSERT_EQ(without.rules.size(), with.rules.size() + 1);
  EXPECT_EQ(without.rules.back().from[0], "^(?:model\\.)+(class_embed|bbox_embed)(?![^.])");
  EXPECT_TRUE(IsDigitBlindPattern(without.rules.back().from[0]));
}

}  // namespace
}  // namespace zerocast
