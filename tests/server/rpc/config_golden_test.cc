// The golden configs through the wire: as answers of BatchResolveConfigs and of ResolveConfig they
// are what Transformers did, byte for byte.
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "google/rpc/error_details.pb.h"
#include "server/config/json_reader.h"
#include "tests/server/config/data_file.h"
#include "tests/server/rpc/server_fixture.h"

namespace zerocast {
namespace {

constexpr const char* kQueryPaths[] = {
    "zero_optimization.stage", "fp16.enabled", "bf16.enabled",
    "optimizer.params.lr",     "nope.nope",    "train_batch_size"};

v1::ResolveConfigRequest Request(const ConfigValue& line) {
  v1::ResolveConfigRequest request;
  if (const ConfigValue* config = line.Find("ds_config")) {
    request.set_config_value_json(WriteJson(*config));
  } else if (const ConfigValue* text = line.Find("ds_config_text")) {
    request.set_config_json(*text->text());
  } else {
    request.set_config_base64(*line.Find("ds_config_base64")->text());
  }
  request.set_training_arguments_json(WriteJson(*line.Find("args")));
  request.set_model_config_json(WriteJson(*line.Find("model_config")));
  int64_t steps = 0;
  EXPECT_TRUE(line.Find("num_training_steps")->integer()->ToInt64(&steps));
  request.set_num_training_steps(steps);
  request.set_inference(*line.Find("inference")->boolean());
  request.set_auto_find_batch_size(*line.Find("auto_find_batch_size")->boolean());
  for (const char* path : kQueryPaths) request.add_query_paths(path);
  return request;
}

ConfigValue Parse(const std::string& json) {
  auto document = ReadJson(json, "answer");
  EXPECT_THAT(document, IsOk());
  return document.ok() ? std::move(document->value) : ConfigValue();
}

ConfigValue Queries(const v1::ConfigAnswers& answers) {
  ConfigValue out{ConfigValue::Object()};
  out.Set("is_zero2", ConfigValue(answers.is_zero2()));
  out.Set("is_zero3", ConfigValue(answers.is_zero3()));
  out.Set("is_offload", ConfigValue(answers.is_offload()));
  for (const char* question : {"get_value", "is_true", "is_false", "is_auto"}) {
    out.Set(question, ConfigValue(ConfigValue::Object()));
  }
  for (const v1::PathAnswer& answer : answers.paths()) {
    EXPECT_FALSE(answer.has_error());
    out.Find("get_value")
        ->Set(answer.path(), answer.has_value_json() ? Parse(answer.value_json()) : ConfigValue());
    out.Find("is_true")->Set(answer.path(), ConfigValue(answer.is_true()));
    out.Find("is_false")->Set(answer.path(), ConfigValue(answer.is_false()));
    out.Find("is_auto")->Set(answer.path(), ConfigValue(answer.is_auto()));
  }
  return out;
}

template <typename Strings>
ConfigValue List(const Strings& strings) {
  ConfigValue::Array out;
  for (const std::string& string : strings) out.emplace_back(string);
  return ConfigValue(std::move(out));
}

ConfigValue Error(const std::string& stage, const std::string& type, const std::string& message) {
  ConfigValue error{ConfigValue::Object()};
  error.Set("stage", ConfigValue(stage));
  error.Set("type", ConfigValue(type));
  error.Set("message", ConfigValue(message));
  return error;
}

// The golden file's `expect`, but for an error, from a response.
ConfigValue Describe(const v1::ResolveConfigResponse& response, bool resolved) {
  ConfigValue out{ConfigValue::Object()};
  if (response.has_queries_after_process()) {
    out.Set("queries_after_process", Queries(response.queries_after_process()));
  }
  if (!response.dtype().empty()) {
    out.Set("dtype", ConfigValue(response.dtype() == "bf16"   ? "bfloat16"
                                 : response.dtype() == "fp16" ? "float16"
                                                              : "float32"));
  }
  if (!resolved) return out;
  const auto null_or = [](v1::MadeBy who, const char* name) {
    return who == v1::MADE_BY_NOBODY ? ConfigValue() : ConfigValue(name);
  };
  out.Set("optimizer",
          null_or(response.optimizer(),
                  response.optimizer() == v1::MADE_BY_TRAINER ? "trainer" : "DummyOptim"));
  out.Set("lr_scheduler", null_or(response.lr_scheduler(), "DummyScheduler"));
  out.Set("lr_scheduler_from_trainer", ConfigValue(response.lr_scheduler() == v1::MADE_BY_TRAINER));
  out.Set("calls", List(response.calls()));
  out.Set("log", List(response.log_lines()));
  out.Set("resolved", Parse(response.config_json()));
  out.Set("queries", Queries(response.queries()));
  return out;
}

class ConfigGolden : public ServerTest, public ::testing::WithParamInterface<const char*> {};

TEST_P(ConfigGolden, EveryCaseInOneBatchComesOutAsInPython) {
  const std::vector<ConfigValue> lines = ReadConfigCases(GetParam());
  ASSERT_FALSE(lines.empty());
  v1::BatchResolveConfigsRequest batch;
  for (const ConfigValue& line : lines) *batch.add_requests() = Request(line);
  ZC_ASSERT_OK_AND_ASSIGN(
      const auto answer,
      Call(configs_, &v1::ConfigService::Stub::BatchResolveConfigs, batch, absl::Seconds(60)));
  ASSERT_EQ(answer.results_size(), static_cast<int>(lines.size()));
  for (size_t i = 0; i < lines.size(); ++i) {
    const v1::ResolveConfigResult& result = answer.results(static_cast<int>(i));
    const ConfigValue& expected = *lines[i].Find("expect");
    ConfigValue actual = Describe(result.response(), !result.has_status());
    if (result.has_error()) {
      actual.Set("error",
                 Error(result.error().stage(), result.error().type(), result.error().message()));
      EXPECT_EQ(result.status().message(), result.error().message());
    }
    EXPECT_EQ(result.has_status(), result.has_error());
    EXPECT_EQ(WriteJson(actual), WriteJson(expected)) << *lines[i].Find("id")->text();
  }
}

// Errors whose text fits a gRPC status come whole from the unary call too, with their stage and
// type in the ErrorInfo.
TEST_P(ConfigGolden, EveryCaseByItselfComesOutAsInPython) {
  // Of 8 KB of metadata the status takes its message twice: as text, up to three times as long, and
  // in the details.
  constexpr size_t kShort = 1000;
  const std::vector<ConfigValue> lines = ReadConfigCases(GetParam());
  size_t compared = 0;
  for (const ConfigValue& line : lines) {
    const std::string& id = *line.Find("id")->text();
    ConfigValue expected = *line.Find("expect");
    const auto answer = Call(configs_, &v1::ConfigService::Stub::ResolveConfig, Request(line));
    const ConfigValue* error = expected.Find("error");
    ASSERT_EQ(answer.ok(), error == nullptr) << id << answer.status();
    if (error == nullptr) {
      EXPECT_EQ(WriteJson(Describe(*answer, true)), WriteJson(expected)) << id;
      ++compared;
      continue;
    }
    if (error->Find("message")->text()->size() > kShort) continue;
    google::rpc::ErrorInfo info;
    ASSERT_TRUE(info.ParseFromString(std::string(*answer.status().GetPayload(kErrorInfoUrl))));
    const ConfigValue actual = Error(info.metadata().at("stage"), info.metadata().at("type"),
                                     std::string(answer.status().message()));
    EXPECT_EQ(WriteJson(actual), WriteJson(*error)) << id;
    EXPECT_FALSE(ViolationsOf(answer.status()).empty()) << id;
    ++compared;
  }
  std::printf("%zu of %zu cases compared\n", compared, lines.size());
  EXPECT_GE(compared, lines.size() * 9 / 10);
}

// An admission webhook's answer: the verdict and nothing else.
TEST_P(ConfigGolden, ValidateOnlyGivesTheSameVerdict) {
  v1::BatchResolveConfigsRequest full, verdicts;
  for (const ConfigValue& line : ReadConfigCases(GetParam())) {
    v1::ResolveConfigRequest request = Request(line);
    request.clear_query_paths();
    *full.add_requests() = request;
    request.set_validate_only(true);
    *verdicts.add_requests() = request;
  }
  ASSERT_GT(full.requests_size(), 0);
  ZC_ASSERT_OK_AND_ASSIGN(
      const auto expected,
      Call(configs_, &v1::ConfigService::Stub::BatchResolveConfigs, full, absl::Seconds(60)));
  ZC_ASSERT_OK_AND_ASSIGN(
      const auto actual,
      Call(configs_, &v1::ConfigService::Stub::BatchResolveConfigs, verdicts, absl::Seconds(60)));
  for (int i = 0; i < full.requests_size(); ++i) {
    EXPECT_EQ(actual.results(i).status().code(), expected.results(i).status().code());
    EXPECT_EQ(actual.results(i).error().SerializeAsString(),
              expected.results(i).error().SerializeAsString());
    const v1::ResolveConfigResponse& response = actual.results(i).response();
    EXPECT_EQ(response.config_json(), "");
    EXPECT_EQ(response.origins_size(), 0);
    EXPECT_EQ(response.dtype(), expected.results(i).response().dtype());
  }
}

INSTANTIATE_TEST_SUITE_P(Files, ConfigGolden,
                         ::testing::Values("config.jsonl.gz", "config-odd.jsonl.gz"));

}  // namespace
}  // namespace zerocast
