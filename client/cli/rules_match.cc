#include "client/cli/rules_match.h"

#include <cstdint>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "kernels/base/status_macros.h"
#include "server/conversion/catalogue.h"
#include "server/conversion/convert.h"
#include "server/conversion/json_fields.h"
#include "server/conversion/natural_key.h"
#include "server/conversion/rename.h"
#include "server/conversion/rule_json.h"

namespace zerocast {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

struct MatchCase {
  std::string dialect{kDefaultDialect}, key, base_model_prefix, scope_prefix, scope_base;
  bool has_prefix = false, has_scope = false, has_others = false;
  std::vector<Rule> rules;
  std::vector<std::string> others, model_keys;
};

absl::Status ReadRules(const json& line, MatchCase* result) {
  const json* const rules = JsonFields(line, "line").Find("rules");
  if (rules == nullptr) return JsonError("rules", "is required: a name, or a list of rules");
  ZC_ASSIGN_OR_RETURN(std::vector<Rule> legacy, CatalogueRules("", "", result->dialect));
  if (rules->is_array()) {
    ZC_ASSIGN_OR_RETURN(result->rules, RulesFromJson(*rules, "rules"));
    result->rules.insert(result->rules.end(), legacy.begin(), legacy.end());
  } else if (rules->is_string()) {
    const auto name = rules->get<std::string>();
    std::string model_type = name;
    ZC_RETURN_IF_ERROR(JsonFields(line, "line").Get("model_type", &model_type).status());
    ZC_ASSIGN_OR_RETURN(result->rules, CatalogueRules(name, model_type, result->dialect));
  } else {
    return JsonError("rules", "must be a name, or a list of rules");
  }
  if (!result->has_scope) return absl::OkStatus();
  for (size_t i = 0; i + legacy.size() < result->rules.size(); ++i) {
    result->rules[i].has_scope = true;
    result->rules[i].scope_prefix = result->scope_prefix;
    result->rules[i].scope_base = result->scope_base;
  }
  return absl::OkStatus();
}

absl::StatusOr<MatchCase> ReadCase(const json& line) {
  if (!line.is_object()) return JsonError("line", "is not a JSON object");
  JsonFields fields(line, "line");
  MatchCase result;
  fields.Get("dialect", &result.dialect).Get("key", &result.key);
  fields.Get("base_model_prefix", &result.base_model_prefix);
  fields.Get("scope_prefix", &result.scope_prefix).Get("scope_base", &result.scope_base);
  fields.Get("with_keys", &result.others).Get("model_keys", &result.model_keys);
  ZC_RETURN_IF_ERROR(fields.status());
  if (fields.Find("key") == nullptr) return JsonError("key", "is required");
  result.has_prefix = fields.Find("base_model_prefix") != nullptr;
  result.has_scope = fields.Find("scope_prefix") != nullptr;
  result.has_others = fields.Find("with_keys") != nullptr;
  ZC_RETURN_IF_ERROR(ReadRules(line, &result));
  return result;
}

absl::StatusOr<ordered_json> Match(const json& line) {
  ZC_ASSIGN_OR_RETURN(const MatchCase input, ReadCase(line));
  ZC_ASSIGN_OR_RETURN(const Dialect dialect, CatalogueDialect(input.dialect));
  ZC_ASSIGN_OR_RETURN(Renamer renamer, Renamer::Create(input.rules, dialect, input.has_prefix,
                                                       input.base_model_prefix));
  std::vector<absl::string_view> keys = {input.key};
  keys.insert(keys.end(), input.others.begin(), input.others.end());
  const absl::flat_hash_set<absl::string_view> model(input.model_keys.begin(),
                                                     input.model_keys.end());
  const auto in_model = [&model](absl::string_view name) { return model.contains(name); };
  ZC_ASSIGN_OR_RETURN(const std::vector<int32_t> order, NaturalOrder(keys, dialect));
  RenamedKey renamed;
  ordered_json sorted = ordered_json::array();
  // Rules that remember what they saw need every key, in order.
  for (const int32_t index : order) {
    sorted.push_back(std::string(keys[index]));
    ZC_ASSIGN_OR_RETURN(RenamedKey key, renamer.Rename(keys[index], in_model));
    if (index == 0) renamed = std::move(key);
  }
  ordered_json answer;
  answer["renamed"] = renamed.renamed;
  answer["with_prefix"] = renamed.with_prefix;
  answer["source"] = renamed.rule < 0 ? ordered_json() : ordered_json{renamed.rule, renamed.source};
  if (input.has_others) answer["order"] = std::move(sorted);
  return answer;
}

}  // namespace

std::string MatchLine(absl::string_view text) {
  const json line = json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  ordered_json answer;
  answer["id"] =
      line.is_object() && line.contains("id") ? ordered_json(line["id"]) : ordered_json();
  if (const absl::StatusOr<ordered_json> match = Match(line); match.ok()) {
    answer.update(*match);
  } else {
    answer["error"] = std::string(match.status().message());
  }
  return answer.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

}  // namespace zerocast
