#include "server/conversion/catalogue.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "nlohmann/json.hpp"
#include "server/base/errors.h"
#include "server/conversion/catalogue_data.h"
#include "server/conversion/choose_rules.h"
#include "server/conversion/convert.h"
#include "server/conversion/json_fields.h"
#include "server/conversion/pattern.h"
#include "server/conversion/rule_json.h"

namespace zerocast {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

absl::Status ReadBindings(const json& table, Catalogue* catalogue) {
  JsonFields top(table, "rule table");
  const json* bindings = top.Find("bindings");
  if (bindings == nullptr) return JsonError("bindings", "is required");
  JsonFields fields(*bindings, "bindings");
  ZC_RETURN_IF_ERROR(fields.Get("always_last", &catalogue->always_last).status());
  const auto known = [&](const json& set) {
    return set.is_string() && catalogue->sets.count(set.get<std::string>()) > 0;
  };
  for (const std::string& set : catalogue->always_last) {
    if (!known(set)) return JsonError("bindings.always_last", absl::StrCat("no rule set ", set));
  }
  for (const char* kind : {"by_class", "by_model_type"}) {
    const json* names = fields.Find(kind);
    if (names == nullptr) continue;
    if (!names->is_object()) return JsonError(absl::StrCat("bindings.", kind), "must be an object");
    auto& map =
        absl::string_view(kind) == "by_class" ? catalogue->by_class : catalogue->by_model_type;
    for (const auto& [name, set] : names->items()) {
      if (!known(set)) {
        return JsonError(absl::StrCat("bindings.", kind, ".", name), "must name a rule set");
      }
      map[name] = set.get<std::string>();
    }
  }
  return absl::OkStatus();
}

// The renames of a class are an object whose order counts, which only ordered_json keeps.
absl::Status ReadClassRenames(absl::string_view text, Catalogue* catalogue) {
  if (!absl::StrContains(text, "\"class_renames\"")) return absl::OkStatus();
  const ordered_json table = ordered_json::parse(text.begin(), text.end(), nullptr, false);
  if (!table.contains("class_renames")) return absl::OkStatus();
  const ordered_json& renames = table["class_renames"];
  if (!renames.is_object() || !renames.contains("map") || !renames["map"].is_object()) {
    return JsonError("class_renames", "needs an object 'map'");
  }
  for (const auto& [name, patterns] : renames["map"].items()) {
    if (!patterns.is_object()) {
      return JsonError(absl::StrCat("class_renames.map.", name), "must be an object");
    }
    std::vector<Rule>& rules = catalogue->class_renames[name];
    for (const auto& [from, to] : patterns.items()) {
      if (!to.is_string()) {
        return JsonError(absl::StrCat("class_renames.map.", name), "must map to strings");
      }
      Rule rule;
      rule.from = {from};
      rule.to = {to.get<std::string>()};
      rules.push_back(std::move(rule));
    }
  }
  return absl::OkStatus();
}

// "sub_models": {class: {"base": prefix, "modules": [[path, class, model type, config], ...],
// "own": [path, ...]}} ("own" may be absent) and "auto_classes": {model type: class}; both may be
// absent.
absl::Status ReadSubModels(const json& table, Catalogue* catalogue) {
  const JsonFields fields(table, "rule table");
  if (const json* models = fields.Find("sub_models"); models != nullptr) {
    if (!models->is_object()) return JsonError("sub_models", "must be an object");
    for (const auto& [name, model] : models->items()) {
      const std::string path = absl::StrCat("sub_models.", name);
      CatalogueModel& made = catalogue->sub_models[name];
      JsonFields entry(model, path);
      ZC_RETURN_IF_ERROR(entry.Get("base", &made.base_model_prefix).Get("own", &made.own).status());
      const json* const modules = entry.Find("modules");
      if (modules == nullptr || !modules->is_array()) return JsonError(path, "needs 'modules'");
      for (const json& module : *modules) {
        if (!module.is_array() || module.size() != 4 ||
            !std::all_of(module.begin(), module.end(),
                         [](const json& part) { return part.is_string(); })) {
          return JsonError(path, "a module must be [path, class, model type, config]");
        }
        made.modules.push_back({module[0], module[1], module[2], module[3]});
      }
    }
  }
  if (const json* classes = fields.Find("auto_classes"); classes != nullptr) {
    if (!classes->is_object()) return JsonError("auto_classes", "must be an object");
    for (const auto& [type, name] : classes->items()) {
      if (!name.is_string()) return JsonError(absl::StrCat("auto_classes.", type), "is no string");
      catalogue->auto_classes[type] = name.get<std::string>();
    }
  }
  return absl::OkStatus();
}

absl::Status ProveRules(const Catalogue& catalogue) {
  for (const auto* sets : {&catalogue.sets, &catalogue.class_renames}) {
    for (const auto& [name, rules] : *sets) {
      for (const Rule& rule : rules) {
        const absl::Status status = CompiledRule::Create(rule, catalogue.dialect).status();
        if (!status.ok()) return Annotate(status, absl::StrCat("rule set ", name));
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Dialect> ParseDialect(const json& table) {
  JsonFields top(table, "rule table");
  const json* derived = top.Find("derived_from");
  const json* semantics = top.Find("semantics");
  if (derived == nullptr || semantics == nullptr) {
    return JsonError("rule table", "needs 'derived_from' and 'semantics'");
  }
  Dialect dialect;
  std::string replace, boundary, order, natural, reverse;
  std::vector<std::string> wildcard;
  ZC_RETURN_IF_ERROR(
      JsonFields(*derived, "derived_from").Get("version", &dialect.version).status());
  ZC_RETURN_IF_ERROR(JsonFields(*semantics, "semantics")
                         .Get("replace", &replace)
                         .Get("wildcard", &wildcard)
                         .Get("boundary", &boundary)
                         .Get("branch_order", &order)
                         .Get("natural_key", &natural)
                         .Get("reverse", &reverse)
                         .status());
  if (wildcard.size() != 2) return JsonError("semantics.wildcard", "must be two strings");
  if (natural != "v1" && natural != "v2") return JsonError("semantics.natural_key", "is unknown");
  if (reverse != "v1" && reverse != "v2") return JsonError("semantics.reverse", "is unknown");
  dialect.replace_all = replace == "all_occurrences";
  dialect.wildcard_from = wildcard[0];
  dialect.wildcard_to = wildcard[1];
  dialect.boundary = boundary != "none";
  dialect.longest_first = order == "longest_source_first";
  dialect.natural_key_v2 = natural == "v2";
  dialect.generation = reverse == "v2" ? 2 : 1;
  return dialect;
}

absl::StatusOr<Catalogue> ParseCatalogue(absl::string_view text) {
  const json table = json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (table.is_discarded()) return JsonError("rule table", "is not JSON");
  Catalogue catalogue;
  ZC_ASSIGN_OR_RETURN(catalogue.dialect, ParseDialect(table));
  const json* sets = JsonFields(table, "rule table").Find("rule_sets");
  if (sets == nullptr || !sets->is_object()) return JsonError("rule_sets", "must be an object");
  for (const auto& [name, rules] : sets->items()) {
    ZC_ASSIGN_OR_RETURN(catalogue.sets[name],
                        RulesFromJson(rules, absl::StrCat("rule_sets.", name)));
  }
  ZC_RETURN_IF_ERROR(ReadBindings(table, &catalogue));
  ZC_RETURN_IF_ERROR(ReadClassRenames(text, &catalogue));
  ZC_RETURN_IF_ERROR(ReadSubModels(table, &catalogue));
  ZC_RETURN_IF_ERROR(ProveRules(catalogue));
  return catalogue;
}

absl::StatusOr<const Catalogue*> BuiltInCatalogue(absl::string_view dialect) {
  const absl::StatusOr<Catalogue>* catalogue;
  if (dialect == "5.23.0") {
    static const auto* const table = new absl::StatusOr<Catalogue>(ParseCatalogue(RuleTable5230()));
    catalogue = table;
  } else if (dialect == "5.1.0") {
    static const auto* const table = new absl::StatusOr<Catalogue>(ParseCatalogue(RuleTable510()));
    catalogue = table;
  } else {
    return absl::InvalidArgumentError(absl::StrCat("find the rules of dialect '", dialect,
                                                   "': there are 5.23.0 and 5.1.0; name one"));
  }
  if (!catalogue->ok()) return Annotate(catalogue->status(), "read the built-in rule table");
  return &**catalogue;
}

absl::StatusOr<std::vector<Rule>> CatalogueRules(absl::string_view architecture,
                                                 absl::string_view model_type,
                                                 absl::string_view dialect) {
  ZC_ASSIGN_OR_RETURN(const Catalogue* catalogue, BuiltInCatalogue(dialect));
  return RulesOfModel(*catalogue, std::string(architecture), std::string(model_type), nullptr);
}

absl::StatusOr<Dialect> CatalogueDialect(absl::string_view dialect) {
  ZC_ASSIGN_OR_RETURN(const Catalogue* catalogue, BuiltInCatalogue(dialect));
  return catalogue->dialect;
}

}  // namespace zerocast
