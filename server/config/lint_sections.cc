// Rules of the sections that are no part of precision, ZeRO, optimizer or scheduler; most of them
// assertions in the functions that DeepSpeedConfig._initialize_params calls.  And of the model.
#include <algorithm>
#include <cmath>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/config/lint_context.h"
#include "server/config/lint_value.h"
#include "server/config/python_format.h"

namespace zerocast {
namespace {

bool IsTruthy(const LintContext& context, absl::string_view path) {
  const ConfigValue* value = context.Find(path);
  return value != nullptr && PythonTruth(*value);
}

bool AllText(const ConfigValue& list) {
  return std::all_of(list.array()->begin(), list.array()->end(),
                     [](const ConfigValue& item) { return item.text() != nullptr; });
}

void LintCheckpoint(LintContext* context) {
  const std::string path = "checkpoint.parallel_write.pipeline_stage";
  const ConfigValue* value = context->Find(path);
  if (value == nullptr || value->text() != nullptr) return;
  // `in [True, False]`: 1 and 0.0 are.
  const bool number = value->integer() != nullptr || value->real() != nullptr;
  if (number && !LaxBool(*value).has_value()) {
    context->Error("wrong-type", path,
                   absl::StrCat("must be true or false, is ", ShortJson(*value)));
  }
}

void LintLists(LintContext* context) {
  const std::string modules = "torch_autocast.lower_precision_safe_modules";
  const ConfigValue* value = context->Find(modules);
  if (value != nullptr && value->array() != nullptr && !AllText(*value)) {
    context->Error("wrong-type", modules, "must be a list of strings");
  }
  const std::string keep = "data_types.keep_in_fp32_modules";
  value = context->Find(keep);
  if (context->Since("0.19.8") && value != nullptr && value->array() != nullptr &&
      !AllText(*value)) {
    context->Error("wrong-type", keep, "must be \"auto\" or a list of name patterns", "\"auto\"");
  }
}

// int() of Python: no fraction in text, no infinity.
bool IsIntArgument(const ConfigValue& value) {
  if (value.text() != nullptr) {
    return LaxInt(value).has_value() && value.text()->find('.') == std::string::npos;
  }
  if (value.real() != nullptr) return std::isfinite(*value.real());
  return value.integer() != nullptr || value.boolean() != nullptr;
}

void LintDynamicBatching(LintContext* context) {
  const std::string section = "data_efficiency.data_sampling.dynamic_batching";
  for (const absl::string_view key : {"min_batch_size", "max_batch_size", "max_tokens"}) {
    if (key == "max_tokens" && !IsTruthy(*context, JoinPath(section, "enabled"))) continue;
    const ConfigValue* value = context->Find(JoinPath(section, key));
    if (value == nullptr || (value->IsText("auto") && !context->resolved())) continue;
    if (IsIntArgument(*value)) continue;
    context->Error(value->IsText("auto") ? "leftover-auto" : "wrong-type", JoinPath(section, key),
                   absl::StrCat("must be an integer, is ", ShortJson(*value)));
  }
}

// Sections that later releases refuse, and whose "enabled" these pop without looking.
void LintEnabled(LintContext* context) {
  if (context->Since("0.19.8")) return;
  for (const absl::string_view section : {"amp", "curriculum_learning", "progressive_layer_drop"}) {
    const ConfigValue* value = context->Find(section);
    if (value == nullptr || value->object() == nullptr) continue;
    if (value->Find("enabled") != nullptr) continue;
    context->Error("missing-key", JoinPath(section, "enabled"),
                   "is needed; DeepSpeed stops with a KeyError", JoinPath(section, "enabled"));
  }
}

void LintDataEfficiency(LintContext* context) {
  const std::string sampling = "data_efficiency.data_sampling";
  const std::pair<std::string, std::string> needs[] = {
      {"curriculum_learning", "curriculum_metrics"}, {"dynamic_batching", "max_tokens"}};
  for (const auto& [section, key] : needs) {
    const std::string path = JoinPath(sampling, section);
    if (!IsTruthy(*context, JoinPath(path, "enabled"))) continue;
    if (context->Find(JoinPath(path, key)) != nullptr) continue;
    context->Error("missing-key", JoinPath(path, key),
                   absl::StrCat("is needed where ", path, " is enabled"), JoinPath(path, key));
  }
}

void LintVocabulary(LintContext* context) {
  const ConfigValue* value = context->Find("vocabulary_size");
  if (value == nullptr || value->integer() == nullptr) return;
  const double size = value->integer()->ToDouble();
  if (size != 0 && std::fmod(size, 8) != 0) {
    context->Warning("alignment", "vocabulary_size",
                     absl::StrCat(ShortJson(*value),
                                  " is no multiple of 8: tensor cores work less well; DeepSpeed "
                                  "logs a warning"),
                     absl::StrCat(8 * std::ceil(size / 8)));
  }
}

void LintActivations(LintContext* context) {
  const std::string section = "activation_checkpointing";
  const std::string contiguous = JoinPath(section, "contiguous_memory_optimization");
  if (!IsTruthy(*context, contiguous)) return;
  if (!IsTruthy(*context, JoinPath(section, "partition_activations"))) {
    context->Warning("conflict", contiguous,
                     "needs partition_activations; the first checkpointed layer fails without it",
                     JoinPath(section, "partition_activations"));
  }
  if (context->FindSet(JoinPath(section, "number_checkpoints")) == nullptr) {
    context->Warning("missing-key", JoinPath(section, "number_checkpoints"),
                     "contiguous_memory_optimization needs the number of layers; the first "
                     "checkpointed layer fails without it",
                     JoinPath(section, "number_checkpoints"));
  }
}

}  // namespace

void LintSections(LintContext* context) {
  LintCheckpoint(context);
  LintLists(context);
  LintDataEfficiency(context);
  LintDynamicBatching(context);
  LintEnabled(context);
  LintVocabulary(context);
  LintActivations(context);
}

// Engine._broadcast_model at any stage and zero.Init at stage 3 send a parameter's bytes by
// `param.data.view(torch.uint8)`, which torch refuses without dimensions; before 0.19.8 they sent
// the parameter itself.
void LintModel(LintContext* context) {
  const std::vector<std::string>& names = context->scalar_parameters();
  if (names.empty() || !context->Since("0.19.8")) return;
  constexpr size_t kMostNames = 5;
  std::string list = absl::StrJoin(
      names.begin(), names.begin() + static_cast<ptrdiff_t>(std::min(names.size(), kMostNames)),
      ", ");
  if (names.size() > kMostNames) {
    absl::StrAppend(&list, " and ", names.size() - kMostNames, " more");
  }
  context->Error(
      "scalar-parameter", "",
      absl::StrCat("the model has parameters of shape [], which DeepSpeed ",
                   context->version_name(),
                   " cannot send from rank to rank (\"self.dim() cannot be 0 to view ... "
                   "as Byte\"): ",
                   list),
      "shape [1], or DeepSpeed 0.19.7");
}

}  // namespace zerocast
