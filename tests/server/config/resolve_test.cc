#include "server/config/resolve.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/base/errors.h"
#include "server/config/json_reader.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

ConfigValue Read(absl::string_view text) {
  const auto document = ReadJson(text, "test");
  EXPECT_THAT(document, IsOk()) << text;
  return document.ok() ? document->value : ConfigValue();
}

// World 2, micro batch 4, accumulation 2, bf16; 100 steps; hidden size 4096.
ResolveRequest Request(std::string config) {
  ResolveRequest request;
  request.config = std::move(config);
  request.arguments.world_size = ConfigValue(2);
  request.arguments.per_device_train_batch_size = ConfigValue(4);
  request.arguments.gradient_accumulation_steps = ConfigValue(2);
  request.arguments.bf16 = ConfigValue(true);
  request.model_config = Read(R"({"hidden_size": 4096})");
  request.num_training_steps = 100;
  return request;
}

Resolution Resolve(const ResolveRequest& request) {
  auto resolution = ResolveConfig(request);
  EXPECT_THAT(resolution, IsOk());
  return resolution.ok() ? *std::move(resolution) : Resolution();
}

std::string Resolved(const ResolveRequest& request) {
  const Resolution resolution = Resolve(request);
  EXPECT_THAT(resolution.status(), IsOk());
  return WriteJson(resolution.config.root());
}

std::string Message(const ResolveRequest& request) {
  const Resolution resolution = Resolve(request);
  return resolution.error.has_value() ? resolution.error->message : "no error";
}

std::vector<std::string> Paths(const absl::Status& status) {
  std::vector<std::string> paths;
  for (const FieldViolation& violation : ViolationsOf(status)) paths.push_back(violation.field);
  return paths;
}

constexpr char kAllAuto[] = R"({
  "train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto",
  "gradient_accumulation_steps": "auto", "gradient_clipping": "auto",
  "optimizer": {"type": "AdamW", "params":
      {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto"}},
  "scheduler": {"type": "WarmupDecayLR", "params": {"total_num_steps": "auto",
      "warmup_min_lr": "auto", "warmup_max_lr": "auto", "warmup_num_steps": "auto"}},
  "fp16": {"enabled": "auto"}, "bf16": {"enabled": "auto"},
  "zero_optimization": {"stage": 3, "reduce_bucket_size": "auto",
      "stage3_prefetch_bucket_size": "auto", "stage3_param_persistence_threshold": "auto"}})";

std::string AllAutoResolved(const std::string& warmup) {
  return R"({"train_batch_size": 16, "train_micro_batch_size_per_gpu": 4, )"
         R"("gradient_accumulation_steps": 2, "gradient_clipping": 1.0, )"
         R"("optimizer": {"type": "AdamW", "params": {"lr": 5e-05, "betas": [0.9, 0.999], )"
         R"("eps": 1e-08, "weight_decay": 0.0}}, )"
         R"("scheduler": {"type": "WarmupDecayLR", "params": {"total_num_steps": 100, )"
         R"("warmup_min_lr": 0, "warmup_max_lr": 5e-05, "warmup_num_steps": )" +
         warmup +
         R"(}}, "fp16": {"enabled": false}, "bf16": {"enabled": true}, )"
         R"("zero_optimization": {"stage": 3, "reduce_bucket_size": 16777216, )"
         R"("stage3_prefetch_bucket_size": 15099494, "stage3_param_persistence_threshold": 40960}})";
}

TEST(ResolveConfig, FillsEveryAuto) {
  const Resolution resolution = Resolve(Request(kAllAuto));
  EXPECT_THAT(resolution.status(), IsOk());
  EXPECT_EQ(WriteJson(resolution.config.root()), AllAutoResolved("1"));
  EXPECT_EQ(*resolution.config.dtype(), TrainingDtype::kBf16);
  EXPECT_EQ(resolution.config.zero_stage(), 3);
}

TEST(ResolveConfig, TheOlderDialectWarmsUpForNoStep) {
  ResolveRequest request = Request(kAllAuto);
  request.dialect = "5.1.0";
  EXPECT_EQ(Resolved(request), AllAutoResolved("0"));
}

TEST(ResolveConfig, AddsNoKeyThatIsNotThere) {
  EXPECT_EQ(Resolved(Request(R"({"optimizer": {"params": {}}, "bf16": {}})")),
            R"({"optimizer": {"params": {}}, "bf16": {}})");
}

