#ifndef ZEROCAST_SERVER_CONFIG_TRAINING_ARGUMENTS_H_
#define ZEROCAST_SERVER_CONFIG_TRAINING_ARGUMENTS_H_

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/config/value.h"

namespace zerocast {

// What the integration reads of Transformers' TrainingArguments, with that class's names and
// defaults.  Values keep their Python type: 1 and 1.0 fill a config differently.
struct TrainingArguments {
  ConfigValue world_size{1};
  ConfigValue per_device_train_batch_size{8};
  ConfigValue gradient_accumulation_steps{1};
  ConfigValue max_grad_norm{1.0};
  ConfigValue learning_rate{5e-5};
  ConfigValue adam_beta1{0.9};
  ConfigValue adam_beta2{0.999};
  ConfigValue adam_epsilon{1e-8};
  ConfigValue weight_decay{0.0};
  ConfigValue warmup_steps{0};
  ConfigValue save_on_each_node{false};
  ConfigValue fp16{false};
  ConfigValue fp16_full_eval{false};
  ConfigValue bf16{false};
  ConfigValue bf16_full_eval{false};
};

// Takes the fields above from an object and leaves its other members alone; what is absent keeps
// its default.
//
// Errors: INVALID_ARGUMENT with one violation for each wrong field ("training_arguments.NAME"): no
// object, a world size that is not an integer of at least 1, a number or flag of another type.
// max_grad_norm may be null.
absl::StatusOr<TrainingArguments> ReadTrainingArguments(const ConfigValue& object);

// The same from JSON text.
absl::StatusOr<TrainingArguments> ReadTrainingArguments(absl::string_view json);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_CONFIG_TRAINING_ARGUMENTS_H_
