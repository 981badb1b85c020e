#include "server/conversion/choose_rules.h"

#include <map>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/base/python_json.h"
#include "server/conversion/quantization.h"

namespace zerocast {
namespace {

using nlohmann::json;

// A model within the model: what its rules are looked up by.
struct SubModel {
  std::string path;  // of the module; "" for the model itself
  std::string architecture;
  std::string model_type;
};

std::string TextField(const json& object, const char* name) {
  if (!object.is_object()) return "";
  const auto found = object.find(name);
  return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

std::string Join(const std::string& a, const std::string& b) {
  return a.empty() ? b : b.empty() ? a : absl::StrCat(a, ".", b);
}

// The part of a config that a dotted path names; null where there is none.
const json* ConfigPart(const json& config, const std::string& path) {
  const json* part = &config;
  for (const absl::string_view name : absl::StrSplit(path, '.')) {
    if (!part->is_object()) return nullptr;
    const auto found = part->find(std::string(name));
    if (found == part->end() || !found->is_object()) return nullptr;
    part = &*found;
  }
  return part;
}

class SubModelLister {
 public:
  explicit SubModelLister(const Catalogue& catalogue) : catalogue_(catalogue) {}

  // Appends what lies below a model of that class at `path`.
  void ListBelow(const std::string& architecture, const std::string& path, const json& config,
                 int depth, std::vector<SubModel>* out) const {
    constexpr int kMaxDepth = 8;  // a hostile config may name a class within itself
    const auto known = catalogue_.sub_models.find(architecture);
    if (known == catalogue_.sub_models.end() || depth > kMaxDepth) return;
    std::string replaced;  // the module that the config gave another type, and all below it
    for (const CatalogueModule& module : known->second.modules) {
      if (!replaced.empty() && absl::StartsWith(module.path, absl::StrCat(replaced, "."))) continue;
      const json* const part = module.config.empty() ? nullptr : ConfigPart(config, module.config);
      const std::string type = part == nullptr ? "" : TextField(*part, "model_type");
      if (type.empty() || type == module.model_type) {
        out->push_back({Join(path, module.path), module.architecture, module.model_type});
        continue;
      }
      replaced = module.path;
      const auto automatic = catalogue_.auto_classes.find(type);
      const std::string other = automatic == catalogue_.auto_classes.end() ? "" : automatic->second;
      out->push_back({Join(path, module.path), other, type});
      ListBelow(other, Join(path, module.path), *part, depth + 1, out);
    }
  }

 private:
  const Catalogue& catalogue_;
};

// Whether `path` lies below one of `claimed`.
bool Claimed(const std::vector<std::string>& claimed, const std::string& path) {
  for (const std::string& ancestor : claimed) {
    if (ancestor.empty() || absl::StartsWith(path, absl::StrCat(ancestor, "."))) return true;
  }
  return false;
}

// A model's rules hold for all below it: a part of the same class or type claims nothing again.
std::vector<Rule> CollectRules(const Catalogue& catalogue, const std::vector<SubModel>& models,
                               const std::string& base_model_prefix) {
  std::vector<Rule> result;
  std::map<std::string, std::vector<std::string>> claims;
  for (const SubModel& model : models) {
    if (Claimed(claims[model.architecture], model.path)) continue;
    const auto by_class = catalogue.by_class.find(model.architecture);
    const std::string* set = nullptr;
    if (by_class != catalogue.by_class.end()) {
      set = &by_class->second;
    } else {
      if (Claimed(claims[model.model_type], model.path)) continue;
      const auto by_type = catalogue.by_model_type.find(model.model_type);
      if (by_type != catalogue.by_model_type.end()) set = &by_type->second;
    }
    if (set == nullptr) continue;
    for (Rule rule : catalogue.sets.at(*set)) {
      if (!model.path.empty()) {
        absl::string_view scope = model.path;
        absl::ConsumePrefix(&scope, base_model_prefix);
        absl::ConsumePrefix(&scope, ".");
        rule.has_scope = true;
        rule.scope_prefix = std::string(scope);
        rule.scope_base = base_model_prefix;
      }
      result.push_back(std::move(rule));
    }
    claims[model.architecture].push_back(model.path);
    if (by_class == catalogue.by_class.end() && !model.model_type.empty()) {
      claims[model.model_type].push_back(model.path);
    }
  }
  return result;
}

// A table, and where it was made for this choice its owner.
struct Table {
  std::optional<Catalogue> own;
  const Catalogue* catalogue = nullptr;
};

absl::Status ReadTable(const RuleChoice& choice, Table* table) {
  std::string dialect = choice.dialect;
  if (choice.spec != nullptr && !choice.spec->dialect.empty()) {
    if (!dialect.empty() && dialect != choice.spec->dialect) {
      return InvalidFields({{"dialect", absl::StrCat("is ", dialect, ", but the model spec's is ",
                                                     choice.spec->dialect, "; give one")}});
    }
    dialect = choice.spec->dialect;
  }
  if (choice.rule_table_json.empty()) {
    ZC_ASSIGN_OR_RETURN(table->catalogue,
                        BuiltInCatalogue(dialect.empty() ? kDefaultDialect : dialect));
    return absl::OkStatus();
  }
  absl::StatusOr<Catalogue> own = ParseCatalogue(choice.rule_table_json);
  if (!own.ok()) return Annotate(own.status(), "read the given rule table");
  table->own = *std::move(own);
  if (!dialect.empty() && dialect != table->own->dialect.version) {
    // The table's rules, matched as another release does.
    ZC_ASSIGN_OR_RETURN(table->own->dialect, CatalogueDialect(dialect));
  }
  table->catalogue = &*table->own;
  return absl::OkStatus();
}

absl::StatusOr<json> ReadConfig(absl::string_view text) {
  if (text.empty()) return json();
  // Sub-configs lie a few levels down; hostile depth costs nothing.
  const auto keep_shallow = [](int depth, json::parse_event_t, json&) { return depth <= 6; };
  json config = json::parse(NullForPythonConstants(text), keep_shallow, /*allow_exceptions=*/false);
  if (!config.is_object()) {
    return WithReason(
        absl::InvalidArgumentError("read the checkpoint's config.json: it is not a JSON object"),
        "INVALID_FIELDS");
  }
  return config;
}

}  // namespace

std::vector<Rule> RulesOfModel(const Catalogue& catalogue, const std::string& architecture,
                               const std::string& model_type, const json& config,
                               bool class_renames) {
  std::vector<Rule> rules;
  if (const auto renames = catalogue.class_renames.find(architecture);
      class_renames && renames != catalogue.class_renames.end()) {
    rules = renames->second;
  }
  std::vector<SubModel> models = {{"", architecture, model_type}};
  if (config.is_object()) SubModelLister(catalogue).ListBelow(architecture, "", config, 0, &models);
  const auto known = catalogue.sub_models.find(architecture);
  const std::string base =
      known == catalogue.sub_models.end() ? "" : known->second.base_model_prefix;
  for (Rule& rule : CollectRules(catalogue, models, base)) rules.push_back(std::move(rule));
  for (const std::string& set : catalogue.always_last) {
    const std::vector<Rule>& last = catalogue.sets.at(set);
    rules.insert(rules.end(), last.begin(), last.end());
  }
  return rules;
}

namespace {

// What stands for the base-prefix step where the model's names are not known: many rules put all
// they meet below the base model, in a model with heads on heads twice; what the class holds beside
// it is taken back.  A model without a known base, or without anything beside it, needs none.
void AppendBasePrefixStep(const Catalogue& catalogue, const std::string& architecture,
                          std::vector<Rule>* rules) {
  const auto known = catalogue.sub_models.find(architecture);
  if (known == catalogue.sub_models.end()) return;
  const std::string& base = known->second.base_model_prefix;
  if (base.empty() || known->second.own.empty()) return;
  std::vector<std::string> own;
  for (const std::string& path : known->second.own) {
    own.push_back(absl::StrReplaceAll(path, {{".", "\\."}}));
  }
  Rule rule;
  rule.from = {absl::StrCat("^(?:", base, "\\.)+(", absl::StrJoin(own, "|"), ")(?![^.])")};
  rule.to = {"\\1"};
  rules->push_back(std::move(rule));
}

absl::StatusOr<ConversionRules> RulesOfUnquantised(const RuleChoice& choice) {
  Table table;
  ZC_RETURN_IF_ERROR(ReadTable(choice, &table));
  ConversionRules rules;
  rules.config_json = std::string(choice.config_json);
  rules.dialect = table.catalogue->dialect;
  rules.rules.assign(choice.key_mapping.begin(), choice.key_mapping.end());
  std::string architecture, model_type;
  const ModelSpec* const spec = choice.spec;
  if (spec != nullptr) {
    rules.base_model_prefix = spec->base_model_prefix;
    rules.has_base_model_prefix = spec->has_base_model_prefix;
    if (!spec->transforms_from_table) {
      rules.rules.insert(rules.rules.end(), spec->transforms.begin(), spec->transforms.end());
      return rules;
    }
    architecture = spec->architecture;
    model_type = spec->model_type;
  }
  ZC_ASSIGN_OR_RETURN(const json config, ReadConfig(choice.config_json));
  if (model_type.empty()) model_type = TextField(config, "model_type");
  if (const auto classes = config.is_object() ? config.find("architectures") : config.end();
      architecture.empty() && config.is_object() && classes != config.end() &&
      classes->is_array() && !classes->empty() && classes->front().is_string()) {
    architecture = classes->front().get<std::string>();
  }
  const bool class_renames = choice.key_mapping.empty() || rules.dialect.generation != 1;
  for (Rule& rule :
       RulesOfModel(*table.catalogue, architecture, model_type, config, class_renames)) {
    rules.rules.push_back(std::move(rule));
  }
  if (spec == nullptr) AppendBasePrefixStep(*table.catalogue, architecture, &rules.rules);
  return rules;
}

}  // namespace

absl::StatusOr<ConversionRules> ChooseRules(const RuleChoice& choice) {
  ZC_ASSIGN_OR_RETURN(const QuantizationConfig quantization, ReadQuantization(choice.config_json));
  ZC_ASSIGN_OR_RETURN(ConversionRules rules, RulesOfUnquantised(choice));
  absl::Span<const SpecTensor> params;
  if (choice.spec != nullptr) params = choice.spec->params;
  rules.quantization = quantization.method;
  rules.rules = QuantizedRules(quantization, rules.dialect, std::move(rules.rules), params);
  return rules;
}

}  // namespace zerocast