TEST(ResolveConfig, LeavesStage3BucketsAutoBelowStage3) {
  ResolveRequest request = Request(
      R"({"optimizer": {}, "zero_optimization": {"stage": 2, "reduce_bucket_size": "auto",
          "stage3_prefetch_bucket_size": "auto", "stage3_param_persistence_threshold": "auto"}})");
  request.model_config = Read(R"({"hidden_size": 7})");
  EXPECT_EQ(Resolved(request),
            R"({"optimizer": {}, "zero_optimization": {"stage": 2, "reduce_bucket_size": 49, )"
            R"("stage3_prefetch_bucket_size": "auto", )"
            R"("stage3_param_persistence_threshold": "auto"}})");
}

TEST(ResolveConfig, CollectsEveryMismatchInPythonsWords) {
  const Resolution resolution = Resolve(Request(
      R"({"train_batch_size": 32, "train_micro_batch_size_per_gpu": 4.0,
          "gradient_accumulation_steps": 2, "gradient_clipping": 1,
          "optimizer": {"params": {"lr": "5e-5", "betas": [0.9, 0.95], "eps": 1e-08,
                                   "weight_decay": false}},
          "bf16": {"enabled": 1}, "fp16": {"enabled": true}})"));
  ASSERT_TRUE(resolution.error.has_value());
  EXPECT_EQ(resolution.error->stage, "init");
  EXPECT_EQ(resolution.error->type, "ValueError");
  EXPECT_EQ(resolution.error->message,
            "Please correct the following DeepSpeed config values that mismatch TrainingArguments "
            "values:\n"
            "- ds train_batch_size=32 vs hf train_batch_size (calculated)=16\n"
            "- ds optimizer.params.lr=5e-5 vs hf learning_rate=5e-05\n"
            "- ds optimizer.params.betas=[0.9, 0.95] vs hf adam_beta1+adam_beta2=[0.9, 0.999]\n"
            "- ds fp16.enabled=True vs hf fp16|fp16_full_eval=False\n"
            "The easiest method is to set these DeepSpeed config values to 'auto'.");
  const absl::Status status = resolution.status();
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kFailedPrecondition, resolution.error->message));
  EXPECT_EQ(ReasonOf(status), "CONFIG_MISMATCH");
  EXPECT_THAT(Paths(status), ElementsAre("train_batch_size", "optimizer.params.lr",
                                         "optimizer.params.betas", "fp16.enabled"));
  EXPECT_EQ(ViolationsOf(status)[1].description, "is 5e-5, but learning_rate is 5e-05");
}

TEST(ResolveConfig, ANullIsNeitherFilledNorCompared) {
  const std::string config = R"({"optimizer": null, "gradient_clipping": null, "fp16": null})";
  EXPECT_EQ(Resolved(Request(config)), config);
}

TEST(ResolveConfig, ABatchSizeThatIsSearchedForNeedNotMatch) {
  const std::string config =
      R"({"optimizer": {}, "train_batch_size": 1, "train_micro_batch_size_per_gpu": 1, )"
      R"("gradient_accumulation_steps": 1})";
  ResolveRequest request = Request(config);
  EXPECT_EQ(Resolve(request).mismatches.size(), 3u);
  request.auto_find_batch_size = true;
  const Resolution resolution = Resolve(request);
  ASSERT_EQ(resolution.mismatches.size(), 1u);
  EXPECT_EQ(resolution.mismatches[0].path, "gradient_accumulation_steps");
}

TEST(ResolveConfig, MinimumLearningRateOfTheWarmupIsFilledButNotCompared) {
  EXPECT_EQ(
      Resolved(Request(R"({"optimizer": {}, "scheduler": {"params": {"warmup_min_lr": 7}}})")),
      R"({"optimizer": {}, "scheduler": {"params": {"warmup_min_lr": 7}}})");
}

TEST(ResolveConfig, SavingOnEachNodeUsesItsStorage) {
  ResolveRequest request = Request(R"({"optimizer": {}, "checkpoint": {"x": 1}})");
  request.arguments.save_on_each_node = ConfigValue(true);
  EXPECT_EQ(Resolved(request),
            R"({"optimizer": {}, "checkpoint": {"x": 1, "use_node_local_storage": true}})");
  request.config = R"({"optimizer": {}})";
  EXPECT_EQ(Resolved(request),
            R"({"optimizer": {}, "checkpoint": {"use_node_local_storage": true}})");
  request.config = R"({"checkpoint": null})";
  EXPECT_EQ(Message(request), "'NoneType' object does not support item assignment");
  request.config = R"({"checkpoint": []})";
  EXPECT_EQ(Message(request), "list indices must be integers or slices, not str");
}

