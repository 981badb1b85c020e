// zero_optimization: deepspeed/runtime/zero/config.py, and what the engine and zero.Init check.
#include <cmath>
#include <optional>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/config/lint_context.h"
#include "server/config/lint_value.h"

namespace zerocast {
namespace {

constexpr absl::string_view kZero = "zero_optimization";

std::string ZeroPath(absl::string_view key) { return JoinPath(kZero, key); }

// Given, and not dropped as "auto" is.
bool IsGiven(const LintContext& context, const std::string& path) {
  const ConfigValue* value = context.Find(path);
  return value != nullptr && !value->IsText("auto");
}

void LintReplaced(LintContext* context) {
  const std::pair<absl::string_view, std::vector<absl::string_view>> replaced[] = {
      {"cpu_offload_param", {"offload_param"}},
      {"cpu_offload", {"offload_optimizer"}},
      {"stage3_gather_fp16_weights_on_model_save",
       {"stage3_gather_16bit_weights_on_model_save", "gather_16bit_weights_on_model_save"}}};
  for (const auto& [old_key, new_keys] : replaced) {
    if (!IsGiven(*context, ZeroPath(old_key))) continue;
    for (const absl::string_view new_key : new_keys) {
      if (!IsGiven(*context, ZeroPath(new_key))) continue;
      context->Error(
          "conflict", ZeroPath(old_key),
          absl::StrCat(new_key, " replaces it and is given too; DeepSpeed refuses both together"),
          ZeroPath(new_key));
    }
  }
}

void LintByStage(LintContext* context, int stage) {
  const std::string ratio = ZeroPath("offload_optimizer.ratio");
  if (stage != 3 && context->Float(ratio, 1).value_or(1) < 1) {
    context->Error("conflict", ratio, "a partial offload needs ZeRO stage 3");
  }
  const std::string norm = ZeroPath("compute_grad_norm");
  if (context->Since("0.19.7") && stage != 1 && stage != 2 &&
      !context->Bool(norm, true).value_or(true)) {
    context->Error("conflict", norm, "false is supported with ZeRO stage 1 or 2 only");
  }
  if (stage == 3 && context->Bool(ZeroPath("elastic_checkpoint"), false).value_or(false)) {
    context->Warning("deprecated-key", ZeroPath("elastic_checkpoint"),
                     "ZeRO-3 has no elastic checkpoints any more", "checkpoint.load_universal");
  }
  if (!context->Since("0.19.4")) return;
  const std::string managed = "managed_gradient_accumulation";
  const ConfigValue* value = context->Find(managed);
  if (value == nullptr || LaxBool(*value).value_or(true)) return;
  if (stage < 2 && context->Bool(ZeroPath("overlap_comm"), false).value_or(false)) {
    context->Error("conflict", managed, "false does not go with overlap_comm below ZeRO stage 2");
  }
  if (context->Bool("compile.deepcompile", false).value_or(false)) {
    context->Error("conflict", managed, "false does not go with compile.deepcompile");
  }
}

void LintSum(LintContext* context, std::optional<int> stage) {
  if (!context->Since("0.19.6")) return;
  const std::string path = "gradient_allreduce_op";
  if (!absl::EqualsIgnoreCase(context->Text(path), "sum")) return;
  if (stage == 3) context->Error("conflict", path, "\"sum\" is not supported with ZeRO stage 3");
  if (context->FindSet(ZeroPath("zenflow")) != nullptr && IsGiven(*context, ZeroPath("zenflow"))) {
    context->Error("conflict", path, "\"sum\" is not supported with zenflow");
  }
  if (context->Bool("compile.deepcompile", false).value_or(false)) {
    context->Error("conflict", path, "\"sum\" is not supported with compile.deepcompile");
  }
}

void LintOffload(LintContext* context, std::optional<int> stage) {
  for (const absl::string_view key : {"offload_param", "offload_optimizer"}) {
    const std::string section = ZeroPath(key);
    const std::string device = context->Text(absl::StrCat(section, ".device"));
    const std::string nvme_path = absl::StrCat(section, ".nvme_path");
    const bool has_path = context->FindSet(nvme_path) != nullptr;
    if (has_path && !device.empty() && device != "nvme" && device != "auto" &&
        !context->FindSet(nvme_path)->IsText("auto")) {
      context->Notice("no-effect", nvme_path, "is read with device \"nvme\" only");
    }
    if (!stage.has_value() || (device != "cpu" && device != "nvme")) continue;
    const int least = key == "offload_param" ? 3 : 1;
    if (*stage < least) {
      context->Warning("no-effect", section,
                       absl::StrCat("needs ZeRO stage ", least, least == 1 ? " or more" : "",
                                    "; at stage ", *stage, " DeepSpeed ignores it"));
    } else if (device == "nvme" && *stage != 3) {
      context->Warning("no-effect", absl::StrCat(section, ".device"),
                       absl::StrCat("\"nvme\" needs ZeRO stage 3; at stage ", *stage,
                                    " nothing goes to the NVMe drive"),
                       "\"cpu\"");
    } else if (device == "nvme" &&
               (!has_path || (context->resolved() && !IsGiven(*context, nvme_path)))) {
      context->Error("missing-key", nvme_path, "device \"nvme\" needs a path", nvme_path);
    }
  }
}

// Switches that only stage 3 reads.
void LintStage3Only(LintContext* context, int stage) {
  const std::string hpz = ZeroPath("zero_hpz_partition_size");
  const double group = context->Int(hpz, 1).value_or(1);
  if (stage == 3) {
    const std::optional<int64_t> world = context->world_size();
    if (!world.has_value() || group <= 1 || group >= static_cast<double>(*world)) return;
    if (std::fmod(static_cast<double>(*world), group) != 0) {
      context->Error("conflict", hpz, absl::StrCat("does not divide the world size ", *world));
    }
    return;
  }
  if (group > 1) {
    context->Warning("no-effect", hpz, "needs ZeRO stage 3; DeepSpeed ignores it");
  }
  for (const absl::string_view key :
       {"zero_quantized_weights", "zero_quantized_nontrainable_weights",
        "zero_quantized_gradients"}) {
    if (context->Bool(ZeroPath(key), false).value_or(false)) {
      context->Warning("no-effect", ZeroPath(key), "needs ZeRO stage 3; DeepSpeed ignores it");
    }
  }
  const ConfigValue* zero = context->Find(kZero);
  if (zero == nullptr || zero->object() == nullptr) return;
  for (const ConfigMember& member : *zero->object()) {
    if (!absl::StartsWith(member.key, "stage3_") || member.value.IsText("auto")) continue;
    const LintTable::Sections& sections = context->table().sections;
    if (sections.find(kZero)->second.FindKey(member.key, context->version()) == nullptr) continue;
    context->Notice("no-effect", ZeroPath(member.key),
                    absl::StrCat("is read at ZeRO stage 3 only, the stage is ", stage));
  }
}

void LintZenFlow(LintContext* context) {
  const std::string section = ZeroPath("zenflow");
  const ConfigValue* zenflow = context->FindSet(section);
  if (zenflow == nullptr || zenflow->object() == nullptr) return;
  const auto path = [&](absl::string_view key) { return JoinPath(section, key); };
  const std::string strategy = context->Text(path("select_strategy"));
  const ConfigValue* named = zenflow->Find("select_strategy");
  if (named != nullptr && named->text() != nullptr && strategy != "auto" && strategy != "step" &&
      strategy != "epoch") {
    context->Error("invalid-value", path("select_strategy"), R"(must be "auto", "step" or "epoch")",
                   "\"auto\"");
  }
  for (const absl::string_view key : {"select_interval", "update_interval"}) {
    const ConfigValue* value = zenflow->Find(key);
    if (value == nullptr) continue;
    if (value->text() != nullptr) {
      if (!value->IsText("auto")) {
        context->Error("invalid-value", path(key), R"(as a string it must be "auto")", "\"auto\"");
      }
      continue;
    }
    const auto number = LaxInt(*value);
    if (key == "update_interval" && context->Since("0.19.6") && number.has_value() && *number < 1) {
      context->Error("out-of-range", path(key), absl::StrCat("must be at least 1, is ", *number));
    }
  }
}

}  // namespace

void LintZero(LintContext* context) {
  const std::optional<int> stage = context->Stage();
  LintReplaced(context);
  LintSum(context, stage);
  LintOffload(context, stage);
  LintZenFlow(context);
  if (!stage.has_value()) return;
  LintByStage(context, *stage);
  LintStage3Only(context, *stage);
}

}  // namespace zerocast
