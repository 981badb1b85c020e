#include "server/config/deepspeed_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "server/base/errors.h"
#include "server/config/json_reader.h"
#include "server/config/python_error.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using ::testing::HasSubstr;

ConfigValue Read(absl::string_view text) {
  const auto document = ReadJson(text, "test");
  EXPECT_THAT(document, IsOk()) << text;
  return document.ok() ? document->value : ConfigValue();
}

DeepSpeedConfig Make(absl::string_view text) {
  auto config = DeepSpeedConfig::Create(Read(text));
  EXPECT_THAT(config, IsOk()) << text;
  return config.ok() ? *std::move(config) : DeepSpeedConfig();
}

TEST(DeepSpeedConfig, GetValueTellsAbsentFromNull) {
  const DeepSpeedConfig config = Make(R"({"a": {"b": null, "c": 7}, "n": null})");
  EXPECT_EQ(**config.GetValue("a.c"), ConfigValue(7));
  EXPECT_TRUE((**config.GetValue("a.b")).is_null());
  EXPECT_EQ(*config.GetValue("a.x"), nullptr);
  EXPECT_EQ(*config.GetValue("x.y.z"), nullptr);
  EXPECT_EQ(*config.GetValue("n.y"), nullptr);
  EXPECT_TRUE((**config.GetValue("n")).is_null());
}

TEST(DeepSpeedConfig, ANodeThatIsNoObjectIsAnAttributeErrorNamingIt) {
  const DeepSpeedConfig config = Make(R"({"a": {"b": true}, "s": "x"})");
  const auto value = config.GetValue("a.b.c.d");
  EXPECT_EQ(PythonErrorType(value.status()), "AttributeError");
  EXPECT_EQ(value.status().message(), "'bool' object has no attribute 'get'");
  ASSERT_EQ(ViolationsOf(value.status()).size(), 1u);
  EXPECT_EQ(ViolationsOf(value.status())[0].field, "a.b");
  EXPECT_EQ(config.IsTrue("s.t").status().message(), "'str' object has no attribute 'get'");
}

TEST(DeepSpeedConfig, TruthQueries) {
  const DeepSpeedConfig config =
      Make(R"({"yes": "auto", "no": 0, "null": null, "list": [], "f": {"enabled": true}})");
  EXPECT_TRUE(*config.IsTrue("yes"));
  EXPECT_TRUE(*config.IsAuto("yes"));
  EXPECT_FALSE(*config.IsFalse("yes"));
  EXPECT_TRUE(*config.IsTrue("f.enabled"));
  EXPECT_TRUE(*config.IsFalse("no"));
  EXPECT_TRUE(*config.IsFalse("list"));
  for (const char* key : {"null", "absent"}) {
    EXPECT_FALSE(*config.IsTrue(key));
    EXPECT_FALSE(*config.IsFalse(key));
    EXPECT_FALSE(*config.IsAuto(key));
  }
}

TEST(DeepSpeedConfig, FindConfigNodeLetsACallerSetTheLeaf) {
  DeepSpeedConfig config = Make(R"({"a": {"b": {"c": 1}}})");
  (*config.FindConfigNode("a.b.x"))->Set("x", ConfigValue(2));
  EXPECT_EQ(WriteJson(config.root()), R"({"a": {"b": {"c": 1, "x": 2}}})");
  EXPECT_EQ(*config.FindConfigNode("a.y.x"), nullptr);
}

struct StageCase {
  const char* config;
  int stage;
  bool offload;
};

class Stage : public ::testing::TestWithParam<StageCase> {};

TEST_P(Stage, ReadsStageAndOffload) {
  const DeepSpeedConfig config = Make(GetParam().config);
  EXPECT_EQ(config.zero_stage(), GetParam().stage);
  EXPECT_EQ(config.is_zero2(), GetParam().stage == 2);
  EXPECT_EQ(config.is_zero3(), GetParam().stage == 3);
  EXPECT_EQ(config.is_offload(), GetParam().offload);
}

INSTANTIATE_TEST_SUITE_P(
    Configs, Stage,
    ::testing::Values(
        StageCase{"{}", -1, false}, StageCase{R"({"zero_optimization": null})", -1, false},
        StageCase{R"({"zero_optimization": {"stage": 3}})", 3, false},
        StageCase{R"({"zero_optimization": {"stage": 3.0}})", 3, false},
        StageCase{R"({"zero_optimization": {"stage": "3"}})", -1, false},
        StageCase{R"({"zero_optimization": {"stage": "auto"}})", -1, false},
        StageCase{R"({"zero_optimization": {"stage": true}})", 1, false},
        StageCase{R"({"zero_optimization": {"stage": null}})", -1, false},
        StageCase{R"({"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}})",
                  2, true},
        StageCase{R"({"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme"}}})", 3,
                  true},
        StageCase{R"({"zero_optimization": {"stage": 3, "offload_param": {"device": "none"}}})", 3,
                  false},
        StageCase{R"({"zero_optimization": {"stage": 1, "offload_param": {"device": "cpu"}}})", 1,
                  false}));

TEST(DeepSpeedConfig, RefusesWhatTheIntegrationCannotRead) {
  EXPECT_EQ(DeepSpeedConfig::Create(Read("[1]")).status().message(),
            "'list' object has no attribute 'get'");
  EXPECT_EQ(DeepSpeedConfig::Create(Read("null")).status().message(),
            "'NoneType' object has no attribute 'get'");
  EXPECT_EQ(DeepSpeedConfig::Create(Read(R"({"zero_optimization": true})")).status().message(),
            "'bool' object has no attribute 'get'");
  EXPECT_EQ(DeepSpeedConfig::Create(
                Read(R"({"zero_optimization": {"stage": 3, "offload_param": {"device": []}}})"))
                .status()
                .message(),
            "unhashable type: 'list'");
  // It looks up both devices before it puts them into a set.
  EXPECT_EQ(DeepSpeedConfig::Create(Read(R"({"zero_optimization": {"stage": 3,
                "offload_optimizer": {"device": {}}, "offload_param": 5}})"))
                .status()
                .message(),
            "'int' object has no attribute 'get'");
}

TEST(DeepSpeedConfig, DeletesSubTrees) {
  DeepSpeedConfig config = Make(R"({"a": {"b": 1, "c": 2}, "n": null})");
  EXPECT_TRUE(*config.DeleteSubTree("a.b"));
  EXPECT_FALSE(*config.DeleteSubTree("a.b"));
  EXPECT_FALSE(*config.DeleteSubTree("n"));
  EXPECT_FALSE(*config.DeleteSubTree("x.y"));
  EXPECT_EQ(WriteJson(config.root()), R"({"a": {"c": 2}, "n": null})");
  EXPECT_EQ(config.DeleteSubTree("x", true).status().message(),
            "Can't find x entry in the config: {'a': {'c': 2}, 'n': None}");
}

TEST(DeepSpeedConfig, DtypeIsAnErrorBeforeProcessing) {
  DeepSpeedConfig config;
  EXPECT_THAT(config.dtype(), StatusIs(absl::StatusCode::kInvalidArgument,
                                       "trainer_config_process() wasn't called yet to tell dtype"));
  config.set_dtype(TrainingDtype::kBf16);
  EXPECT_EQ(ShortName(*config.dtype()), "bf16");
  EXPECT_EQ(TorchName(*config.dtype()), "bfloat16");
}

}  // namespace
}  // namespace zerocast