TEST(ResolveConfig, ChoosesTheDtype) {
  const auto dtype = [](const char* config) {
    ResolveRequest request = Request(config);
    request.arguments.bf16 = ConfigValue(false);
    return ShortName(*Resolve(request).config.dtype());
  };
  EXPECT_EQ(dtype("{}"), "fp32");
  EXPECT_EQ(dtype(R"({"fp16": {"enabled": true}})"), "fp16");
  EXPECT_EQ(dtype(R"({"bf16": {"enabled": true}, "fp16": {"enabled": true}})"), "bf16");
  EXPECT_EQ(dtype(R"({"bf16": {"enabled": "auto"}})"), "fp32");
}

TEST(ResolveConfig, FullEvaluationInHalfPrecisionCounts) {
  ResolveRequest request = Request(R"({"optimizer": {}, "fp16": {"enabled": "auto"}})");
  request.arguments.fp16_full_eval = ConfigValue(true);
  EXPECT_EQ(Resolved(request), R"({"optimizer": {}, "fp16": {"enabled": true}})");
}

struct HiddenCase {
  const char* model_config;
  const char* buckets;  // reduce, prefetch, persistence; or the end of the error
};

class Hidden : public ::testing::TestWithParam<HiddenCase> {};

TEST_P(Hidden, SizesTheBuckets) {
  ResolveRequest request = Request(
      R"({"optimizer": {}, "zero_optimization": {"stage": 3, "reduce_bucket_size": "auto",
          "stage3_prefetch_bucket_size": "auto", "stage3_param_persistence_threshold": "auto"}})");
  request.model_config = Read(GetParam().model_config);
  const Resolution resolution = Resolve(request);
  if (resolution.error.has_value()) {
    EXPECT_THAT(resolution.error->message, HasSubstr(GetParam().buckets));
    EXPECT_FALSE(Paths(resolution.status()).empty());
    return;
  }
  const ConfigValue& zero = *resolution.config.root().Find("zero_optimization");
  EXPECT_EQ(absl::StrCat(WriteJson(*zero.Find("reduce_bucket_size")), " ",
                         WriteJson(*zero.Find("stage3_prefetch_bucket_size")), " ",
                         WriteJson(*zero.Find("stage3_param_persistence_threshold"))),
            GetParam().buckets);
}

INSTANTIATE_TEST_SUITE_P(
    Configs, Hidden,
    ::testing::Values(
        HiddenCase{R"({"hidden_size": 5})", "25 22 50"},
        HiddenCase{R"({"hidden_size": 5, "text_config": {"hidden_size": 7}})", "25 22 50"},
        HiddenCase{R"({"hidden_sizes": [16, 64, 32]})", "4096 3686 640"},
        HiddenCase{R"({"text_config": {"hidden_size": 7}})", "49 44 70"},
        HiddenCase{R"({"text_config": {"hidden_sizes": [2, 7]}})", "49 44 70"},
        HiddenCase{R"({"hidden_size": 64.0})", "4096.0 3686 640.0"},
        HiddenCase{R"({"hidden_size": 10000000000})",
                   "100000000000000000000 90000000000000000000 100000000000"},
        HiddenCase{R"({"hidden_size": -8})", "64 57 -80"},
        HiddenCase{R"({"hidden_size": true})", "1 0 10"},
        HiddenCase{R"({"hidden_size": null, "hidden_sizes": [1, 2]})",
                   "['zero_optimization.reduce_bucket_size', "
                   "'zero_optimization.stage3_prefetch_bucket_size', "
                   "'zero_optimization.stage3_param_persistence_threshold']. You can fix"},
        HiddenCase{"{}", "neither `hidden_size` nor `hidden_sizes`"},
        HiddenCase{"null", "neither `hidden_size` nor `hidden_sizes`"},
        HiddenCase{R"({"d_model": 8, "text_config": null})", "neither `hidden_size`"},
        HiddenCase{R"({"hidden_size": "64"})", "can't multiply sequence by non-int of type 'str'"},
        HiddenCase{R"({"hidden_sizes": []})", "max() arg is an empty sequence"},
        HiddenCase{R"({"hidden_sizes": ""})", "max() arg is an empty sequence"},
        HiddenCase{R"({"hidden_sizes": "64"})", "can't multiply sequence by non-int of type 'str'"},
        HiddenCase{R"({"hidden_sizes": {"b": 1}})",
                   "can't multiply sequence by non-int of type 'str'"},
        HiddenCase{R"({"hidden_sizes": [[1, 2], [1, 3]]})",
                   "can't multiply sequence by non-int of type 'list'"},
        HiddenCase{R"({"hidden_sizes": [[1, 2], [1, "3"]]})",
                   "'>' not supported between instances of 'str' and 'int'"},
        HiddenCase{R"({"hidden_sizes": null})", "'NoneType' object is not iterable"},
        HiddenCase{R"({"hidden_sizes": [1, "2"]})",
                   "'>' not supported between instances of 'str' and 'int'"}));

