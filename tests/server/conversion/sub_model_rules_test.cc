// Which rules a checkpoint gets, and in which scopes: a table made for the test.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/conversion/choose_rules.h"
#include "server/conversion/rename.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using ::testing::ElementsAre;

// A class with an image tower and, below its head, a text model; each part has rules.
constexpr char kTable[] = R"json({
  "derived_from": {"version": "1"},
  "semantics": {"replace": "first_occurrence", "wildcard": ["*.", ".*\\."], "boundary": "(?!\\w)",
                "branch_order": "longest_source_first", "natural_key": "v2", "reverse": "v2"},
  "rule_sets": {
    "whole": [{"kind": "rename", "from": "^old\\.", "to": "new."}],
    "tower": [{"kind": "rename", "from": "^fc", "to": "proj"}],
    "other": [{"kind": "rename", "from": "^fc", "to": "dense"}],
    "legacy": [{"kind": "rename", "from": "gamma", "to": "weight"}]},
  "bindings": {"by_class": {"Whole": "whole", "Tower": "tower", "Other": "other"},
               "by_model_type": {"text": "other"}, "always_last": ["legacy"]},
  "sub_models": {"Whole": {"base": "model", "modules": [
    ["model.vision", "Tower", "vision", "vision_config"],
    ["model.vision.inner", "Tower", "vision", ""],
    ["lang", "Unknown", "text", ""]]}},
  "auto_classes": {"else": "Other"}})json";

ConversionRules Choose(const std::string& config, const std::vector<Rule>& key_mapping = {}) {
  RuleChoice choice;
  choice.config_json = config;
  choice.rule_table_json = kTable;
  choice.key_mapping = key_mapping;
  absl::StatusOr<ConversionRules> rules = ChooseRules(choice);
  EXPECT_THAT(rules, IsOk());
  return rules.ok() ? *std::move(rules) : ConversionRules();
}

// Each rule as "scope>source", without a scope as the source alone.
std::vector<std::string> Describe(const ConversionRules& rules) {
  std::vector<std::string> result;
  for (const Rule& rule : rules.rules) {
    result.push_back(rule.has_scope ? absl::StrCat(rule.scope_base, "/", rule.scope_prefix, ">",
                                                   rule.from[0], ">", rule.to[0])
                                    : rule.from[0]);
  }
  return result;
}

std::string Renamed(const ConversionRules& rules, const std::string& key) {
  absl::StatusOr<Renamer> renamer = Renamer::Create(rules.rules, rules.dialect, false, "");
  EXPECT_THAT(renamer, IsOk());
  return renamer->Rename(key, [](absl::string_view) { return false; })->renamed;
}

TEST(SubModelRulesTest, RulesOfSubModelsHoldInTheirScopesOnly) {
  const ConversionRules rules = Choose(R"({"architectures": ["Whole"]})");
  EXPECT_THAT(Describe(rules),
              ElementsAre("^old\\.", "model/vision>^fc>proj", "model/lang>^fc>dense", "gamma"));
  EXPECT_EQ(Renamed(rules, "model.vision.fc.w"), "model.vision.proj.w");
  EXPECT_EQ(Renamed(rules, "vision.fc.w"), "vision.proj.w");
  EXPECT_EQ(Renamed(rules, "lang.fc.w"), "lang.dense.w");
  EXPECT_EQ(Renamed(rules, "fc.w"), "fc.w");
  EXPECT_EQ(Renamed(rules, "old.gamma"), "new.weight");
  EXPECT_EQ(Renamed(rules, "vision.gamma"), "vision.weight") << "the last rules have no scope";
}

TEST(SubModelRulesTest, AnotherTypeInTheConfigBringsItsOwnRules) {
  const ConversionRules rules =
      Choose(R"({"architectures": ["Whole"], "vision_config": {"model_type": "else"}})");
  EXPECT_THAT(Describe(rules),
              ElementsAre("^old\\.", "model/vision>^fc>dense", "model/lang>^fc>dense", "gamma"));
}

TEST(SubModelRulesTest, APartOfAModelAloneHasNoScope) {
  EXPECT_THAT(Describe(Choose(R"({"architectures": ["Tower"]})")), ElementsAre("^fc", "gamma"));
  EXPECT_THAT(Describe(Choose(R"({"model_type": "text"})")), ElementsAre("^fc", "gamma"));
  EXPECT_THAT(Describe(Choose("")), ElementsAre("gamma"));
}

TEST(SubModelRulesTest, AKeyMappingComesFirstAndHasNoScope) {
  Rule mapping;
  mapping.from = {"a"};
  mapping.to = {"b"};
  EXPECT_THAT(Describe(Choose(R"({"architectures": ["Tower"]})", {mapping})),
              ElementsAre("a", "^fc", "gamma"));
}

TEST(SubModelRulesTest, AKeyMappingReplacesTheRenamesOfAClassInTheOldDialect) {
  Rule mapping;
  mapping.from = {"a"};
  mapping.to = {"b"};
  RuleChoice choice;
  choice.config_json = R"({"architectures": ["LlavaForConditionalGeneration"]})";
  choice.dialect = "5.1.0";
  ZC_ASSERT_OK_AND_ASSIGN(const ConversionRules with_renames, ChooseRules(choice));
  choice.config_json = "";
  ZC_ASSERT_OK_AND_ASSIGN(const ConversionRules legacy, ChooseRules(choice));
  EXPECT_GT(with_renames.rules.size(), legacy.rules.size());
  choice.config_json = R"({"architectures": ["LlavaForConditionalGeneration"]})";
  choice.key_mapping = {&mapping, 1};
  ZC_ASSERT_OK_AND_ASSIGN(const ConversionRules mapped, ChooseRules(choice));
  EXPECT_EQ(mapped.rules.size(), legacy.rules.size() + 1);
}

}  // namespace
}  // namespace zerocast
