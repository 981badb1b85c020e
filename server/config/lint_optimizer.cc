// optimizer and scheduler: what the engine builds from type and params
// (deepspeed/runtime/engine.py, _configure_basic_optimizer, _scheduler_from_config;
// deepspeed/runtime/lr_schedules.py).
#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/config/lint_context.h"
#include "server/config/lint_value.h"
#include "server/config/python_format.h"

namespace zerocast {
namespace {

constexpr absl::string_view kRemovedOptimizers[] = {"onebitadam", "onebitlamb", "zerooneadam"};
// deepspeed/runtime/zero/utils.py, ZERO_SUPPORTED_OPTIMIZERS; muadam and muadamw make Adams.
constexpr absl::string_view kTestedWithZero[] = {"adam", "adamw",  "adagrad", "lion",
                                                 "muon", "muadam", "muadamw"};

bool Contains(const absl::string_view* begin, const absl::string_view* end,
              absl::string_view name) {
  return std::find(begin, end, name) != end;
}
template <size_t N>
bool Contains(const absl::string_view (&names)[N], absl::string_view name) {
  return Contains(names, names + N, name);
}

bool IsKnownIn(const KeySection& section, int version) {
  return section.keys.empty() ||
         std::any_of(section.keys.begin(), section.keys.end(), [&](const auto& key) {
           return section.FindKey(key.first, version) != nullptr;
         });
}

std::vector<std::string> TypesOf(const LintTable::Sections& types, int version) {
  std::vector<std::string> names;
  for (const auto& [name, section] : types) {
    if (IsKnownIn(section, version)) names.push_back(name);
  }
  return names;
}

bool IsNumber(const ConfigValue& value) {
  return value.integer() != nullptr || value.real() != nullptr || value.boolean() != nullptr;
}

// Parameters that the constructor does not take, and those that it cannot do without.
void LintParameters(LintContext* context, const KeySection& section, const std::string& path,
                    absl::string_view type, const ConfigValue& params) {
  std::vector<std::string> names;
  for (const auto& [key, rules] : section.keys) {
    if (section.FindKey(key, context->version()) != nullptr) names.push_back(key);
  }
  const bool strict = section.kind == KeySection::Kind::kStrict;
  for (const ConfigMember& member : *params.object()) {
    const std::string below = JoinPath(path, member.key);
    if (member.value.IsText("auto") && context->resolved()) {
      context->Error("leftover-auto", below, "\"auto\" is left; the constructor gets the text");
    }
    if (!strict || member.key == "max_grad_norm" ||
        std::find(names.begin(), names.end(), member.key) != names.end()) {
      continue;
    }
    const auto synonym = context->table().synonyms.find(absl::AsciiStrToLower(member.key));
    const bool meant = synonym != context->table().synonyms.end() &&
                       std::find(names.begin(), names.end(), synonym->second) != names.end();
    std::string suggestion;
    if (context->MaySuggest()) {
      suggestion = meant ? synonym->second : NearestName(member.key, names);
    }
    context->Error("unknown-key", below,
                   absl::StrCat(type,
                                " takes no such parameter; the engine stops with a "
                                "TypeError"),
                   suggestion.empty() ? "" : JoinPath(path, suggestion));
  }
  for (const std::string& name : names) {
    if (section.FindKey(name, context->version())->required && params.Find(name) == nullptr) {
      context->Error("missing-key", JoinPath(path, name),
                     absl::StrCat(type, " cannot do without it"), JoinPath(path, name));
    }
  }
}

void LintGradNorm(LintContext* context) {
  const std::string path = "optimizer.params.max_grad_norm";
  if (context->Find(path) == nullptr) return;
  context->Error("removed-key", path,
                 "is no parameter of an optimizer; DeepSpeed refuses it when it makes one",
                 "gradient_clipping");
}

void LintWithZero(LintContext* context, const std::string& type) {
  if (context->Stage().value_or(0) == 0 || Contains(kTestedWithZero, type)) return;
  const ConfigValue* allowed = context->Find("zero_allow_untested_optimizer");
  if (allowed != nullptr && (PythonTruth(*allowed) || allowed->IsText("auto"))) return;
  context->Error("conflict", "optimizer.type",
                 absl::StrCat(type,
                              " was not tested with ZeRO; DeepSpeed refuses it without "
                              "zero_allow_untested_optimizer"),
                 "\"zero_allow_untested_optimizer\": true");
}

// The number at a path, where it is one.
std::optional<double> Number(const LintContext& context, const std::string& path) {
  const ConfigValue* value = context.Find(path);
  return value != nullptr && IsNumber(*value) ? LaxFloat(*value) : std::nullopt;
}

void LintWarmupSteps(LintContext* context) {
  const std::string path = "scheduler.params.warmup_num_steps";
  const ConfigValue* value = context->Find(path);
  if (value == nullptr || value->IsText("auto")) return;
  const bool whole = value->integer() != nullptr || value->boolean() != nullptr;
  if (!IsNumber(*value)) {
    context->Error("wrong-type", path,
                   absl::StrCat("must be a positive integer, is ", ShortJson(*value)));
    return;
  }
  if (whole && *LaxFloat(*value) > 0) return;
  std::string message = absl::StrCat("must be a positive integer, is ", ShortJson(*value));
  if (context->Since("0.19.3")) {
    context->Error(whole ? "out-of-range" : "wrong-type", path, std::move(message), "1 or more");
  } else {
    context->Warning(whole ? "out-of-range" : "wrong-type", path,
                     absl::StrCat(message,
                                  "; DeepSpeed silently takes 2 where it is less, and "
                                  "0.19.3 refuses it"),
                     "1 or more");
  }
}

void LintWarmup(LintContext* context, absl::string_view type) {
  LintWarmupSteps(context);
  const std::string params = "scheduler.params";
  const auto path = [&](absl::string_view key) { return JoinPath(params, key); };
  const bool cosine = type == "WarmupCosineLR";
  for (const absl::string_view key : {"warmup_min_lr", "warmup_max_lr", "total_num_steps"}) {
    const ConfigValue* value = context->Find(path(key));
    if (value == nullptr || value->IsText("auto") || IsNumber(*value)) continue;
    if (key != "total_num_steps" && (value->array() != nullptr || cosine)) continue;  // one a group
    if (key == "total_num_steps" && type == "WarmupLR") continue;  // no parameter of it
    if (key == "warmup_max_lr" && value->is_null()) continue;      // the optimizer's
    context->Error("wrong-type", path(key),
                   absl::StrCat("must be a number, is ", ShortJson(*value)));
  }
  const std::optional<double> total = Number(*context, path("total_num_steps"));
  const double warmup = Number(*context, path("warmup_num_steps")).value_or(1000);
  if (type != "WarmupLR" && total.has_value() && *total < std::max(2.0, warmup)) {
    context->Warning("conflict", path("total_num_steps"),
                     absl::StrCat(*total, " is less than warmup_num_steps, ", warmup,
                                  "; DeepSpeed logs a warning"));
  }
  const std::optional<double> low = Number(*context, path("warmup_min_lr"));
  const std::optional<double> high = Number(*context, path("warmup_max_lr"));
  if (!cosine && low.has_value() && high.has_value() && *low > *high) {
    context->Warning("conflict", path("warmup_min_lr"),
                     absl::StrCat(*low, " is more than warmup_max_lr, ", *high));
  }
  const ConfigValue* how = context->Find(path("warmup_type"));
  if (how != nullptr && !how->IsText("log") && !how->IsText("linear") && !how->IsText("auto")) {
    context->Warning("invalid-value", path("warmup_type"),
                     R"(is neither "log" nor "linear"; DeepSpeed takes "log")", "\"log\"");
  }
}

void LintCycles(LintContext* context, absl::string_view type) {
  const std::string params = "scheduler.params";
  if (type == "LRRangeTest" && context->Since("0.19.4")) {
    const std::string path = JoinPath(params, "lr_range_test_step_size");
    const ConfigValue* value = context->Find(path);
    if (value == nullptr || value->IsText("auto")) return;
    const bool whole = value->integer() != nullptr || value->boolean() != nullptr;
    if (!whole || *LaxFloat(*value) <= 0) {
      context->Error(whole ? "out-of-range" : "wrong-type", path,
                     absl::StrCat("must be a positive integer, is ", ShortJson(*value)));
    }
  }
  if (type != "OneCycle") return;
  const std::string first = JoinPath(params, "cycle_first_step_size");
  const std::string second = JoinPath(params, "cycle_second_step_size");
  const std::optional<double> up = Number(*context, first);
  const std::optional<double> down = Number(*context, second);
  if (context->Since("0.19.4")) {
    if (up.has_value() && *up <= 0) {
      context->Error("out-of-range", first, absl::StrCat("must be greater than 0, is ", *up));
    }
    if (down.has_value() && *down < 0) {
      context->Error("out-of-range", second, absl::StrCat("must be at least 0, is ", *down));
    }
  } else if (up.value_or(2000) + down.value_or(up.value_or(2000)) == 0) {
    context->Error("out-of-range", first, "the two halves of a cycle add up to 0");
  }
}

void LintSchedulerParams(LintContext* context, const std::string& type, const KeySection& section) {
  const std::string path = "scheduler.params";
  const ConfigValue* params = context->Find(path);
  if (params == nullptr || params->is_null()) {
    context->Error("missing-key", path, "the engine passes it on and crashes without it", "{}");
    return;
  }
  if (params->object() == nullptr) {
    context->Error("wrong-type", path, absl::StrCat("must be an object, is ", ShortJson(*params)));
    return;
  }
  LintParameters(context, section, path, type, *params);
  if (absl::StartsWith(type, "Warmup")) LintWarmup(context, type);
  LintCycles(context, type);
}

// A type that is no text is reported by its section; null and none make nothing.
bool ReadType(LintContext* context, absl::string_view section, std::string* type) {
  const ConfigValue* value = context->Find(section);
  if (value == nullptr || value->object() == nullptr) return false;
  const std::string path = JoinPath(section, "type");
  const ConfigValue* named = context->FindSet(path);
  if (named == nullptr) {
    context->Warning("missing-key", path,
                     absl::StrCat("without a type DeepSpeed makes no ", section,
                                  ", though "
                                  "Transformers leaves it to DeepSpeed"),
                     path);
    return false;
  }
  if (named->IsText("auto") && context->resolved()) {
    context->Error("leftover-auto", path, absl::StrCat("\"auto\" is the name of no ", section));
  }
  if (named->text() == nullptr || named->IsText("auto")) return false;
  *type = *named->text();
  return true;
}

}  // namespace

void LintOptimizer(LintContext* context) {
  const std::string path = "optimizer.type";
  std::string type;
  if (!ReadType(context, "optimizer", &type)) return;
  const std::string lower = absl::AsciiStrToLower(type);
  const LintTable::Sections& known = context->table().optimizers;
  if (Contains(kRemovedOptimizers, lower) && context->Since("0.19.7")) {
    context->Error("removed-key", path, absl::StrCat(type, " was removed in 0.19.7"), "\"AdamW\"");
    return;
  }
  // Where DeepSpeed's own name is meant, its case does not matter.
  auto found = known.find(lower);
  if (found == known.end()) found = known.find(type);
  if (found == known.end()) {
    const std::string nearest = NearestName(type, TypesOf(known, context->version()));
    context->Error(
        "invalid-value", path,
        absl::StrCat(ShortJson(ConfigValue(type)), " is no optimizer of DeepSpeed or torch.optim"),
        nearest.empty() ? "" : absl::StrCat("\"", nearest, "\""));
    return;
  }
  const ConfigValue* params = context->FindSet("optimizer.params");
  if (params != nullptr && params->object() != nullptr) {
    LintParameters(context, found->second, "optimizer.params", type, *params);
    LintOptimizerValues(context, found->first, found->second, *params);
  }
  LintGradNorm(context);
  if (lower == "lamb" && context->Float("fp16.loss_scale", 0).value_or(0) != 0) {
    context->Error("conflict", path, "Lamb needs dynamic loss scaling (fp16.loss_scale 0)");
  }
  if (!Contains(kRemovedOptimizers, lower)) {
    LintWithZero(context, found->first);
    return;
  }
  context->Notice(
      "removed-key", path,
      absl::StrCat(type, " works in ", context->version_name(), ", is gone from 0.19.7 on"),
      "\"AdamW\"");
  if (context->Stage().value_or(0) > 0) {
    context->Error("conflict", path, absl::StrCat(type, " does not go with ZeRO"));
  }
}

void LintScheduler(LintContext* context) {
  const std::string path = "scheduler.type";
  std::string type;
  if (!ReadType(context, "scheduler", &type)) return;
  const LintTable::Sections& known = context->table().schedulers;
  const auto found = known.find(type);
  if (found == known.end()) {
    const std::string nearest = NearestName(type, TypesOf(known, context->version()));
    context->Error("invalid-value", path,
                   absl::StrCat(ShortJson(ConfigValue(type)),
                                " is no scheduler of DeepSpeed or torch.optim.lr_scheduler"),
                   nearest.empty() ? "" : absl::StrCat("\"", nearest, "\""));
    return;
  }
  LintSchedulerParams(context, type, found->second);
}

}  // namespace zerocast
