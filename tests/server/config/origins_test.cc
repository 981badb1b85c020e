#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/config/json_reader.h"
#include "server/config/resolve.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::Not;
using ::testing::StartsWith;

ConfigValue Read(absl::string_view text) {
  const auto document = ReadJson(text, "test");
  EXPECT_THAT(document, IsOk()) << text;
  return document.ok() ? document->value : ConfigValue();
}

char Letter(OriginKind kind) {
  switch (kind) {
    case OriginKind::kGiven:
      return 'G';
    case OriginKind::kArgument:
      return 'A';
    case OriginKind::kDerived:
      return 'D';
    case OriginKind::kIntegration:
      return 'I';
    case OriginKind::kDeepSpeedDefault:
      return 'S';
  }
  return '?';
}

std::vector<std::string> Lines(const std::vector<ValueOrigin>& origins) {
  std::vector<std::string> lines;
  for (const ValueOrigin& origin : origins) {
    lines.push_back(
        absl::StrCat(std::string(1, Letter(origin.kind)), " ", origin.path, ": ", origin.origin));
  }
  return lines;
}

std::vector<std::string> Origins(const ResolveRequest& request) {
  const auto resolution = ResolveConfig(request);
  EXPECT_THAT(resolution, IsOk());
  return resolution.ok() ? Lines(resolution->origins) : std::vector<std::string>();
}

ResolveRequest Request(std::string config) {
  ResolveRequest request;
  request.config = std::move(config);
  request.model_config = Read(R"({"text_config": {"hidden_size": 64}})");
  request.num_training_steps = 100;
  return request;
}

constexpr char kConfig[] = R"({
  "train_batch_size": "auto", "gradient_accumulation_steps": 1, "gradient_clipping": "auto",
  "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": [0.9, 0.999]}},
  "scheduler": {"params": {"warmup_min_lr": "auto", "total_num_steps": "auto",
                           "warmup_num_steps": "auto"}},
  "zero_optimization": {"stage": 3, "reduce_bucket_size": "auto", "offload_param": {}}})";

TEST(Origins, NameTheSourceOfEveryValueInTheConfigsOrder) {
  EXPECT_THAT(
      Origins(Request(kConfig)),
      ElementsAre("D train_batch_size: auto filled from train_batch_size (calculated)",
                  "G gradient_accumulation_steps: given",
                  "A gradient_clipping: auto filled from max_grad_norm", "G optimizer.type: given",
                  "A optimizer.params.lr: auto filled from learning_rate",
                  "G optimizer.params.betas: given",
                  "I scheduler.params.warmup_min_lr: auto filled from the constant 0",
                  "D scheduler.params.total_num_steps: auto filled from num_training_steps "
                  "(calculated)",
                  "D scheduler.params.warmup_num_steps: auto filled from warmup_steps",
                  "G zero_optimization.stage: given",
                  "D zero_optimization.reduce_bucket_size: auto filled from "
                  "text_config.hidden_size: h * h",
                  "G zero_optimization.offload_param: given"));
}

TEST(Origins, AWarmupThatIsACountComesFromTheArgumentAlone) {
  ResolveRequest request = Request(R"({"optimizer": {}, "scheduler":
      {"params": {"warmup_num_steps": "auto"}}})");
  request.arguments.warmup_steps = ConfigValue(7);
  EXPECT_THAT(Origins(request),
              ElementsAre("G optimizer: given",
                          "A scheduler.params.warmup_num_steps: auto filled from warmup_steps"));
}

TEST(Origins, TellWhatTheIntegrationAdds) {
  ResolveRequest request = Request("{}");
  request.arguments.save_on_each_node = ConfigValue(true);
  EXPECT_THAT(Origins(request),
              ElementsAre("A checkpoint.use_node_local_storage: set from save_on_each_node",
                          "I zero_allow_untested_optimizer: set because the config has no "
                          "optimizer section"));
}

TEST(Origins, TellWhatTheIntegrationRemovesAndNothingBelowIt) {
  ResolveRequest request = Request(kConfig);
  request.config = R"({"optimizer": {"params": {"lr": "auto"}}, "lr_scheduler": 5,
                       "zero_optimization": {"stage": 3}})";
  request.inference = true;
  EXPECT_THAT(Origins(request),
              ElementsAre("G zero_optimization.stage: given", "I optimizer: removed for inference",
                          "I lr_scheduler: removed for inference"));
}

