// fp16, bf16 and the dtypes: deepspeed/runtime/precision_config.py,
// DeepSpeedConfig._do_error_check, and the engine's get_data_types and
// _assert_valid_mixed_precision_config.
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "server/config/lint_context.h"
#include "server/config/lint_value.h"

namespace zerocast {
namespace {

// The section that DeepSpeed reads for bf16: the old name only where the new one is absent.
absl::string_view Bf16Section(const LintContext& context) {
  return context.FindSet("bf16") == nullptr && context.Find("bfloat16") != nullptr ? "bfloat16"
                                                                                   : "bf16";
}

void LintOldName(LintContext* context) {
  if (context->Find("bfloat16") == nullptr) return;
  if (context->FindSet("bf16") != nullptr) {
    context->Warning("no-effect", "bfloat16", "bf16 is given; DeepSpeed ignores its old name");
    return;
  }
  context->Warning("deprecated-key", "bfloat16",
                   "is the old name of bf16; DeepSpeed takes it, Transformers does not look at it",
                   "bf16");
}

void LintDynamicScale(LintContext* context, const std::optional<bool>& fp16) {
  if (!context->Since("0.19.3") || !fp16.value_or(false)) return;
  if (context->Float("fp16.loss_scale", 0).value_or(1) != 0) return;
  for (const absl::string_view key : {"fp16.loss_scale_window", "fp16.min_loss_scale"}) {
    const std::optional<double> value = context->Int(key, 1);
    if (value.has_value() && *value <= 0) {
      context->Error("out-of-range", key,
                     absl::StrCat("must be greater than 0 where the loss scale is dynamic "
                                  "(fp16.loss_scale 0), is ",
                                  *value));
    }
  }
}

// "fp16" of "half": the precision that a dtype's name stands for.
std::string Precision(absl::string_view name) {
  absl::ConsumePrefix(&name, "torch.");
  if (name == "fp16" || name == "float16" || name == "half") return "fp16";
  if (name == "bf16" || name == "bfloat16") return "bf16";
  if (name == "fp32" || name == "float32" || name == "float") return "fp32";
  return "";
}

void LintDtypes(LintContext* context, absl::string_view model) {
  const std::string param = Precision(context->Text("data_types.param_dtype"));
  if (context->Since("0.19.2") && !param.empty() && param != model) {
    context->Error("conflict", "data_types.param_dtype",
                   absl::StrCat("is ", param, ", but the enabled precision is ", model),
                   std::string(model));
  }
  const std::string grad = Precision(context->Text("data_types.grad_accum_dtype"));
  if (!grad.empty() && grad != model && context->Stage() == 0) {
    context->Error("conflict", "data_types.grad_accum_dtype",
                   absl::StrCat("is ", grad, " and the model's precision ", model,
                                "; without ZeRO they must be the same"),
                   std::string(model));
  }
}

void LintMasterWeights(LintContext* context, absl::string_view bf16) {
  const bool no_zero = context->Stage() == 0;
  const std::string bf16_master = absl::StrCat(bf16, ".bf16_master_weights_and_grads");
  const std::string bf16_states = absl::StrCat(bf16, ".bf16_optimizer_states");
  for (const std::string& key :
       {std::string("fp16.fp16_master_weights_and_grads"), bf16_master, bf16_states}) {
    if (no_zero && context->Bool(key, false).value_or(false)) {
      context->Error("conflict", key, "needs ZeRO stage 1, 2 or 3",
                     "a zero_optimization.stage of 1 to 3");
    }
  }
  if (context->Bool(bf16_states, false).value_or(false) &&
      !context->Bool(bf16_master, false).value_or(true)) {
    context->Error("conflict", bf16_states, absl::StrCat("needs ", bf16_master));
  }
}

void LintAmp(LintContext* context, bool half) {
  const ConfigValue* enabled = context->Find("amp.enabled");
  if (context->Since("0.19.8") || enabled == nullptr || !LaxBool(*enabled).value_or(false)) return;
  if (context->Stage().value_or(0) > 0) {
    context->Error("conflict", "amp.enabled", "amp and ZeRO do not go together", "fp16 or bf16");
  } else if (half && context->Stage() == 0) {
    context->Error("conflict", "amp.enabled", "amp and fp16 or bf16 do not go together");
  }
}

}  // namespace

void LintPrecision(LintContext* context) {
  LintOldName(context);
  const absl::string_view section = Bf16Section(*context);
  const std::string bf16_enabled = absl::StrCat(section, ".enabled");
  const std::optional<bool> fp16 = context->Bool("fp16.enabled", false);
  const std::optional<bool> bf16 = context->Bool(bf16_enabled, false);
  if (fp16.value_or(false) && bf16.value_or(false)) {
    context->Error("conflict", bf16_enabled, "fp16 and bf16 are both enabled",
                   "one of fp16.enabled and bf16.enabled");
  }
  LintDynamicScale(context, fp16);
  LintMasterWeights(context, section);
  if (fp16.has_value() && bf16.has_value()) {
    LintDtypes(context, *fp16 ? "fp16" : *bf16 ? "bf16" : "fp32");
    LintAmp(context, *fp16 || *bf16);
  }
}

}  // namespace zerocast
