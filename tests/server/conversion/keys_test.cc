// Every recorded key goes through the renaming of its release as it went through the library's.
// ZC_GOLDEN_KEYS may name a folder with the whole recording.

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <unordered_set>
#include <vector>

#include "nlohmann/json.hpp"
#include "server/conversion/convert.h"
#include "server/conversion/natural_key.h"
#include "server/conversion/rename.h"
#include "server/conversion/rule_json.h"
#include "tests/server/conversion/golden.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using nlohmann::json;

struct Outcome {
  absl::Status status;
  RenamedKey key;
  std::vector<std::string> order;
};

absl::StatusOr<std::vector<Rule>> RulesOf(const json& line, const std::string& dialect) {
  const json& rules = line["rules"];
  const absl::StatusOr<std::vector<Rule>> legacy = CatalogueRules("", "", dialect);
  if (!legacy.ok()) return legacy.status();
  absl::StatusOr<std::vector<Rule>> result;
  if (rules.is_array()) {
    result = RulesFromJson(rules, "rules");
    if (result.ok()) result->insert(result->end(), legacy->begin(), legacy->end());
  } else {
    const std::string name = rules;
    const std::string type = line.contains("model_type") ? line["model_type"] : rules;
    result = CatalogueRules(name, type, dialect);
  }
  if (!result.ok() || line["scope_prefix"].is_null()) return result;
  for (size_t i = 0; i + legacy->size() < result->size(); ++i) {
    (*result)[i].has_scope = true;
    (*result)[i].scope_prefix = line["scope_prefix"];
    (*result)[i].scope_base = line["scope_base"];
  }
  return result;
}

Outcome RenameLine(const json& line) {
  Outcome outcome;
  const std::string dialect_name = line["dialect"];
  const absl::StatusOr<Dialect> dialect = CatalogueDialect(dialect_name);
  const absl::StatusOr<std::vector<Rule>> rules = RulesOf(line, dialect_name);
  outcome.status = !dialect.ok() ? dialect.status() : rules.status();
  if (!outcome.status.ok()) return outcome;
  const json& prefix = line["base_model_prefix"];
  absl::StatusOr<Renamer> renamer = Renamer::Create(
      *rules, *dialect, !prefix.is_null(), prefix.is_null() ? "" : prefix.get<std::string>());
  outcome.status = renamer.status();
  if (!outcome.status.ok()) return outcome;

  std::vector<std::string> keys = {line["key"]};
  if (line.contains("with_keys")) {
    for (const json& other : line["with_keys"]) keys.push_back(other);
  }
  std::unordered_set<std::string> model;
  for (const json& name : line["model_keys"]) model.insert(name.get<std::string>());
  const std::vector<absl::string_view> views(keys.begin(), keys.end());
  const absl::StatusOr<std::vector<int32_t>> order = NaturalOrder(views, *dialect);
  outcome.status = order.status();
  if (!outcome.status.ok()) return outcome;
  for (int32_t index : *order) {
    outcome.order.push_back(keys[index]);
    const absl::StatusOr<RenamedKey> renamed = renamer->Rename(
        views[index], [&](absl::string_view name) { return model.count(std::string(name)) > 0; });
    outcome.status = renamed.status();
    if (!outcome.status.ok()) return outcome;
    if (index == 0) outcome.key = *renamed;
  }
  return outcome;
}

// "" where the outcome is the recorded one.
std::string Difference(const json& expect, const Outcome& outcome) {
  if (expect.contains("error")) {
    return outcome.status.ok() ? "should be an error: " + expect["error"].dump() : "";
  }
  if (!outcome.status.ok()) return outcome.status.ToString();
  if (outcome.key.renamed != expect["renamed"]) return "renamed: " + outcome.key.renamed;
  if (outcome.key.with_prefix != expect["with_prefix"]) {
    return "with_prefix: " + outcome.key.with_prefix;
  }
  const json source = outcome.key.rule < 0 ? json() : json{outcome.key.rule, outcome.key.source};
  if (source != expect["source"]) return "source: " + source.dump();
  if (expect.contains("order") && expect["order"] != json(outcome.order)) {
    return "order: " + json(outcome.order).dump();
  }
  return "";
}

class KeysTest : public ::testing::TestWithParam<const char*> {};

TEST_P(KeysTest, AreRenamedAsByTheLibrary) {
  const std::string path =
      GoldenFolder("ZC_GOLDEN_KEYS", "keys") + "/keys-" + GetParam() + ".jsonl.gz";
  int lines = 0, failures = 0;
  for (const std::string& text : ReadLines(path)) {
    const json line = json::parse(text);
    ++lines;
    const std::string difference = Difference(line["expect"], RenameLine(line));
    if (difference.empty()) continue;
    if (++failures <= 20) {
      ADD_FAILURE() << difference << "\n  expected " << line["expect"].dump() << "\n  in "
                    << text.substr(0, 1500);
    }
  }
  EXPECT_GE(lines, 500);
  EXPECT_EQ(failures, 0) << "of " << lines << " lines";
  RecordProperty("lines", lines);
}

INSTANTIATE_TEST_SUITE_P(Dialects, KeysTest, ::testing::Values("5.23.0", "5.1.0"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '.', '_');
                           return "Release" + name;
                         });

}  // namespace
}  // namespace zerocast
