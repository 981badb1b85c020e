#include "server/config/lint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/base/errors.h"
#include "server/config/json_reader.h"
#include "server/config/lint_table.h"
#include "server/config/lint_value.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

std::vector<LintFinding> Lint(const std::string& text, LintRequest request = {}) {
  const auto document = ReadJson(text, "config");
  EXPECT_THAT(document, IsOk());
  if (!document.ok()) return {};
  request.config = &document->value;
  request.duplicate_keys = document->duplicate_keys;
  const auto findings = LintConfig(request);
  EXPECT_THAT(findings, IsOk());
  return findings.ok() ? *findings : std::vector<LintFinding>();
}

std::vector<std::string> Paths(const std::vector<LintFinding>& findings) {
  std::vector<std::string> paths;
  for (const LintFinding& finding : findings) paths.push_back(finding.path);
  return paths;
}

TEST(Lint, AConfigInOrderHasNoFindings) {
  EXPECT_THAT(Lint(R"({"train_batch_size": 8, "zero_optimization": {"stage": 3}})"), IsEmpty());
}

TEST(Lint, AnUnknownVersionIsRefusedAndTheKnownAreNamed) {
  const ConfigValue config{ConfigValue::Object()};
  LintRequest request;
  request.config = &config;
  request.deepspeed_version = "0.18.0";
  const auto findings = LintConfig(request);
  EXPECT_THAT(findings, StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("0.19.0")));
  EXPECT_EQ(ReasonOf(findings.status()), "INVALID_FIELDS");
}

TEST(Lint, AWorldOfNoProcessIsRefused) {
  const ConfigValue config{ConfigValue::Object()};
  LintRequest request;
  request.config = &config;
  request.world_size = 0;
  EXPECT_THAT(LintConfig(request),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("world_size")));
}

TEST(Lint, NoVersionMeansTheNewest) {
  const std::string config = R"({"train_batch_size": 1, "amp": {"enabled": false}})";
  const std::vector<LintFinding> findings = Lint(config);
  ASSERT_THAT(findings, SizeIs(1));
  EXPECT_EQ(findings[0].severity, LintSeverity::kError);
  LintRequest older;
  older.deepspeed_version = "0.19.7";
  EXPECT_EQ(Lint(config, older)[0].severity, LintSeverity::kNotice);
}

TEST(Lint, ParametersWithoutDimensionsAreNamed) {
  const std::string config = R"({"train_batch_size": 8, "zero_optimization": {"stage": 2}})";
  LintRequest request;
  request.scalar_parameters = {"scale"};
  const std::vector<LintFinding> findings = Lint(config, request);
  ASSERT_THAT(findings, SizeIs(1));
  EXPECT_EQ(findings[0].rule, "scalar-parameter");
  EXPECT_EQ(findings[0].severity, LintSeverity::kError);
  EXPECT_THAT(findings[0].message, HasSubstr(": scale"));
  request.deepspeed_version = "0.19.7";
  EXPECT_THAT(Lint(config, request), IsEmpty());
  request.deepspeed_version.clear();
  request.scalar_parameters.assign(7, "s");
  EXPECT_THAT(Lint(config, request)[0].message, HasSubstr(": s, s, s, s, s and 2 more"));
}

// A text is a number for no optimizer; who refuses it depends on whose class is made.
TEST(Lint, ValuesOfAnOptimizerAreJudgedByWhoMakesIt) {
  const auto lint = [](const std::string& type, const std::string& params) {
    return Lint(absl::StrCat(R"({"train_batch_size": 8, "optimizer": {"type": ")", type,
                             R"(", "params": {)", params, "}}}"));
  };
  for (const char* lr : {R"("5e-5")", "null", "[1]", "-1", "NaN"}) {
    const auto own = lint("AdamW", absl::StrCat("\"lr\": ", lr));
    ASSERT_THAT(own, SizeIs(1)) << lr;
    EXPECT_EQ(own[0].path, "optimizer.params.lr");
    EXPECT_EQ(own[0].severity, LintSeverity::kWarning);
    const auto torchs = lint("AdamW", absl::StrCat(R"("torch_adam": true, "lr": )", lr));
    ASSERT_THAT(torchs, SizeIs(1)) << lr;
    EXPECT_EQ(torchs[0].severity, LintSeverity::kError);
  }
  for (const char* lr : {"0", "1e-5", "true", "\"auto\""}) {
    EXPECT_THAT(lint("AdamW", absl::StrCat("\"lr\": ", lr)), IsEmpty()) << lr;
  }
  EXPECT_THAT(lint("Muon", R"("momentum": "x")"), SizeIs(1));
  for (const auto& found : {lint("AdamW", R"("lr": Infinity)"), lint("SGD", R"("lr": NaN)")}) {
    ASSERT_THAT(found, SizeIs(1));
    EXPECT_EQ(found[0].rule, "not-finite");
  }
}

