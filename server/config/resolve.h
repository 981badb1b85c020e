#ifndef ZEROCAST_SERVER_CONFIG_RESOLVE_H_
#define ZEROCAST_SERVER_CONFIG_RESOLVE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/config/deepspeed_config.h"
#include "server/config/origins.h"
#include "server/config/training_arguments.h"
#include "server/config/value.h"

namespace zerocast {

// The Transformers releases whose rules are known; the default first.
inline constexpr absl::string_view kConfigDialects[] = {"5.23.0", "5.1.0"};

struct ResolveRequest {
  // Text: JSON or url-safe base64 of it.  A value: what Python would pass as a dict.
  std::variant<std::string, ConfigValue> config;
  TrainingArguments arguments;
  // The model's config.json; null where there is none.
  ConfigValue model_config;
  // Optimizer steps of the whole training.  Unset: for inference 0, as the integration passes; for
  // training the config is processed but not finalized.
  std::optional<int64_t> num_training_steps;
  bool inference = false;
  bool auto_find_batch_size = false;
  // One of kConfigDialects; empty means the default.
  std::string dialect;
  // Find the hidden size where the integration does not look for it (hidden_size.h); what it would
  // refuse is then in Resolution::extensions.  Otherwise its refusal stands.
  bool allow_extensions = false;
  // List the origin of every value; without it, only of those that differ from what the user wrote.
  bool all_origins = true;
  // Keep the config as it was before finalizing too.
  bool keep_processed = true;
  // A release of DeepSpeed ("0.19.8") whose defaults are listed among the origins for keys that are
  // absent; empty: none are.  Needs all_origins.
  std::string deepspeed_version;
};

// Something that resolved only because of ResolveRequest::allow_extensions.
struct Extension {
  std::string path;               // in the config: "zero_optimization.reduce_bucket_size"
  std::string what;               // "hidden size 1024 from d_model (model_type bart)"
  std::string integration_error;  // the text with which the integration refuses the config
};

struct ConfigMismatch {
  std::string path;      // "optimizer.params.lr"
  std::string argument;  // "learning_rate"
  std::string line;  // the integration's: "- ds optimizer.params.lr=1.0 vs hf learning_rate=5e-05"
  std::string config_value, argument_value;  // as Python prints them
};

// What the integration raises.
struct IntegrationError {
  std::string stage;    // "parse", "process" or "init"
  std::string type;     // "ValueError", "TypeError", ...
  std::string message;  // Python's text, byte for byte
  // For the wire: CONFIG_MISMATCH is FAILED_PRECONDITION, all else INVALID_ARGUMENT with reason
  // INVALID_FIELDS; a violation for each path.
  absl::Status status;
};

enum class MadeBy {
  kNobody,
  kDeepSpeed,  // from the config's section (the integration's DummyOptim, DummyScheduler)
  kTrainer,    // by the Trainer's own arguments
};

struct Resolution {
  // The resolved config with dtype, stage and offload; after an error, as far as it came.
  DeepSpeedConfig config;
  // The same after step 2 of the room's README, before finalize and init; empty where that failed
  // or was not asked for.
  DeepSpeedConfig processed;
  // In the order of the resolved config (origins.h); then what was removed, then the defaults.
  std::vector<ValueOrigin> origins;
  // In the order of the config's keys; empty unless the request allows them.
  std::vector<Extension> extensions;
  std::vector<ConfigMismatch> mismatches;
  // Keys that the user's text names twice; the last value was taken.
  std::vector<std::string> duplicate_keys;
  MadeBy optimizer = MadeBy::kNobody;
  MadeBy scheduler = MadeBy::kNobody;
  // What deepspeed_init calls, in order: "tp_model_init(2, bfloat16)", "optimizer".
  std::vector<std::string> calls;
  std::vector<std::string> log_lines;
  // The integration refuses the config.
  std::optional<IntegrationError> error;

  absl::Status status() const { return error.has_value() ? error->status : absl::OkStatus(); }
};

// Does with the config what Transformers' trainer_config_process, trainer_config_finalize and
// deepspeed_init do.  Pure.
//
// What the integration would refuse is in Resolution::error, with what was found up to there.
// Errors of the call: INVALID_ARGUMENT where the request cannot be read: an unknown dialect,
// negative steps, a config beyond the reader's limits or not UTF-8.
absl::StatusOr<Resolution> ResolveConfig(const ResolveRequest& request);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_CONFIG_RESOLVE_H_