TEST(ResolveConfig, NeedsNoHiddenSizeWhereNothingIsAuto) {
  ResolveRequest request =
      Request(R"({"optimizer": {}, "zero_optimization": {"stage": 3, "reduce_bucket_size": 5e8}})");
  request.model_config = ConfigValue();
  EXPECT_THAT(Resolved(request), HasSubstr("500000000.0"));
}

struct WarmupCase {
  const char* warmup_steps;
  int64_t num_training_steps;
  const char* steps;
};

class Warmup : public ::testing::TestWithParam<WarmupCase> {};

TEST_P(Warmup, CountsSteps) {
  ResolveRequest request =
      Request(R"({"optimizer": {}, "scheduler": {"params": {"warmup_num_steps": "auto"}}})");
  request.arguments.warmup_steps = Read(GetParam().warmup_steps);
  request.num_training_steps = GetParam().num_training_steps;
  EXPECT_EQ(Resolved(request),
            absl::StrCat(R"({"optimizer": {}, "scheduler": {"params": {"warmup_num_steps": )",
                         GetParam().steps, "}}}"));
}

INSTANTIATE_TEST_SUITE_P(Cases, Warmup,
                         ::testing::Values(WarmupCase{"0.03", 101, "4"},
                                           WarmupCase{"0.07", 100, "8"}, WarmupCase{"0", 100, "1"},
                                           WarmupCase{"-0.0", 100, "1"}, WarmupCase{"1", 100, "1"},
                                           WarmupCase{"2.7", 100, "2"},
                                           WarmupCase{"500", 100, "500"},
                                           WarmupCase{"true", 50, "1"}, WarmupCase{"0.5", 0, "1"}));

TEST(ResolveConfig, StepsOfTheSchedulerMustMatch) {
  ResolveRequest request = Request(
      R"({"optimizer": {}, "scheduler": {"params": {"warmup_num_steps": 500, "total_num_steps": 1000}}})");
  request.num_training_steps = 0;
  request.dialect = "5.1.0";
  EXPECT_THAT(
      Message(request),
      HasSubstr(
          "\n- ds scheduler.params.total_num_steps=1000 vs hf num_training_steps "
          "(calculated)=0\n- ds scheduler.params.warmup_num_steps=500 vs hf warmup_steps=0\n"));
}

// The evaluation counts no steps: a config for training that names them is refused.
TEST(ResolveConfig, StepsOfTheSchedulerMismatchInEvaluation) {
  ResolveRequest request = Request(R"({"zero_optimization": {"stage": 3},
      "scheduler": {"params": {"total_num_steps": 1000, "warmup_num_steps": "auto"}}})");
  request.num_training_steps.reset();
  request.inference = true;
  EXPECT_THAT(Message(request),
              HasSubstr("\n- ds scheduler.params.total_num_steps=1000 vs hf num_training_steps "
                        "(calculated)=0\nThe easiest"));
}

TEST(ResolveConfig, ANumberTooLongToPrintIsAnErrorOfTheMessage) {
  ResolveRequest request = Request(R"({"train_batch_size": 1})");
  request.arguments.per_device_train_batch_size =
      ConfigValue(ConfigInteger::FromDecimal(std::string(4000, '9')));
  request.arguments.gradient_accumulation_steps = request.arguments.per_device_train_batch_size;
  const Resolution resolution = Resolve(request);
  ASSERT_TRUE(resolution.error.has_value());
  EXPECT_EQ(resolution.error->stage, "process");
  EXPECT_EQ(resolution.error->type, "ValueError");
  EXPECT_THAT(resolution.error->message, HasSubstr("Exceeds the limit (4300 digits)"));
  EXPECT_THAT(Paths(resolution.status()), ElementsAre("train_batch_size"));
}

