// What nine releases of DeepSpeed said about configs, and what the lint says (tests/oracle).
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/config/estimate.h"
#include "server/config/json_reader.h"
#include "server/config/lint.h"
#include "tests/server/config/data_file.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

std::vector<LintFinding> Lint(const ConfigValue& row) {
  LintRequest request;
  request.deepspeed_version = *row.Find("version")->text();
  request.resolved = row.Find("resolved") == nullptr || *row.Find("resolved")->boolean();
  const ConfigValue* world_size = row.Find("world_size");
  if (world_size != nullptr && world_size->integer() != nullptr) {
    int64_t value = 0;
    EXPECT_TRUE(world_size->integer()->ToInt64(&value));
    request.world_size = value;
  }
  JsonDocument document;
  if (const ConfigValue* text = row.Find("text")) {
    auto read = ReadJson(*text->text(), "config");
    EXPECT_THAT(read, IsOk());
    document = *std::move(read);
    request.duplicate_keys = document.duplicate_keys;
    request.config = &document.value;
  } else {
    request.config = row.Find("config");
  }
  if (const ConfigValue* model_spec = row.Find("model_spec")) {
    auto model = ReadModelSize(*model_spec);
    EXPECT_THAT(model, IsOk());
    if (model.ok()) request.scalar_parameters = model->scalar_parameters;
  }
  auto findings = LintConfig(request);
  EXPECT_THAT(findings, IsOk());
  return findings.ok() ? *std::move(findings) : std::vector<LintFinding>();
}

bool HasError(const std::vector<LintFinding>& findings) {
  for (const LintFinding& finding : findings) {
    if (finding.severity == LintSeverity::kError) return true;
  }
  return false;
}

std::string Describe(const std::vector<LintFinding>& findings) {
  std::string out;
  for (const LintFinding& finding : findings) {
    absl::StrAppend(&out, LintSeverityName(finding.severity), " ", finding.rule, " ", finding.path,
                    "\n");
  }
  return out;
}

std::string Expected(const ConfigValue& row) {
  std::string out;
  for (const ConfigValue& finding : *row.Find("findings")->array()) {
    const ConfigValue::Array& parts = *finding.array();
    absl::StrAppend(&out, *parts[2].text(), " ", *parts[1].text(), " ", *parts[0].text(), "\n");
  }
  return out;
}

TEST(LintGolden, EveryCaseHasItsFindings) {
  const std::vector<ConfigValue> rows = ReadConfigCases("lint.jsonl.gz");
  std::map<std::string, int> by_version;
  for (const ConfigValue& row : rows) {
    const std::string& id = *row.Find("id")->text();
    const std::vector<LintFinding> findings = Lint(row);
    EXPECT_EQ(Describe(findings), Expected(row)) << id;
    const bool raised = row.Find("deepspeed")->Find("raises") != nullptr;
    if (row.Find("why") == nullptr) {
      EXPECT_EQ(HasError(findings), raised) << id << ": " << WriteJson(*row.Find("deepspeed"));
    }
    for (const LintFinding& finding : findings) EXPECT_NE(finding.message, "") << id;
    ++by_version[*row.Find("version")->text()];
  }
  std::printf("%zu cases\n", rows.size());
  EXPECT_GE(rows.size(), 500u);
  for (const absl::string_view version : kDeepSpeedVersions) {
    EXPECT_GE(by_version[std::string(version)], 20) << version;
  }
}

TEST(LintGolden, EveryRuleHasACase) {
  std::set<std::string> rules;
  for (const ConfigValue& row : ReadConfigCases("lint.jsonl.gz")) {
    for (const LintFinding& finding : Lint(row)) rules.insert(finding.rule);
  }
  EXPECT_EQ(
      absl::StrJoin(rules, " "),
      "alignment batch-triangle conflict deprecated-key duplicate-key field-name "
      "invalid-value leftover-auto missing-key no-effect not-finite null-section out-of-range "
      "removed-key "
      "scalar-parameter string-value unknown-key wrong-type");
}

// Each key with each kind of value, and what the integration made of the golden configs.
TEST(LintGolden, AnErrorIsFoundExactlyWhereDeepSpeedRaises) {
  const std::vector<ConfigValue> rows = ReadConfigCases("lint-values.jsonl.gz");
  size_t raised = 0, differ = 0;
  for (const ConfigValue& row : rows) {
    const bool raises = !row.Find("raises")->is_null();
    raised += raises ? 1 : 0;
    const std::vector<LintFinding> findings = Lint(row);
    if (HasError(findings) == raises) continue;
    if (++differ <= 20) {
      ADD_FAILURE() << *row.Find("version")->text() << " " << WriteJson(*row.Find("config"))
                    << " raises " << WriteJson(*row.Find("raises")) << "; found:\n"
                    << Describe(findings);
    }
  }
  std::printf("%zu values, %zu raise\n", rows.size(), raised);
  EXPECT_EQ(differ, 0u);
  EXPECT_GE(rows.size(), 25000u);
}

}  // namespace
}  // namespace zerocast