// The integration lets them pass; whoever lints learns what becomes of them.
TEST(Lint, InfinityAndNanAreReportedWithWhatDeepSpeedDoes) {
  const auto findings = Lint(R"({"train_batch_size": 8, "gradient_clipping": 1e400,
      "steps_per_print": Infinity, "mine": {"x": [1, -Infinity]}, "inference": {"x": NaN},
      "zero_optimization": {"stage": 3, "reduce_bucket_size": 1e400}})");
  std::vector<std::string> told;
  for (const LintFinding& finding : findings) {
    told.push_back(
        absl::StrCat(LintSeverityName(finding.severity), " ", finding.path, " ", finding.message));
  }
  EXPECT_THAT(told,
              ElementsAre("warning gradient_clipping is Infinity (1e400 reads so too), which JSON "
                          "has not and Python's json takes; DeepSpeed takes it as it is from "
                          "Transformers; in a file it fails on it or takes it for text",
                          "notice steps_per_print is Infinity (1e400 reads so too), which JSON has "
                          "not and Python's json takes; DeepSpeed never reports progress, as "
                          "Accelerate wants it",
                          HasSubstr("warning mine \"mine\" is no key of DeepSpeed"),
                          HasSubstr("warning mine.x[1] is -Infinity (1e400"),
                          HasSubstr("warning inference.x is NaN, which JSON has not"),
                          "error zero_optimization.reduce_bucket_size must be an integer, is "
                          "Infinity; DeepSpeed fails on it"));
  EXPECT_THAT(findings[3].message, HasSubstr("DeepSpeed does not read it"));
}

TEST(Lint, ANullSectionIsReportedWithWhatDeepSpeedDoes) {
  const auto findings = Lint(R"({"train_batch_size": 8, "fp16": null, "bf16": null,
      "zero_optimization": null, "inference": null})");
  ASSERT_THAT(Paths(findings), ElementsAre("fp16", "bf16", "zero_optimization", "inference"));
  EXPECT_EQ(findings[0].message, "must be an object, is null; DeepSpeed fails on it");
  EXPECT_EQ(findings[1].message, "is null; DeepSpeed takes the section for absent");
  EXPECT_EQ(findings[2].severity, LintSeverity::kError);
  EXPECT_EQ(findings[3].message, "is null; DeepSpeed does not read it");
}

TEST(Lint, ManyNumbersThatAreNotFiniteAreCut) {
  std::string text = R"({"train_batch_size": 8, "inference": [NaN)";
  for (int i = 0; i < 100'000; ++i) text += ",NaN";
  const std::vector<LintFinding> findings = Lint(text + "]}");
  ASSERT_THAT(findings, SizeIs(1001));
  EXPECT_EQ(findings.back().message, "99001 more findings are left out");
}

TEST(Lint, FindingsStandInTheOrderOfTheText) {
  EXPECT_THAT(Paths(Lint(R"({"zz": 1, "zero_optimization": {"stage": 9, "b": 1, "a": 1},
                             "train_batch_size": 0, "aa": 1})")),
              ElementsAre("zz", "zero_optimization.stage", "zero_optimization.b",
                          "zero_optimization.a", "train_batch_size", "aa"));
}

TEST(Lint, AMissingKeyStandsWhereItsSectionDoes) {
  EXPECT_THAT(Paths(Lint(R"({"zz": 1, "zero_optimization": {"stage": 3, "offload_param":
                             {"device": "nvme"}}, "train_batch_size": 1, "aa": 1})")),
              ElementsAre("zz", "zero_optimization.offload_param.nvme_path", "aa"));
}

TEST(Lint, ADuplicateKeyIsFoundAtItsPath) {
  const std::vector<LintFinding> findings =
      Lint(R"({"train_batch_size": 1, "fp16": {"enabled": true, "enabled": false}})");
  ASSERT_THAT(findings, SizeIs(1));
  EXPECT_EQ(findings[0].path, "fp16.enabled");
  EXPECT_EQ(findings[0].rule, "duplicate-key");
}

TEST(Lint, AutoIsLeftToTheIntegrationUntilItHasRun) {
  const std::string config = R"({"train_batch_size": "auto", "train_micro_batch_size_per_gpu":
      "auto", "fp16": {"enabled": "auto"}, "bf16": {"enabled": "auto"},
      "zero_optimization": {"stage": "auto", "reduce_bucket_size": "auto"}})";
  EXPECT_THAT(Lint(config), IsEmpty());
  LintRequest resolved;
  resolved.resolved = true;
  EXPECT_THAT(Lint(config, resolved), SizeIs(6));
}

