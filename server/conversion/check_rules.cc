#include "server/conversion/check_rules.h"

#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "nlohmann/json.hpp"
#include "server/conversion/catalogue.h"
#include "server/conversion/convert.h"
#include "server/conversion/json_fields.h"
#include "server/conversion/pattern.h"
#include "server/conversion/rule_json.h"

namespace zerocast {
namespace {

using nlohmann::json;

class Checker {
 public:
  explicit Checker(Dialect dialect) : dialect_(std::move(dialect)) {}

  void CheckList(const json& list, const std::string& path) {
    if (!list.is_array()) return Add(path, "must be a list of rules");
    // A source pattern belongs to the last conversion that names it: with other operations the
    // earlier conversion would never run.
    std::map<std::string, std::pair<std::string, json>> owners;
    for (size_t i = 0; i < list.size(); ++i) {
      const std::string item = absl::StrCat(path, "[", i, "]");
      ++result_.num_rules;
      const absl::StatusOr<Rule> rule = RuleFromJson(list[i], item);
      if (!rule.ok()) {
        Add(item, rule.status().message());
        continue;
      }
      const absl::StatusOr<CompiledRule> compiled = CompiledRule::Create(*rule, dialect_);
      if (!compiled.ok()) {
        Add(item, compiled.status().message());
        continue;
      }
      if (rule->kind != RuleKind::kConvert) continue;
      const json ops = RuleToJson(*rule)["ops"];
      for (const std::string& source : compiled->sources()) {
        const auto [owner, inserted] =
            owners.try_emplace(absl::StrCat(rule->scope_prefix, "/", source), std::pair(item, ops));
        if (!inserted && owner->second.second != ops) {
          Add(item, absl::StrCat("its source '", source, "' is also one of ", owner->second.first,
                                 ", which has other operations"));
        }
      }
    }
  }

  void Add(const std::string& path, absl::string_view message) {
    result_.errors.push_back({path, std::string(message)});
  }

  RulesCheck Take() { return std::move(result_); }

 private:
  const Dialect dialect_;
  RulesCheck result_;
};

}  // namespace

absl::StatusOr<RulesCheck> CheckRules(absl::string_view text, absl::string_view dialect_name) {
  const json value = json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (value.is_discarded()) return JsonError("rules", "is not JSON");
  ZC_ASSIGN_OR_RETURN(Dialect dialect, CatalogueDialect(dialect_name));
  if (value.is_array()) {
    Checker checker(std::move(dialect));
    checker.CheckList(value, "rules");
    return checker.Take();
  }
  if (value.is_object() && value.contains("transforms")) {
    Checker checker(std::move(dialect));
    checker.CheckList(value["transforms"], "transforms");
    return checker.Take();
  }
  if (!value.is_object() || !value.contains("rule_sets") || !value["rule_sets"].is_object()) {
    return JsonError("rules", "must be a rule table, a list of rules, or a model spec");
  }
  ZC_ASSIGN_OR_RETURN(dialect, ParseDialect(value));
  Checker checker(std::move(dialect));
  for (const auto& [name, rules] : value["rule_sets"].items()) {
    checker.CheckList(rules, absl::StrCat("rule_sets.", name));
  }
  RulesCheck check = checker.Take();
  if (!check.errors.empty()) return check;
  // The rules are well-formed; what binds them may not be.
  if (const absl::Status table = ParseCatalogue(text).status(); !table.ok()) {
    check.errors.push_back({"rule table", std::string(table.message())});
  }
  return check;
}

}  // namespace zerocast
