// The values of optimizer.params, for the parameters that most optimizers share.  The classes of
// torch.optim check them when they are made; DeepSpeed's own take whatever comes, and their kernels
// fail on it, or compute with it, at the first step.
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "server/config/lint_context.h"
#include "server/config/lint_value.h"
#include "server/config/python_format.h"
#include "server/config/python_number.h"

namespace zerocast {
namespace {

constexpr char kParams[] = "optimizer.params";

bool IsOffloaded(const LintContext& context) {
  const std::string device = context.Text("zero_optimization.offload_optimizer.device");
  return device == "cpu" || device == "nvme";
}

bool IsTorchAdam(const LintContext& context) {
  const ConfigValue* value = context.Find("optimizer.params.torch_adam");
  return value != nullptr && PythonTruth(*value) && !value->IsText("auto");
}

// Whether the engine makes a class of torch.optim (_configure_basic_optimizer).  DeepSpeed's own
// have lower-case names in the table.
bool IsTorchs(const LintContext& context, absl::string_view type) {
  if (type == "adam" || type == "adamw") return IsTorchAdam(context);
  if (type == "adagrad") return !IsOffloaded(context);
  return absl::AsciiStrToLower(type) != type;
}

class Values {
 public:
  Values(LintContext* context, absl::string_view type, const KeySection& section)
      : context_(context), type_(type), section_(section), is_torchs_(IsTorchs(*context, type)) {}

  void Check(absl::string_view key, const ConfigValue& value) {
    const bool open = section_.kind != KeySection::Kind::kStrict;
    if (value.IsText("auto") || (!open && section_.FindKey(key, context_->version()) == nullptr)) {
      return;
    }
    if (key == "betas") {
      CheckBetas(value);
    } else if (key == "lr" || key == "weight_decay" || key == "momentum" || key == "alpha" ||
               (key == "eps" && type_ != "Adafactor")) {
      CheckNumber(key, value);
    }
  }

 private:
  void Report(absl::string_view rule, absl::string_view key, const std::string& message) {
    const std::string path = JoinPath(kParams, key);
    if (is_torchs_) {
      context_->Error(rule, path, absl::StrCat(message, "; torch.optim refuses it"));
    } else {
      const bool range = rule == "out-of-range";
      context_->Warning(rule, path,
                        absl::StrCat(message, range ? "; DeepSpeed computes with it all the same"
                                                    : "; DeepSpeed takes it, and the first step "
                                                      "fails on it"));
    }
  }

  void CheckNumber(absl::string_view key, const ConfigValue& value) {
    if (!IsPythonNumber(value)) {
      Report("wrong-type", key, absl::StrCat("must be a number, is ", ShortJson(value)));
      return;
    }
    const ConfigValue zero(0);
    const PythonOrder order = PythonCompare(value, zero);
    const bool positive = type_ == "SparseAdam" && (key == "lr" || key == "eps");
    if (order == PythonOrder::kGreater || (order == PythonOrder::kEqual && !positive)) return;
    if (type_ == "SGD" && order == PythonOrder::kUnordered) return;  // asks `< 0`
    Report("out-of-range", key,
           absl::StrCat("must be ", positive ? "greater than" : "at least", " 0, is ",
                        ShortJson(value)));
  }

  void CheckBetas(const ConfigValue& value) {
    const ConfigValue::Array* betas = value.array();
    if (betas == nullptr || betas->size() < 2 || !IsPythonNumber((*betas)[0]) ||
        !IsPythonNumber((*betas)[1])) {
      Report("wrong-type", "betas",
             absl::StrCat("must be a list of two numbers, is ", ShortJson(value)));
      return;
    }
    const ConfigValue zero(0), one(1);
    for (size_t i = 0; i < 2; ++i) {
      const ConfigValue& beta = (*betas)[i];
      const PythonOrder low = PythonCompare(beta, zero);
      const bool at_least_zero = low == PythonOrder::kGreater || low == PythonOrder::kEqual;
      if (at_least_zero && PythonCompare(beta, one) == PythonOrder::kLess) continue;
      Report("out-of-range", "betas",
             absl::StrCat("must be at least 0 and less than 1, are ", ShortJson(value)));
      return;
    }
  }

  LintContext* const context_;
  const absl::string_view type_;
  const KeySection& section_;
  const bool is_torchs_;
};

// "FusedAdam does not support the AMSGrad variant.", and FusedLamb the same.
void LintAmsgrad(LintContext* context, absl::string_view type) {
  const bool fused_adam =
      (type == "adam" || type == "adamw") && !IsTorchAdam(*context) && !IsOffloaded(*context);
  if (!fused_adam && type != "lamb") return;
  const std::string path = JoinPath(kParams, "amsgrad");
  const ConfigValue* value = context->Find(path);
  if (value == nullptr || !PythonTruth(*value) || value->IsText("auto")) return;
  context->Error("conflict", path,
                 absl::StrCat(fused_adam ? "FusedAdam" : "FusedLamb",
                              ", which DeepSpeed makes of it, refuses amsgrad"),
                 fused_adam ? "\"torch_adam\": true" : "");
}

}  // namespace

void LintOptimizerValues(LintContext* context, absl::string_view type, const KeySection& section,
                         const ConfigValue& params) {
  Values values(context, type, section);
  for (const ConfigMember& member : *params.object()) values.Check(member.key, member.value);
  LintAmsgrad(context, type);
}

}  // namespace zerocast