TEST(Origins, AreOnlyTheChangedOnesWhereAllAreNotAskedFor) {
  ResolveRequest request = Request(R"({"optimizer": {}, "gradient_clipping": "auto", "x": 1})");
  request.all_origins = false;
  EXPECT_THAT(Origins(request), ElementsAre("A gradient_clipping: auto filled from max_grad_norm"));
}

TEST(Origins, AKeyWithADotIsNotThePathThatItLooksLike) {
  EXPECT_THAT(Origins(Request(R"({"optimizer": {}, "fp16.enabled": "auto",
                                  "fp16": {"enabled": "auto"}})")),
              ElementsAre("G optimizer: given", "G fp16.enabled: given",
                          "A fp16.enabled: auto filled from fp16|fp16_full_eval"));
}

TEST(Origins, OfASectionWithTooLongPathsAreOneEntryAndWhatChanged) {
  const std::string key(100'000, 'k');
  std::string config = R"({"optimizer": {"params": {"lr": "auto", ")" + key + R"(": {)";
  for (int i = 0; i < 100; ++i) absl::StrAppend(&config, i == 0 ? "" : ", ", "\"", i, "\": 0");
  config += "}}}, \"last\": 1}";
  EXPECT_THAT(
      Origins(Request(config)),
      ElementsAre("G optimizer: given, but for what is listed on its own",
                  "A optimizer.params.lr: auto filled from learning_rate", "G last: given"));
}

TEST(Origins, NameTheDefaultsOfARelease) {
  ResolveRequest request = Request(R"({"optimizer": {"type": "AdamW", "params": {"lr": 1}},
      "scheduler": {"type": "WarmupLR", "params": {}}, "gradient_clipping": 2.0,
      "zero_optimization": {"stage": 3, "prefetch_bucket_size": 7,
                            "offload_param": {"device": "cpu"}}})");
  request.arguments.learning_rate = ConfigValue(1.0);
  request.arguments.max_grad_norm = ConfigValue(2.0);
  request.deepspeed_version = "0.19.8";
  const std::vector<std::string> newest = Origins(request);
  EXPECT_THAT(newest, Contains("S zero_optimization.reduce_bucket_size: default of DeepSpeed "
                               "0.19.8: 500000000"));
  EXPECT_THAT(newest, Contains("S zero_optimization.offload_param.pin_memory: default of "
                               "DeepSpeed 0.19.8: true"));
  EXPECT_THAT(newest, Contains("S scheduler.params.warmup_num_steps: default of DeepSpeed "
                               "0.19.8: 1000"));
  EXPECT_THAT(newest, Contains("S prescale_gradients: default of DeepSpeed 0.19.8: false"));
  for (const std::string& line : newest) {
    // Given, given under the field's own name, deprecated, of a section that is not there.
    EXPECT_THAT(line, Not(StartsWith("S gradient_clipping:")));
    EXPECT_THAT(line, Not(StartsWith("S zero_optimization.stage3_prefetch_bucket_size:")));
    EXPECT_THAT(line, Not(StartsWith("S zero_optimization.cpu_offload:")));
    EXPECT_THAT(line, Not(StartsWith("S fp16.")));
  }
  request.config = R"({"zero_optimization": {"offload_param": {"device": "cpu"}}})";
  request.deepspeed_version = "0.19.2";
  const std::vector<std::string> older = Origins(request);
  EXPECT_THAT(older, Contains("S zero_optimization.offload_param.pin_memory: default of "
                              "DeepSpeed 0.19.2: false"));
  EXPECT_THAT(older, Contains("S gradient_clipping: default of DeepSpeed 0.19.2: 0.0"));
}

// Few keys have another name: "" is none.
TEST(Origins, AnEmptyKeyHidesNoDefault) {
  ResolveRequest request = Request(R"({"": 1, "zero_optimization": {"stage": 3, "": 2}})");
  request.deepspeed_version = "0.19.8";
  const std::vector<std::string> origins = Origins(request);
  EXPECT_THAT(origins, Contains("S prescale_gradients: default of DeepSpeed 0.19.8: false"));
  EXPECT_THAT(origins, Contains("S zero_optimization.reduce_bucket_size: default of DeepSpeed "
                                "0.19.8: 500000000"));
}

TEST(Origins, RefuseAnUnknownRelease) {
  ResolveRequest request = Request("{}");
  request.deepspeed_version = "0.18.0";
  EXPECT_THAT(ResolveConfig(request), StatusIs(absl::StatusCode::kInvalidArgument,
                                               ::testing::HasSubstr("deepspeed_version")));
}

}  // namespace
}  // namespace zerocast