TEST(ResolveConfig, WithoutStepsOnlyProcesses) {
  ResolveRequest request = Request(
      R"({"train_batch_size": "auto", "scheduler": {"params": {"total_num_steps": "auto"}}})");
  request.num_training_steps.reset();
  EXPECT_EQ(Resolved(request),
            R"({"train_batch_size": 16, "scheduler": {"params": {"total_num_steps": "auto"}}})");
  request.config = R"({"train_batch_size": 1})";
  const Resolution resolution = Resolve(request);
  EXPECT_EQ(ReasonOf(resolution.status()), "CONFIG_MISMATCH");
  EXPECT_EQ(resolution.error->stage, "process");
}

TEST(ResolveConfig, InferenceNeedsStage3AndDropsTheOptimizer) {
  ResolveRequest request = Request(
      R"({"optimizer": {"type": "AdamW"}, "scheduler": {}, "lr_scheduler": {}, "zero_optimization": {"stage": 3}})");
  request.inference = true;
  request.num_training_steps.reset();
  const Resolution resolution = Resolve(request);
  EXPECT_EQ(WriteJson(resolution.config.root()),
            R"({"scheduler": {}, "zero_optimization": {"stage": 3}})");
  EXPECT_EQ(resolution.optimizer, MadeBy::kNobody);
  EXPECT_EQ(resolution.scheduler, MadeBy::kNobody);
  EXPECT_NE(resolution.processed.root().Find("optimizer"), nullptr);
  request.config = R"({"zero_optimization": {"stage": "3"}})";
  EXPECT_EQ(Message(request),
            "ZeRO inference only makes sense with ZeRO Stage 3 - please adjust your config");
  EXPECT_THAT(Paths(Resolve(request).status()), ElementsAre("zero_optimization.stage"));
}

struct Choice {
  const char* config;
  MadeBy optimizer, scheduler;
  bool untested;
};

class Choices : public ::testing::TestWithParam<Choice> {};

TEST_P(Choices, OfOptimizerAndScheduler) {
  const Resolution resolution = Resolve(Request(GetParam().config));
  EXPECT_EQ(resolution.optimizer, GetParam().optimizer);
  EXPECT_EQ(resolution.scheduler, GetParam().scheduler);
  EXPECT_EQ(*resolution.config.IsTrue("zero_allow_untested_optimizer"), GetParam().untested);
  EXPECT_EQ(resolution.calls.size(), GetParam().untested ? 1u : 0u);
}

INSTANTIATE_TEST_SUITE_P(
    Four, Choices,
    ::testing::Values(Choice{R"({"optimizer": {}, "scheduler": {}})", MadeBy::kDeepSpeed,
                             MadeBy::kDeepSpeed, false},
                      Choice{R"({"optimizer": null})", MadeBy::kDeepSpeed, MadeBy::kTrainer, false},
                      Choice{R"({"scheduler": {}, "zero_allow_untested_optimizer": false})",
                             MadeBy::kTrainer, MadeBy::kDeepSpeed, true},
                      Choice{"{}", MadeBy::kTrainer, MadeBy::kNobody, true}));

TEST(ResolveConfig, NoticesOffloadWithTheTrainersOptimizer) {
  const Resolution with = Resolve(
      Request(R"({"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}})"));
  ASSERT_EQ(with.log_lines.size(), 1u);
  EXPECT_THAT(with.log_lines[0], HasSubstr("Detected ZeRO Offload and non-DeepSpeed optimizers"));
  EXPECT_THAT(
      Resolve(
          Request(
              R"({"optimizer": {}, "zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}})"))
          .log_lines,
      IsEmpty());
}

TEST(ResolveConfig, NotesTensorParallelInitialisation) {
  const auto calls = [](const char* size) {
    return Resolve(Request(absl::StrCat(R"({"optimizer": {}, "bf16": {"enabled": true}, )"
                                        R"("tensor_parallel": {"autotp_size": )",
                                        size, "}}")))
        .calls;
  };
  EXPECT_THAT(calls("2"), ElementsAre("tp_model_init(2, bfloat16)"));
  EXPECT_THAT(calls("2.0"), ElementsAre("tp_model_init(2.0, bfloat16)"));
  EXPECT_THAT(calls("1"), IsEmpty());
  EXPECT_THAT(calls("true"), IsEmpty());
  EXPECT_EQ(Message(Request(R"({"tensor_parallel": {"autotp_size": "2"}})")),
            "'>' not supported between instances of 'str' and 'int'");
  EXPECT_EQ(Message(Request(R"({"tensor_parallel": null})")),
            "'NoneType' object has no attribute 'get'");
}

