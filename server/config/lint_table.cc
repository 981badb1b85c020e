#include "server/config/lint_table.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "server/config/json_reader.h"
#include "server/config/lint_table_data.h"

namespace zerocast {
namespace {

constexpr absl::string_view kTypes[] = {"bool",        "int",    "float",  "str", "list",
                                        "list of str", "object", "one of", "any", "never",
                                        "section",     "open",   "removed"};
constexpr JsonLimits kTableLimits = {size_t{4} << 20, 20};

absl::Status Broken(absl::string_view where, absl::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat("read the table of DeepSpeed's keys: ", where, ": ", what));
}

bool IsKnownType(absl::string_view type) {
  for (size_t start = 0; start <= type.size();) {
    const size_t end = std::min(type.find('|', start), type.size());
    const absl::string_view part = type.substr(start, end - start);
    if (std::find(std::begin(kTypes), std::end(kTypes), part) == std::end(kTypes) &&
        part != "list of one of") {
      return false;
    }
    start = end + 1;
  }
  return true;
}

std::optional<double> Number(const ConfigValue* value) {
  if (value == nullptr) return std::nullopt;
  if (value->real() != nullptr) return *value->real();
  if (value->integer() != nullptr) return value->integer()->ToDouble();
  return std::nullopt;
}

absl::StatusOr<int> VersionIndex(const LintTable& table, const ConfigValue& entry,
                                 absl::string_view field, int absent) {
  const ConfigValue* value = entry.Find(field);
  if (value == nullptr) return absent;
  for (size_t i = 0; value->text() != nullptr && i < table.versions.size(); ++i) {
    if (table.versions[i] == *value->text()) return static_cast<int>(i);
  }
  return Broken(field, "is no version of the table");
}

absl::StatusOr<KeyRule> ReadRule(const LintTable& table, const ConfigValue& entry) {
  if (entry.object() == nullptr) return Broken("a key's rule", "must be an object");
  KeyRule rule;
  ZC_ASSIGN_OR_RETURN(rule.first_version, VersionIndex(table, entry, "from", 0));
  ZC_ASSIGN_OR_RETURN(rule.last_version, VersionIndex(table, entry, "to",
                                                      static_cast<int>(table.versions.size()) - 1));
  const std::pair<absl::string_view, bool*> flags[] = {{"null", &rule.null},
                                                       {"required", &rule.required},
                                                       {"auto", &rule.automatic},
                                                       {"sets", &rule.sets_other},
                                                       {"deprecated", &rule.deprecated},
                                                       {"any_case", &rule.any_case},
                                                       {"refuses_values", &rule.refuses_other},
                                                       {"no_bool", &rule.no_bool},
                                                       {"finite", &rule.finite}};
  const std::pair<absl::string_view, std::string*> texts[] = {
      {"type", &rule.type},
      {"name", &rule.name},
      {"new", &rule.replacement},
      {"message", &rule.message},
      {"refuses", &rule.refuses},
      {"refuses_true", &rule.refuses_true},
      {"refuses_false", &rule.refuses_false}};
  const std::pair<absl::string_view, std::optional<double>*> bounds[] = {
      {"gt", &rule.gt}, {"ge", &rule.ge}, {"lt", &rule.lt}, {"le", &rule.le}};
  for (const ConfigMember& member : *entry.object()) {
    bool known = member.key == "from" || member.key == "to";
    for (const auto& [name, flag] : flags) {
      if (member.key != name || member.value.boolean() == nullptr) continue;
      *flag = *member.value.boolean();
      known = true;
    }
    for (const auto& [name, text] : texts) {
      if (member.key != name || member.value.text() == nullptr) continue;
      *text = *member.value.text();
      known = true;
    }
    for (const auto& [name, bound] : bounds) {
      if (member.key != name || !Number(&member.value).has_value()) continue;
      *bound = Number(&member.value);
      known = true;
    }
    if (member.key == "default") {
      rule.fallback = member.value;
      known = true;
    }
    if (member.key == "values" && member.value.array() != nullptr) {
      rule.values = *member.value.array();
      known = true;
    }
    if (!known) return Broken(member.key, "is no field of a rule, or of another type");
  }
  if (!IsKnownType(rule.type)) return Broken(rule.type, "is no type");
  return rule;
}

absl::Status ReadSections(const LintTable& table, const ConfigValue& json,
                          LintTable::Sections* out) {
  if (json.object() == nullptr) return Broken("sections", "must be an object");
  for (const ConfigMember& member : *json.object()) {
    KeySection& section = (*out)[member.key];
    const ConfigValue* kind = member.value.Find("kind");
    const ConfigValue* keys = member.value.Find("keys");
    if (kind == nullptr || keys == nullptr || keys->object() == nullptr) {
      return Broken(member.key, "needs a kind and keys");
    }
    if (kind->IsText("strict")) {
      section.kind = KeySection::Kind::kStrict;
    } else if (kind->IsText("open")) {
      section.kind = KeySection::Kind::kOpen;
    } else if (!kind->IsText("loose")) {
      return Broken(member.key, "has an unknown kind");
    }
    for (const ConfigMember& key : *keys->object()) {
      if (key.value.array() == nullptr) return Broken(key.key, "must be a list of rules");
      for (const ConfigValue& entry : *key.value.array()) {
        ZC_ASSIGN_OR_RETURN(KeyRule rule, ReadRule(table, entry));
        section.keys[key.key].push_back(std::move(rule));
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace

const KeyRule* KeySection::FindKey(absl::string_view key, int version) const {
  const auto found = keys.find(key);
  if (found == keys.end()) return nullptr;
  for (const KeyRule& rule : found->second) {
    if (rule.first_version <= version && version <= rule.last_version) return &rule;
  }
  return nullptr;
}

const KeyRule* KeySection::Find(absl::string_view key, int version) const {
  if (const KeyRule* rule = FindKey(key, version)) return rule;
  for (const auto& [other, rules] : keys) {
    for (const KeyRule& rule : rules) {
      if (!rule.name.empty() && rule.name == key && rule.first_version <= version &&
          version <= rule.last_version) {
        return &rule;
      }
    }
  }
  return nullptr;
}

absl::StatusOr<LintTable> ReadLintTable(absl::string_view json) {
  ZC_ASSIGN_OR_RETURN(const JsonDocument document, ReadJson(json, "table", kTableLimits));
  LintTable table;
  for (const char* field : {"versions", "synonyms", "sections", "optimizers", "schedulers"}) {
    if (document.value.Find(field) == nullptr) return Broken(field, "is missing");
  }
  const ConfigValue& versions = *document.value.Find("versions");
  if (versions.array() == nullptr) return Broken("versions", "must be a list");
  for (const ConfigValue& version : *versions.array()) {
    if (version.text() == nullptr) return Broken("versions", "must be strings");
    table.versions.push_back(*version.text());
  }
  const ConfigValue& synonyms = *document.value.Find("synonyms");
  if (synonyms.object() == nullptr) return Broken("synonyms", "must be an object");
  for (const ConfigMember& member : *synonyms.object()) {
    if (member.value.text() == nullptr) return Broken(member.key, "must be a string");
    table.synonyms[member.key] = *member.value.text();
  }
  ZC_RETURN_IF_ERROR(ReadSections(table, *document.value.Find("sections"), &table.sections));
  ZC_RETURN_IF_ERROR(ReadSections(table, *document.value.Find("optimizers"), &table.optimizers));
  ZC_RETURN_IF_ERROR(ReadSections(table, *document.value.Find("schedulers"), &table.schedulers));
  if (table.sections.find("") == table.sections.end()) return Broken("sections", "has no top");
  if (table.optimizers.find("adamw") == table.optimizers.end() ||
      table.schedulers.find("WarmupDecayLR") == table.schedulers.end()) {
    return Broken("optimizers and schedulers", "lack the usual ones");
  }
  return table;
}

absl::StatusOr<const LintTable*> BuiltInLintTable() {
  static const auto* const table = new absl::StatusOr<LintTable>(ReadLintTable(DeepSpeedKeys()));
  if (!table->ok()) return absl::InternalError(table->status().message());
  return &**table;
}

}  // namespace zerocast
