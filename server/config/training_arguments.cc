#include "server/config/training_arguments.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/config/json_reader.h"
#include "server/config/python_format.h"
#include "server/config/python_number.h"

namespace zerocast {
namespace {

constexpr absl::string_view kField = "training_arguments";

enum class Kind { kWorldSize, kNumber, kNumberOrNull, kFlag };

struct Field {
  const char* name;
  ConfigValue TrainingArguments::*member;
  Kind kind;
};

constexpr Field kFields[] = {
    {"world_size", &TrainingArguments::world_size, Kind::kWorldSize},
    {"per_device_train_batch_size", &TrainingArguments::per_device_train_batch_size, Kind::kNumber},
    {"gradient_accumulation_steps", &TrainingArguments::gradient_accumulation_steps, Kind::kNumber},
    {"max_grad_norm", &TrainingArguments::max_grad_norm, Kind::kNumberOrNull},
    {"learning_rate", &TrainingArguments::learning_rate, Kind::kNumber},
    {"adam_beta1", &TrainingArguments::adam_beta1, Kind::kNumber},
    {"adam_beta2", &TrainingArguments::adam_beta2, Kind::kNumber},
    {"adam_epsilon", &TrainingArguments::adam_epsilon, Kind::kNumber},
    {"weight_decay", &TrainingArguments::weight_decay, Kind::kNumber},
    {"warmup_steps", &TrainingArguments::warmup_steps, Kind::kNumber},
    {"save_on_each_node", &TrainingArguments::save_on_each_node, Kind::kFlag},
    {"fp16", &TrainingArguments::fp16, Kind::kFlag},
    {"fp16_full_eval", &TrainingArguments::fp16_full_eval, Kind::kFlag},
    {"bf16", &TrainingArguments::bf16, Kind::kFlag},
    {"bf16_full_eval", &TrainingArguments::bf16_full_eval, Kind::kFlag},
};

// What `value` should be, or "" where it is.
absl::string_view Wrong(Kind kind, const ConfigValue& value) {
  switch (kind) {
    case Kind::kWorldSize:
      return value.integer() != nullptr && !value.integer()->negative() && !value.integer()->zero()
                 ? ""
                 : "must be an integer of at least 1";
    case Kind::kNumber:
      return IsPythonNumber(value) ? "" : "must be a number";
    case Kind::kNumberOrNull:
      return IsPythonNumber(value) || value.is_null() ? "" : "must be a number or null";
    case Kind::kFlag:
      return IsPythonNumber(value) ? "" : "must be true or false";
  }
  return "";
}

}  // namespace

absl::StatusOr<TrainingArguments> ReadTrainingArguments(const ConfigValue& object) {
  if (object.object() == nullptr) {
    return InvalidFields({{std::string(kField), absl::StrCat("must be an object, was of type ",
                                                             PythonTypeName(object))}});
  }
  TrainingArguments arguments;
  std::vector<FieldViolation> violations;
  for (const Field& field : kFields) {
    const ConfigValue* value = object.Find(field.name);
    if (value == nullptr) continue;
    const absl::string_view wrong = Wrong(field.kind, *value);
    if (!wrong.empty()) {
      violations.push_back({absl::StrCat(kField, ".", field.name),
                            absl::StrCat(wrong, ", was ", WriteJson(*value))});
    }
    arguments.*field.member = *value;
  }
  ZC_RETURN_IF_ERROR(InvalidFields(violations));
  return arguments;
}

absl::StatusOr<TrainingArguments> ReadTrainingArguments(absl::string_view json) {
  ZC_ASSIGN_OR_RETURN(const JsonDocument document, ReadJson(json, kField));
  return ReadTrainingArguments(document.value);
}

}  // namespace zerocast
