// What every key of every section goes through: is it known, does its value fit, is it "auto".
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/config/lint_context.h"
#include "server/config/lint_value.h"
#include "server/config/python_format.h"

namespace zerocast {
namespace {

// What follows on an error: the release raises, be it a check of its own or by accident.
constexpr absl::string_view kFails = "; DeepSpeed fails on it";

// The release that first has a key at this place; empty where none has.
std::string FirstReleaseOf(const LintContext& context, const KeySection& section,
                           absl::string_view key, bool after) {
  const auto found = section.keys.find(key);
  if (found == section.keys.end()) return "";
  for (const KeyRule& rule : found->second) {
    if (after && rule.first_version > context.version() && rule.type != "removed") {
      return context.table().versions[rule.first_version];
    }
    if (!after && rule.last_version < context.version()) {
      return context.table().versions[rule.last_version];
    }
  }
  return "";
}

void ReportUnknown(LintContext* context, absl::string_view section_path, const KeySection& section,
                   const ConfigMember& member) {
  if (!context->MayReportMany()) return;
  const std::string path = JoinPath(section_path, member.key);
  const bool strict = section.kind == KeySection::Kind::kStrict;
  const bool dropped = strict && member.value.IsText("auto");
  std::string message =
      absl::StrCat(ShortJson(ConfigValue(ToValidUtf8(member.key))), " is no key of ",
                   section_path.empty() ? "DeepSpeed" : ToValidUtf8(section_path), " in ",
                   context->version_name(), "; DeepSpeed ",
                   dropped  ? "drops it, as its value is \"auto\""
                   : strict ? "refuses the config"
                            : "ignores it silently");
  const std::string later = FirstReleaseOf(*context, section, member.key, true);
  const std::string before = FirstReleaseOf(*context, section, member.key, false);
  std::string suggestion;
  if (!later.empty()) {
    absl::StrAppend(&message, "; known since ", later);
    suggestion = absl::StrCat("DeepSpeed ", later, " or later");
  } else if (!before.empty()) {
    absl::StrAppend(&message, "; known until ", before);
  } else {
    suggestion = SuggestKey(context, section_path, member.key);
  }
  context->Report(strict && !dropped ? LintSeverity::kError : LintSeverity::kWarning, "unknown-key",
                  path, std::move(message), std::move(suggestion));
}

// True where the key is gone in this release.
bool ReportRemoved(LintContext* context, const KeySection& section, const KeyRule& rule,
                   absl::string_view key, absl::string_view path) {
  if (rule.type == "removed") {
    context->Error("removed-key", path, rule.message);
    return true;
  }
  // Rules of a key do not overlap: the last one has none after it.
  if (rule.last_version + 1 == static_cast<int>(context->table().versions.size())) return false;
  const auto found = section.keys.find(key);
  if (found == section.keys.end()) return false;
  for (const KeyRule& later : found->second) {
    if (later.type == "removed" && later.first_version > context->version()) {
      context->Notice(
          "removed-key", path,
          absl::StrCat("works in ", context->version_name(), ", is refused from ",
                       context->table().versions[later.first_version], " on: ", later.message));
    }
  }
  return false;
}

void ReportAuto(LintContext* context, const KeySection& section, const KeyRule& rule,
                absl::string_view path) {
  if (!context->resolved() || rule.automatic) return;
  if (section.kind == KeySection::Kind::kStrict) {
    context->Warning(
        "leftover-auto", path,
        absl::StrCat("\"auto\" is left; DeepSpeed drops the key and takes its default",
                     rule.fallback.has_value() ? absl::StrCat(", ", ShortJson(*rule.fallback))
                                               : std::string()));
    return;
  }
  const bool raises = absl::StrContains(rule.refuses, 'a');
  context->Report(raises ? LintSeverity::kError : LintSeverity::kWarning, "leftover-auto", path,
                  raises ? "\"auto\" is left; DeepSpeed refuses it"
                         : "\"auto\" is left; DeepSpeed takes the text for the value");
}

void ReportDeprecated(LintContext* context, const KeyRule& rule, absl::string_view section,
                      absl::string_view key, absl::string_view path) {
  if (rule.deprecated) {
    context->Warning("deprecated-key", path,
                     absl::StrCat(key, " is deprecated; DeepSpeed logs a warning",
                                  rule.sets_other ? absl::StrCat(" and sets ", rule.replacement)
                                                  : std::string(" and ignores it")),
                     JoinPath(section, rule.replacement));
  } else if (!rule.name.empty() && rule.name == key) {
    context->Warning("field-name", path,
                     absl::StrCat("DeepSpeed takes this name too, but Transformers fills and reads "
                                  "the key stage3_",
                                  key, " only"),
                     JoinPath(section, absl::StrCat("stage3_", key)));
  }
}

// A value that does not fit, with what DeepSpeed does about it.
void ReportValue(LintContext* context, const std::string& path, const ValueVerdict& verdict) {
  const bool fails = verdict.fit == ValueVerdict::Fit::kRefused;
  context->Report(fails ? LintSeverity::kError : LintSeverity::kWarning, verdict.rule, path,
                  absl::StrCat(verdict.message, fails ? kFails : ""));
}

void ReportNullSection(LintContext* context, const std::string& path) {
  context->Notice("null-section", path, "is null; DeepSpeed takes the section for absent");
}

void LintSection(LintContext* context, const std::string& path, const ConfigValue& value);

// A section's value that is no object; what DeepSpeed does about it depends on the section.
void LintNoObject(LintContext* context, const KeySection& parent, const KeyRule& rule,
                  const std::string& path, const ConfigValue& value) {
  if (path == "zero_optimization" && value.boolean() != nullptr) {
    const int stage = *value.boolean() ? 1 : 0;
    context->Warning("deprecated-key", path,
                     absl::StrCat("a boolean is deprecated; DeepSpeed takes it for stage ", stage,
                                  ", Transformers crashes on it"),
                     absl::StrCat("{\"stage\": ", stage, "}"));
    return;
  }
  // Its validator takes null for an empty object.
  if (path == "zero_optimization.leaf_module" && value.is_null()) {
    ReportNullSection(context, path);
    return;
  }
  KeyRule as_object = rule;
  as_object.type = "object";
  // A module that leaf_module does not wait for null; optional sections take it.
  const ValueVerdict verdict = parent.kind == KeySection::Kind::kStrict
                                   ? CheckStrictValue(as_object, value)
                                   : CheckLooseValue(as_object, value);
  if (value.is_null() && verdict.fit != ValueVerdict::Fit::kRefused) {
    ReportNullSection(context, path);
  } else if (verdict.fit != ValueVerdict::Fit::kFits) {
    ReportValue(context, path, verdict);
  }
}

void LintValue(LintContext* context, const KeySection& section, const KeyRule& rule,
               const std::string& path, const ConfigValue& value) {
  if (rule.type == "open") {
    if (absl::StrContains(rule.refuses, 'n') && value.object() == nullptr &&
        CheckLooseValue(rule, value).fit == ValueVerdict::Fit::kRefused) {
      context->Error("wrong-type", path,
                     absl::StrCat("must be an object, is ", ShortJson(value), kFails));
    } else if (value.is_null()) {
      context->Notice("null-section", path, "is null; DeepSpeed does not read it");
    }
    return;
  }
  if (rule.type == "section" && value.object() != nullptr) {
    LintSection(context, path, value);
    return;
  }
  const bool strict = section.kind == KeySection::Kind::kStrict;
  if (value.IsText("auto")) {
    ReportAuto(context, section, rule, path);
    return;
  }
  if (rule.type == "section") {
    LintNoObject(context, section, rule, path, value);
    return;
  }
  const ValueVerdict verdict =
      strict ? CheckStrictValue(rule, value) : CheckLooseValue(rule, value);
  if (verdict.fit != ValueVerdict::Fit::kFits) ReportValue(context, path, verdict);
}

void LintSection(LintContext* context, const std::string& path, const ConfigValue& value) {
  const auto found = context->table().sections.find(path);
  if (found == context->table().sections.end()) return;
  const KeySection& section = found->second;
  for (const ConfigMember& member : *value.object()) {
    const KeyRule* rule = section.Find(member.key, context->version());
    const std::string below = JoinPath(path, member.key);
    if (rule == nullptr) {
      if (section.kind != KeySection::Kind::kOpen) {
        ReportUnknown(context, path, section, member);
      }
      continue;
    }
    if (ReportRemoved(context, section, *rule, member.key, below)) continue;
    // pydantic drops "auto" before it looks at anything else.
    const bool dropped = section.kind == KeySection::Kind::kStrict && member.value.IsText("auto");
    if (!dropped) ReportDeprecated(context, *rule, path, member.key, below);
    // A key and its field's own name together: the second is one too many.
    if (!rule->name.empty() && rule->name == member.key && !dropped) {
      const ConfigValue* other = value.Find(absl::StrCat("stage3_", member.key));
      if (other != nullptr && !other->IsText("auto")) {
        context->Error("conflict", below,
                       absl::StrCat("stage3_", member.key,
                                    " is given too; DeepSpeed refuses the same field twice"));
      }
    }
    LintValue(context, section, *rule, below, member.value);
  }
}

}  // namespace

void LintKeys(LintContext* context) { LintSection(context, "", context->root()); }

}  // namespace zerocast