struct BadSection {
  const char* config;
  const char* stage;
  const char* path;
};

class BadSections : public ::testing::TestWithParam<BadSection> {};

TEST_P(BadSections, AreInvalidArgumentsNamingThePath) {
  const Resolution resolution = Resolve(Request(GetParam().config));
  ASSERT_TRUE(resolution.error.has_value());
  EXPECT_EQ(resolution.error->stage, GetParam().stage);
  EXPECT_THAT(resolution.status(), StatusIs(absl::StatusCode::kInvalidArgument, testing::_));
  EXPECT_EQ(ReasonOf(resolution.status()), "INVALID_FIELDS");
  EXPECT_THAT(Paths(resolution.status()), ElementsAre(GetParam().path));
  // Nothing of ours beyond google.rpc's two details goes over the wire.
  int payloads = 0;
  resolution.status().ForEachPayload([&](absl::string_view url, const absl::Cord&) {
    EXPECT_TRUE(absl::StartsWith(url, "type.googleapis.com/google.rpc.")) << url;
    ++payloads;
  });
  EXPECT_EQ(payloads, 2);
}

INSTANTIATE_TEST_SUITE_P(
    Sections, BadSections,
    ::testing::Values(BadSection{"[1]", "parse", "config"}, BadSection{"null", "parse", "config"},
                      BadSection{"\"a string\"", "parse", "config"},
                      BadSection{"{", "parse", "config"},
                      BadSection{R"({"zero_optimization": true})", "parse", "zero_optimization"},
                      BadSection{R"({"zero_optimization": {"stage": 3, "offload_param": "cpu"}})",
                                 "parse", "zero_optimization.offload_param"},
                      BadSection{R"({"fp16": true})", "process", "fp16"},
                      BadSection{R"({"optimizer": {"params": []}})", "process", "optimizer.params"},
                      BadSection{R"({"tensor_parallel": 2})", "init", "tensor_parallel"}));

TEST(ResolveConfig, AValueMustBeADict) {
  ResolveRequest request = Request("");
  const auto message = [&request](absl::string_view value) {
    request.config = Read(value);
    return Message(request);
  };
  EXPECT_EQ(message("[]"), "stat: path should be string, bytes, os.PathLike or integer, not list");
  EXPECT_EQ(message("null"),
            "stat: path should be string, bytes, os.PathLike or integer, not NoneType");
  EXPECT_EQ(message("12345"), "the JSON object must be str, bytes or bytearray, not int");
  EXPECT_EQ(message("-2147483648"), "the JSON object must be str, bytes or bytearray, not int");
  EXPECT_EQ(message("2147483648"), "fd is greater than maximum");
  EXPECT_EQ(message("-1" + std::string(400, '0')), "fd is less than minimum");
  EXPECT_THAT(message("\"x\""), HasSubstr("Received: x"));
  EXPECT_EQ(message(R"({"optimizer": null})"), "no error");
}

TEST(ResolveConfig, RefusesARequestThatItCannotRead) {
  ResolveRequest request = Request("{}");
  request.dialect = "4.0.0";
  request.num_training_steps = -1;
  const auto resolution = ResolveConfig(request);
  EXPECT_THAT(resolution, StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("5.23.0, 5.1.0")));
  EXPECT_THAT(Paths(resolution.status()), ElementsAre("dialect", "num_training_steps"));
  EXPECT_THAT(ResolveConfig(Request(std::string(300, '['))),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("levels")));
  EXPECT_THAT(ResolveConfig(Request("{\"a\": \"\xFF\"}")),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("UTF-8")));
}

TEST(ResolveConfig, ReportsKeysGivenTwice) {
  EXPECT_THAT(Resolve(Request(R"({"fp16": {}, "fp16": {"enabled": false}})")).duplicate_keys,
              ElementsAre("fp16"));
  // Also of a text that comes as a value.
  ResolveRequest request = Request("");
  request.config = ConfigValue(R"({"fp16": {}, "fp16": {"enabled": false}})");
  EXPECT_THAT(Resolve(request).duplicate_keys, ElementsAre("fp16"));
}

}  // namespace
}  // namespace zerocast
