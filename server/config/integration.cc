#include "server/config/integration.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/status_macros.h"
#include "server/config/hidden_size.h"
#include "server/config/python_error.h"
#include "server/config/python_format.h"
#include "server/config/python_number.h"

namespace zerocast {
namespace {

constexpr size_t kMaxPrintedDigits = 4300;  // sys.int_info.default_max_str_digits
constexpr char kReduceBucket[] = "zero_optimization.reduce_bucket_size";
constexpr char kPrefetchBucket[] = "zero_optimization.stage3_prefetch_bucket_size";
constexpr char kPersistence[] = "zero_optimization.stage3_param_persistence_threshold";

constexpr char kOffloadNotice[] =
    "Detected ZeRO Offload and non-DeepSpeed optimizers: This combination should work as long as "
    "the "
    "custom optimizer has both CPU and GPU implementation (except LAMB)";

// a or b, as Python has it.
const ConfigValue& Or(const ConfigValue& a, const ConfigValue& b) { return PythonTruth(a) ? a : b; }

}  // namespace

void AddViolations(const std::vector<FieldViolation>& violations,
                   std::vector<FieldViolation>* all) {
  for (const FieldViolation& violation : violations) {
    const bool known = std::any_of(
        all->begin(), all->end(),
        [&violation](const FieldViolation& other) { return other.field == violation.field; });
    if (!known) all->push_back(violation);
  }
}

void Resolver::Steps::Keep(const absl::Status& status) {
  if (status.ok()) return;
  if (first_.ok()) first_ = status;
  if (violations_ != nullptr) AddViolations(ViolationsOf(status), violations_);
}

absl::StatusOr<bool> Resolver::FillAuto(ConfigValue* node, absl::string_view key,
                                        const ConfigValue& value, const Source& source) {
  const size_t dot = key.rfind('.');
  const absl::string_view parent = dot == absl::string_view::npos ? "" : key.substr(0, dot);
  const absl::string_view name = key.substr(dot + 1);
  ZC_ASSIGN_OR_RETURN(const ConfigValue* current, PythonGet(*node, name, parent));
  if (current == nullptr || !current->IsText("auto")) return false;
  node->Set(name, value);
  out_.origins.push_back(
      {std::string(key), source.kind, absl::StrCat("auto filled from ", source.name)});
  return true;
}

absl::Status Resolver::FillMatch(absl::string_view key, const ConfigValue& value,
                                 const Source& source, bool must_match) {
  ZC_ASSIGN_OR_RETURN(ConfigValue * node, config_.FindConfigNode(key));
  if (node == nullptr) return absl::OkStatus();
  ZC_ASSIGN_OR_RETURN(const bool filled, FillAuto(node, key, value, source));
  if (filled || !must_match) return absl::OkStatus();
  const ConfigValue* current = node->Find(key.substr(key.rfind('.') + 1));
  if (current == nullptr || current->is_null() || PythonEqual(*current, value)) {
    return absl::OkStatus();
  }
  const ConfigInteger* integer = value.integer();
  if (integer != nullptr && integer->decimal().size() > kMaxPrintedDigits + integer->negative()) {
    return WithViolations(
        PythonError("ValueError",
                    "Exceeds the limit (4300 digits) for integer string conversion; use "
                    "sys.set_int_max_str_digits() to increase the limit"),
        {{std::string(key), absl::StrCat("differs from ", source.name, ", which is too large")}});
  }
  ConfigMismatch mismatch{std::string(key), std::string(source.name), "", PythonStr(*current),
                          PythonStr(value)};
  mismatch.line = absl::StrCat("- ds ", key, "=", mismatch.config_value, " vs hf ", source.name,
                               "=", mismatch.argument_value);
  out_.mismatches.push_back(std::move(mismatch));
  return absl::OkStatus();
}

absl::Status Resolver::FillOnly(absl::string_view key, const ConfigValue& value,
                                const Source& source) {
  ZC_ASSIGN_OR_RETURN(ConfigValue * node, config_.FindConfigNode(key));
  if (node == nullptr) return absl::OkStatus();
  return FillAuto(node, key, value, source).status();
}

absl::StatusOr<ConfigValue> Resolver::TrainBatchSize() const {
  ZC_ASSIGN_OR_RETURN(const ConfigValue samples,
                      PythonMultiply(args_.world_size, args_.per_device_train_batch_size));
  return PythonMultiply(samples, args_.gradient_accumulation_steps);
}

absl::Status Resolver::Process() {
  Steps steps(violations_);
  const auto match = [&](absl::string_view key, const ConfigValue& value, const Source& source,
                         bool must_match = true) {
    steps.Do([&] { return FillMatch(key, value, source, must_match); });
  };
  const bool fixed_batch = !request_.auto_find_batch_size;
  const ConfigValue betas(ConfigValue::Array{args_.adam_beta1, args_.adam_beta2});
  const auto train_batch_size = TrainBatchSize();
  steps.Do([&] {
    return WithViolations(train_batch_size.status(),
                          {{"training_arguments", "the train batch size cannot be computed"}});
  });
  match("train_micro_batch_size_per_gpu", args_.per_device_train_batch_size,
        Argument("per_device_train_batch_size"), fixed_batch);
  match("gradient_accumulation_steps", args_.gradient_accumulation_steps,
        Argument("gradient_accumulation_steps"));
  if (train_batch_size.ok()) {
    match("train_batch_size", *train_batch_size, Derived("train_batch_size (calculated)"),
          fixed_batch);
  }
  match("gradient_clipping", args_.max_grad_norm, Argument("max_grad_norm"));
  match("optimizer.params.lr", args_.learning_rate, Argument("learning_rate"));
  match("optimizer.params.betas", betas, Argument("adam_beta1+adam_beta2"));
  match("optimizer.params.eps", args_.adam_epsilon, Argument("adam_epsilon"));
  match("optimizer.params.weight_decay", args_.weight_decay, Argument("weight_decay"));
  steps.Do([&] {
    return FillOnly("scheduler.params.warmup_min_lr", ConfigValue(0),
                    {OriginKind::kIntegration, "the constant 0"});
  });
  match("scheduler.params.warmup_max_lr", args_.learning_rate, Argument("learning_rate"));
  if (PythonTruth(args_.save_on_each_node)) steps.Do([&] { return UseNodeLocalStorage(); });
  match("fp16.enabled", Or(args_.fp16, args_.fp16_full_eval), Argument("fp16|fp16_full_eval"));
  match("bf16.enabled", Or(args_.bf16, args_.bf16_full_eval), Argument("bf16|bf16_full_eval"));
  steps.Do([&] { return ChooseDtype(); });
  return steps.first();
}

// config["checkpoint"]["use_node_local_storage"] = save_on_each_node.  DeepSpeed assumes shared
// storage otherwise.
absl::Status Resolver::UseNodeLocalStorage() {
  ConfigValue* section = config_.root().Find("checkpoint");
  if (section == nullptr) {
    section = config_.root().Set("checkpoint", ConfigValue(ConfigValue::Object()));
  }
  if (section->object() == nullptr) {
    const absl::string_view type = PythonTypeName(*section);
    return WithViolations(
        PythonError("TypeError",
                    section->array() != nullptr
                        ? "list indices must be integers or slices, not str"
                        : absl::StrCat("'", type, "' object does not support item assignment")),
        {{"checkpoint", absl::StrCat("must be an object, was of type ", type)}});
  }
  section->Set("use_node_local_storage", args_.save_on_each_node);
  out_.origins.push_back(
      {"checkpoint.use_node_local_storage", OriginKind::kArgument, "set from save_on_each_node"});
  return absl::OkStatus();
}

absl::Status Resolver::ChooseDtype() {
  ZC_ASSIGN_OR_RETURN(const bool bf16, config_.IsTrue("bf16.enabled"));
  ZC_ASSIGN_OR_RETURN(const bool fp16, config_.IsTrue("fp16.enabled"));
  config_.set_dtype(bf16   ? TrainingDtype::kBf16
                    : fp16 ? TrainingDtype::kFp16
                           : TrainingDtype::kFp32);
  return absl::OkStatus();
}

absl::Status Resolver::Finalize(const ConfigValue& num_training_steps) {
  Steps steps(violations_);
  steps.Do([&] { return FillHiddenSizeKeys(); });
  steps.Do([&] {
    return FillMatch("scheduler.params.total_num_steps", num_training_steps,
                     Derived("num_training_steps (calculated)"));
  });
  steps.Do([&]() -> absl::Status {
    const auto warmup = WarmupSteps(num_training_steps);
    if (!warmup.ok()) {
      return WithViolations(warmup.status(),
                            {{"training_arguments.warmup_steps", "gives no number of steps"}});
    }
    const bool as_given = PythonEqual(*warmup, args_.warmup_steps);
    return FillMatch("scheduler.params.warmup_num_steps", *warmup,
                     as_given ? Argument("warmup_steps") : Derived("warmup_steps"));
  });
  steps.Do([&] { return RaiseMismatches(); });
  return steps.first();
}

absl::Status Resolver::FillHiddenSizeKeys() {
  ConfigValue::Array auto_keys;
  std::vector<FieldViolation> violations;
  for (const char* key : {kReduceBucket, kPrefetchBucket, kPersistence}) {
    ZC_ASSIGN_OR_RETURN(const bool is_auto, config_.IsAuto(key));
    if (!is_auto) continue;
    auto_keys.emplace_back(key);
    violations.push_back({key, "is \"auto\", but the model config has no usable hidden size"});
  }
  if (auto_keys.empty()) return absl::OkStatus();
  ZC_ASSIGN_OR_RETURN(HiddenSize hidden, FindHiddenSize(request_.model_config));
  if (hidden.value.is_null()) {
    absl::Status refusal = WithViolations(
        PythonError(
            "ValueError",
            absl::StrCat(
                "The model's config file has neither `hidden_size` nor `hidden_sizes` entry, "
                "therefore it's not possible to automatically fill out the following `auto` "
                "entries in the DeepSpeed config file: ",
                PythonStr(ConfigValue(auto_keys)),
                ". You can fix that by replacing `auto` values for these keys with an "
                "integer value of your choice.")),
        violations);
    if (request_.allow_extensions) hidden = FindHiddenSizeByType(request_.model_config);
    if (hidden.value.is_null()) return refusal;
    for (const ConfigValue& key : auto_keys) {
      out_.extensions.push_back(
          {*key.text(),
           absl::StrCat("hidden size ", PythonStr(hidden.value), " from ", hidden.source),
           std::string(refusal.message())});
    }
  }
  const auto fill = [&]() -> absl::Status {
    const ConfigValue& h = hidden.value;
    ZC_ASSIGN_OR_RETURN(const ConfigValue reduce, PythonMultiply(h, h));
    ZC_RETURN_IF_ERROR(
        FillOnly(kReduceBucket, reduce, Derived(absl::StrCat(hidden.source, ": h * h"))));
    if (!config_.is_zero3()) return absl::OkStatus();
    ZC_ASSIGN_OR_RETURN(ConfigValue prefetch, PythonMultiply(ConfigValue(0.9), h));
    ZC_ASSIGN_OR_RETURN(prefetch, PythonMultiply(prefetch, h));
    ZC_ASSIGN_OR_RETURN(prefetch, PythonInt(prefetch));
    ZC_RETURN_IF_ERROR(FillOnly(kPrefetchBucket, prefetch,
                                Derived(absl::StrCat(hidden.source, ": int(0.9 * h * h)"))));
    ZC_ASSIGN_OR_RETURN(const ConfigValue persistence, PythonMultiply(ConfigValue(10), h));
    return FillOnly(kPersistence, persistence, Derived(absl::StrCat(hidden.source, ": 10 * h")));
  };
  return WithViolations(fill(), violations);
}

// TrainingArguments.get_warmup_steps: a count, or below 1 a share of all steps.
absl::StatusOr<ConfigValue> Resolver::WarmupSteps(const ConfigValue& num_training_steps) const {
  const PythonOrder order = PythonCompare(args_.warmup_steps, ConfigValue(1));
  ConfigValue steps;
  if (order == PythonOrder::kGreater || order == PythonOrder::kEqual) {
    ZC_ASSIGN_OR_RETURN(steps, PythonInt(args_.warmup_steps));
  } else {
    ZC_ASSIGN_OR_RETURN(steps, PythonMultiply(num_training_steps, args_.warmup_steps));
    ZC_ASSIGN_OR_RETURN(steps, PythonCeil(steps));
  }
  if (request_.dialect == "5.1.0") return steps;
  // DeepSpeed 0.19.3 and later refuses 0.
  return PythonCompare(steps, ConfigValue(1)) == PythonOrder::kLess ? ConfigValue(1) : steps;
}

absl::Status Resolver::RaiseMismatches() {
  if (out_.mismatches.empty()) return absl::OkStatus();
  std::vector<FieldViolation> violations;
  for (const ConfigMismatch& mismatch : out_.mismatches) {
    violations.push_back(
        {mismatch.path, absl::StrCat("is ", mismatch.config_value, ", but ", mismatch.argument,
                                     " is ", mismatch.argument_value)});
  }
  const std::string lines = absl::StrJoin(
      out_.mismatches, "\n",
      [](std::string* out, const ConfigMismatch& mismatch) { out->append(mismatch.line); });
  return WithViolations(
      PythonError("ValueError",
                  absl::StrCat("Please correct the following DeepSpeed config values that mismatch "
                               "TrainingArguments values:\n",
                               lines,
                               "\nThe easiest method is to set these DeepSpeed config values to "
                               "'auto'."),
                  absl::StatusCode::kFailedPrecondition),
      violations);
}

absl::Status Resolver::Init() {
  Steps steps(violations_);
  if (!request_.inference) {
    steps.Do([&] { return InitTensorParallel(); });
    if (!steps.first().ok()) return steps.first();
    ChooseOptimizerAndScheduler();
    return absl::OkStatus();
  }
  steps.Do([&] {
    if (config_.is_zero3()) return absl::OkStatus();
    return WithViolations(
        PythonError(
            "ValueError",
            "ZeRO inference only makes sense with ZeRO Stage 3 - please adjust your config"),
        {{"zero_optimization.stage", "must be 3 for inference"}});
  });
  if (!steps.first().ok()) return steps.first();
  // "lr_scheduler" is what the integration says; the section's name is "scheduler", which stays.
  for (const char* key : {"optimizer", "lr_scheduler"}) {
    ZC_ASSIGN_OR_RETURN(const bool removed, config_.DeleteSubTree(key));
    if (!removed) continue;
    // What was filled in below it is gone too.
    const std::string below = absl::StrCat(key, ".");
    out_.origins.erase(std::remove_if(out_.origins.begin(), out_.origins.end(),
                                      [&below](const ValueOrigin& origin) {
                                        return absl::StartsWith(origin.path, below);
                                      }),
                       out_.origins.end());
    out_.origins.push_back({key, OriginKind::kIntegration, "removed for inference"});
  }
  return absl::OkStatus();
}

absl::Status Resolver::InitTensorParallel() {
  const ConfigValue* section = config_.root().Find("tensor_parallel");
  if (section == nullptr) return absl::OkStatus();
  ZC_ASSIGN_OR_RETURN(const ConfigValue* size,
                      PythonGet(*section, "autotp_size", "tensor_parallel"));
  if (size == nullptr) return absl::OkStatus();
  const auto parallel = PythonGreater(*size, ConfigValue(1));
  if (!parallel.ok()) {
    return WithViolations(parallel.status(), {{"tensor_parallel.autotp_size", "must be a number"}});
  }
  if (!*parallel) return absl::OkStatus();
  ZC_ASSIGN_OR_RETURN(const TrainingDtype dtype, config_.dtype());
  out_.calls.push_back(
      absl::StrCat("tp_model_init(", PythonStr(*size), ", ", TorchName(dtype), ")"));
  return absl::OkStatus();
}

// deepspeed_optim_sched.  A section is there when its key is, whatever its value.
void Resolver::ChooseOptimizerAndScheduler() {
  ConfigValue& root = config_.root();
  if (root.Find("optimizer") != nullptr) {
    out_.optimizer = MadeBy::kDeepSpeed;
  } else {
    if (config_.is_offload()) out_.log_lines.push_back(kOffloadNotice);
    out_.optimizer = MadeBy::kTrainer;
    out_.calls.push_back("optimizer");
    root.Set("zero_allow_untested_optimizer", ConfigValue(true));
    out_.origins.push_back({"zero_allow_untested_optimizer", OriginKind::kIntegration,
                            "set because the config has no optimizer section"});
  }
  if (root.Find("scheduler") != nullptr) {
    out_.scheduler = MadeBy::kDeepSpeed;
  } else if (out_.optimizer == MadeBy::kDeepSpeed) {
    out_.scheduler = MadeBy::kTrainer;
  }
}

}  // namespace zerocast
