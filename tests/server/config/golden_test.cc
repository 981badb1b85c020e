// What Transformers 5.23.0 (and 5.1.0), accelerate 1.15.0 and DeepSpeed 0.19.8 did with configs.
#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/base/errors.h"
#include "server/config/json_reader.h"
#include "server/config/resolve.h"
#include "tests/server/config/data_file.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

absl::StatusOr<Resolution> Resolve(const ConfigValue& line) {
  ResolveRequest request;
  if (const ConfigValue* config = line.Find("ds_config")) request.config = *config;
  for (const char* key : {"ds_config_text", "ds_config_base64"}) {
    if (const ConfigValue* config = line.Find(key)) request.config = *config->text();
  }
  auto arguments = ReadTrainingArguments(*line.Find("args"));
  if (!arguments.ok()) return arguments.status();
  request.arguments = *std::move(arguments);
  request.model_config = *line.Find("model_config");
  int64_t steps = 0;
  EXPECT_TRUE(line.Find("num_training_steps")->integer()->ToInt64(&steps));
  request.num_training_steps = steps;
  request.inference = *line.Find("inference")->boolean();
  request.auto_find_batch_size = *line.Find("auto_find_batch_size")->boolean();
  if (const ConfigValue* dialect = line.Find("dialect")) request.dialect = *dialect->text();
  return ResolveConfig(request);
}

// The queries that the golden file asks.
ConfigValue Queries(const DeepSpeedConfig& config) {
  constexpr const char* kKeys[] = {"zero_optimization.stage", "fp16.enabled", "bf16.enabled",
                                   "optimizer.params.lr",     "nope.nope",    "train_batch_size"};
  ConfigValue out{ConfigValue::Object()};
  out.Set("is_zero2", ConfigValue(config.is_zero2()));
  out.Set("is_zero3", ConfigValue(config.is_zero3()));
  out.Set("is_offload", ConfigValue(config.is_offload()));
  for (const char* question : {"get_value", "is_true", "is_false", "is_auto"}) {
    out.Set(question, ConfigValue(ConfigValue::Object()));
  }
  for (const char* key : kKeys) {
    const ConfigValue* value = *config.GetValue(key);
    out.Find("get_value")->Set(key, value == nullptr ? ConfigValue() : *value);
    out.Find("is_true")->Set(key, ConfigValue(*config.IsTrue(key)));
    out.Find("is_false")->Set(key, ConfigValue(*config.IsFalse(key)));
    out.Find("is_auto")->Set(key, ConfigValue(*config.IsAuto(key)));
  }
  return out;
}

ConfigValue Strings(const std::vector<std::string>& strings) {
  ConfigValue::Array out;
  for (const std::string& string : strings) out.emplace_back(string);
  return ConfigValue(std::move(out));
}

// The golden file's `expect`, from a resolution.
ConfigValue Describe(const Resolution& resolution) {
  ConfigValue out{ConfigValue::Object()};
  const auto dtype = resolution.config.dtype();
  if (dtype.ok()) out.Set("dtype", ConfigValue(std::string(TorchName(*dtype))));
  if (resolution.error.has_value()) {
    ConfigValue error{ConfigValue::Object()};
    error.Set("stage", ConfigValue(resolution.error->stage));
    error.Set("type", ConfigValue(resolution.error->type));
    error.Set("message", ConfigValue(resolution.error->message));
    out.Set("error", std::move(error));
    return out;
  }
  const auto null_or = [](bool null, const char* name) {
    return null ? ConfigValue() : ConfigValue(name);
  };
  out.Set("optimizer",
          null_or(resolution.optimizer == MadeBy::kNobody,
                  resolution.optimizer == MadeBy::kTrainer ? "trainer" : "DummyOptim"));
  out.Set("lr_scheduler", null_or(resolution.scheduler == MadeBy::kNobody, "DummyScheduler"));
  out.Set("lr_scheduler_from_trainer", ConfigValue(resolution.scheduler == MadeBy::kTrainer));
  out.Set("calls", Strings(resolution.calls));
  out.Set("log", Strings(resolution.log_lines));
  out.Set("resolved", resolution.config.root());
  out.Set("queries", Queries(resolution.config));
  return out;
}

class Golden : public ::testing::TestWithParam<std::string> {};

TEST_P(Golden, EveryCaseComesOutAsInPython) {
  const std::vector<ConfigValue> lines = ReadConfigCases(GetParam());
  ASSERT_FALSE(lines.empty());
  std::map<std::string, int> passed;
  for (const ConfigValue& line : lines) {
    const std::string& id = *line.Find("id")->text();
    const auto resolution = Resolve(line);
    ASSERT_THAT(resolution, IsOk()) << id;
    // Strict: the types and the order of the keys count.
    ConfigValue expected = *line.Find("expect");
    const ConfigValue* after_process = expected.Find("queries_after_process");
    if (after_process != nullptr) {
      EXPECT_EQ(WriteJson(Queries(resolution->processed)), WriteJson(*after_process)) << id;
    }
    expected.Erase("queries_after_process");
    const ConfigValue actual = Describe(*resolution);
    EXPECT_EQ(WriteJson(actual), WriteJson(expected)) << id;
    EXPECT_EQ(actual, expected) << id;
    EXPECT_EQ(resolution->status().ok(), !resolution->error.has_value()) << id;
    EXPECT_EQ(ViolationsOf(resolution->status()).empty(), !resolution->error.has_value()) << id;
    const ConfigValue* error = expected.Find("error");
    const std::string kind =
        error == nullptr ? "resolved" : error->Find("message")->text()->substr(0, 60);
    if (actual == expected) ++passed[kind];
  }
  int total = 0;
  for (const auto& [kind, count] : passed) {
    std::printf("%5d  %s\n", count, kind.c_str());
    total += count;
  }
  std::printf("%5d of %zu cases\n", total, lines.size());
  EXPECT_EQ(static_cast<size_t>(total), lines.size());
}

INSTANTIATE_TEST_SUITE_P(Files, Golden,
                         ::testing::Values("config.jsonl.gz", "config-odd.jsonl.gz",
                                           "config-made.jsonl.gz", "config-made-5.1.0.jsonl.gz"));

// A file of tests/oracle/make_config_cases.py, named by ZC_CONFIG_CASES.
std::vector<std::string> NamedFile() {
  const char* path = std::getenv("ZC_CONFIG_CASES");
  return path == nullptr ? std::vector<std::string>() : std::vector<std::string>{path};
}
INSTANTIATE_TEST_SUITE_P(Named, Golden, ::testing::ValuesIn(NamedFile()));
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(Golden);

TEST(GoldenFiles, AreWhole) {
  EXPECT_EQ(ReadConfigCases("config.jsonl.gz").size(), 500u);
  EXPECT_EQ(ReadConfigCases("config-odd.jsonl.gz").size(), 60u);
}

// Resolving a resolved config changes nothing.
TEST(GoldenFiles, AResolvedConfigResolvesToItself) {
  for (ConfigValue& line : ReadConfigCases("config.jsonl.gz")) {
    const auto first = Resolve(line);
    ASSERT_THAT(first, IsOk());
    if (first->error.has_value()) continue;
    line.Set("ds_config", first->config.root());
    const auto second = Resolve(line);
    ASSERT_THAT(second, IsOk());
    EXPECT_THAT(second->status(), IsOk());
    EXPECT_EQ(second->config.root(), first->config.root());
  }
}

}  // namespace
}  // namespace zerocast