TEST(Lint, WithoutAWorldSizeOnlyWhatNoneCouldSatisfyIsFound) {
  const std::string config = R"({"train_batch_size": 32, "train_micro_batch_size_per_gpu": 4,
                                 "gradient_accumulation_steps": 2})";
  EXPECT_THAT(Lint(config), IsEmpty());
  LintRequest request;
  request.world_size = 4;
  EXPECT_THAT(Lint(config, request), IsEmpty());
  request.world_size = 8;
  const std::vector<LintFinding> findings = Lint(config, request);
  ASSERT_THAT(findings, SizeIs(1));
  EXPECT_THAT(findings[0].message, HasSubstr("32 != 4 * 2 * 8"));
  EXPECT_EQ(findings[0].suggestion, "64");
}

TEST(Lint, WhatIsNoObjectIsOneFinding) {
  for (const char* text : {"[]", "1", "null", "\"x\""}) {
    const std::vector<LintFinding> findings = Lint(text);
    ASSERT_THAT(findings, SizeIs(1)) << text;
    EXPECT_EQ(findings[0].rule, "wrong-type");
    EXPECT_EQ(findings[0].path, "");
  }
}

struct Meant {
  const char* config;
  const char* suggestion;
};

class Suggestion : public ::testing::TestWithParam<Meant> {};

TEST_P(Suggestion, NamesTheKeyThatWasMeant) {
  const std::vector<LintFinding> findings =
      Lint(absl::StrCat("{\"train_batch_size\": 1, ", GetParam().config, "}"));
  ASSERT_THAT(findings, SizeIs(1));
  EXPECT_EQ(findings[0].rule, "unknown-key");
  EXPECT_EQ(findings[0].suggestion, GetParam().suggestion);
}

INSTANTIATE_TEST_SUITE_P(
    Keys, Suggestion,
    ::testing::Values(Meant{R"("zero_optimisation": {})", "zero_optimization"},
                      Meant{R"("Gradient-Clipping": 1)", "gradient_clipping"},
                      Meant{R"("gradient_cliping": 1)", "gradient_clipping"},
                      Meant{R"("lr_scheduler": {})", "scheduler"},
                      Meant{R"("grad_clip": 1)", "gradient_clipping"},
                      Meant{R"("stage": 3)", "zero_optimization.stage"},
                      Meant{R"("offload_param": {})", "zero_optimization.offload_param"},
                      Meant{R"("learning_rate": 1)", "optimizer.params.lr"},
                      Meant{R"("zero_optimization": {"devise": 1})", ""},
                      Meant{R"("zero_optimization": {"device": "cpu"})",
                            "zero_optimization.offload_optimizer.device or "
                            "zero_optimization.offload_param.device"},
                      Meant{R"("fp16": {"enable": true})", "fp16.enabled"},
                      Meant{R"("enabled": true)", ""}, Meant{R"("something_of_my_own": 1)", ""},
                      Meant{R"("optimizer": {"type": "AdamW", "params": {"weigth_decay": 0}})",
                            "optimizer.params.weight_decay"},
                      Meant{R"("scheduler": {"type": "WarmupLR", "params": {"warmup_steps": 1}})",
                            "scheduler.params.warmup_num_steps"}));

TEST(Lint, SaysSinceWhenAKeyIsKnown) {
  LintRequest request;
  request.deepspeed_version = "0.19.1";
  const std::vector<LintFinding> findings =
      Lint(R"({"train_batch_size": 1, "log_level": "info"})", request);
  ASSERT_THAT(findings, SizeIs(1));
  EXPECT_THAT(findings[0].message, HasSubstr("known since 0.19.3"));
}

// 1 MiB of keys that nobody knows: the answer stays short, and soon.
TEST(Lint, ManyUnknownKeysAreCut) {
  std::string text = R"({"train_batch_size": 1)";
  for (int i = 0; text.size() < (size_t{1} << 20) - 100; ++i) {
    absl::StrAppend(&text, ",\"train_micro_batch_size_per_gpu_", i, "\":1");
  }
  text += "}";
  const std::vector<LintFinding> findings = Lint(text);
  ASSERT_THAT(findings, SizeIs(1001));
  EXPECT_EQ(findings.back().rule, "too-many");
}

TEST(Lint, ALongNameDoesNotTakeLong) {
  const std::string name(1 << 19, 'a');
  EXPECT_THAT(Lint(absl::StrCat("{\"train_batch_size\": 1, \"", name, "\": 1}")), SizeIs(1));
}

TEST(LintTable, HoldsTheVersionsOfTheHeader) {
  const auto table = BuiltInLintTable();
  ASSERT_THAT(table, IsOk());
  ASSERT_EQ((*table)->versions.size(), std::size(kDeepSpeedVersions));
  for (size_t i = 0; i < std::size(kDeepSpeedVersions); ++i) {
    EXPECT_EQ((*table)->versions[i], kDeepSpeedVersions[i]);
  }
}

TEST(LintTable, EverySectionIsAKeyOfAnother) {
  const LintTable& table = **BuiltInLintTable();
  for (const auto& [path, section] : table.sections) {
    if (path.empty()) continue;
    const size_t cut = path.rfind('.');
    const std::string parent = cut == std::string::npos ? "" : path.substr(0, cut);
    const std::string key = cut == std::string::npos ? path : path.substr(cut + 1);
    const auto found = table.sections.find(parent);
    ASSERT_NE(found, table.sections.end()) << path;
    EXPECT_EQ(found->second.keys.count(key), 1u) << path;
  }
}

TEST(LintTable, RulesOfAKeyDoNotOverlap) {
  const LintTable& table = **BuiltInLintTable();
  for (const LintTable::Sections* sections :
       {&table.sections, &table.optimizers, &table.schedulers}) {
    for (const auto& [path, section] : *sections) {
      for (const auto& [key, rules] : section.keys) {
        int next = 0;
        for (const KeyRule& rule : rules) {
          EXPECT_GE(rule.first_version, next) << path << " " << key;
          EXPECT_LE(rule.first_version, rule.last_version) << path << " " << key;
          next = rule.last_version + 1;
        }
      }
    }
  }
}

TEST(LintTable, ABrokenOneIsRefused) {
  const std::string good =
      R"({"versions": ["1"], "synonyms": {}, "sections": {"": {"kind": "loose", "keys": {}}},
          "optimizers": {"adamw": {"kind": "open", "keys": {}}},
          "schedulers": {"WarmupDecayLR": {"kind": "open", "keys": {}}}})";
  EXPECT_THAT(ReadLintTable(good), IsOk());
  EXPECT_THAT(ReadLintTable("{}"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("versions")));
  EXPECT_FALSE(ReadLintTable("x").ok());
  const auto with = [&](const std::string& keys) {
    return ReadLintTable(absl::StrCat(
        R"({"versions": ["1"], "synonyms": {}, "sections": {"": {"kind": "loose", "keys": )", keys,
        R"(}}, "optimizers": {"adamw": {"kind": "open", "keys": {}}},
            "schedulers": {"WarmupDecayLR": {"kind": "open", "keys": {}}}})"));
  };
  EXPECT_THAT(with(R"({"a": [{"type": "int"}]})"), IsOk());
  for (const char* keys :
       {R"([])", R"({"a": {}})", R"({"a": [1]})", R"({"a": [{"type": "integer"}]})",
        R"({"a": [{}]})", R"({"a": [{"type": "int", "form": "1"}]})",
        R"({"a": [{"type": "int", "from": "2"}]})", R"({"a": [{"type": "int", "ge": "x"}]})"}) {
    EXPECT_THAT(with(keys),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("read the table")))
        << keys;
  }
}

TEST(LintValue, ReadsIntegersAsPydanticDoes) {
  const auto read = [](const char* json) { return LaxInt(ReadJson(json, "v")->value); };
  for (const char* json : {"7", "7.0", "\"7\"", "\" 7 \"", "\"+7\"", "\"7.0\"", "\"0_7\""}) {
    EXPECT_EQ(read(json), 7) << json;
  }
  EXPECT_EQ(read("true"), 1);
  EXPECT_EQ(read("\"-7\""), -7);
  for (const char* json : {"7.5", "null", "\"\"", "\"7.5\"", "\"7e0\"", "\"_7\"", "\"7_\"",
                           "\"7__7\"", "\"x\"", "Infinity", "NaN", "[]", "{}"}) {
    EXPECT_EQ(read(json), std::nullopt) << json;
  }
}

TEST(LintValue, ReadsBooleansAsPydanticDoes) {
  const auto read = [](const char* json) { return LaxBool(ReadJson(json, "v")->value); };
  for (const char* json : {"true", "1", "1.0", "\"Yes\"", "\"on\"", "\"T\""}) {
    EXPECT_EQ(read(json), true) << json;
  }
  for (const char* json : {"false", "0", "\"No\"", "\"off\"", "\"0\""}) {
    EXPECT_EQ(read(json), false) << json;
  }
  for (const char* json : {"2", "null", "\"\"", "\"maybe\"", "[]", "\" true\""}) {
    EXPECT_EQ(read(json), std::nullopt) << json;
  }
}

}  // namespace
}  // namespace zerocast
