#ifndef ZEROCAST_SERVER_CONFIG_ESTIMATE_H_
#define ZEROCAST_SERVER_CONFIG_ESTIMATE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/config/value.h"

namespace zerocast {

// A model, as the estimate sees it.
struct ModelSize {
  int64_t num_parameters = 0;            // elements of all parameters
  std::optional<int64_t> num_trainable;  // elements of those that are trained; unset: all
  int64_t largest_parameter = 0;         // elements; 0: unknown
  int64_t largest_layer = 0;             // elements of the largest layer; 0: unknown
  int64_t num_buffers = 0;               // elements of the buffers, counted as fp32
  // Elements of each parameter, where known: partitions are then padded as ZeRO pads them, and
  // small parameters are told from the rest.  Empty: only the sums above are known.
  std::vector<int64_t> parameters;
  // Names of the parameters whose shape is [], where shapes are known.
  std::vector<std::string> scalar_parameters;
};

// Reads a model spec: {"params": {NAME: {"shape": [..]} or [..]}, "buffers": {...}, ...}.  A layer
// is what shares a name up to and including its first number ("model.layers.7"), or else its parent
// module.  Tied names ("tied": {ALIAS: NAME}) count once.
//
// Errors: INVALID_ARGUMENT naming "model_spec" and the path in it: no object, no params, a shape
// that is no list of integers of at least 0, sums beyond 64 bits.
absl::StatusOr<ModelSize> ReadModelSize(const ConfigValue& model_spec);
absl::StatusOr<ModelSize> ReadModelSize(absl::string_view json);

enum class MemoryPlace { kAccelerator, kHost, kNvme };
absl::string_view Name(MemoryPlace place);  // "accelerator", "host", "nvme"

struct MemoryLine {
  std::string what;  // "parameters", "gradients", "fp32 masters", "optimizer states", ...
  MemoryPlace place = MemoryPlace::kAccelerator;
  int64_t num_bytes = 0;
  std::string formula;  // "2 bytes (bf16) * ceil(7241732096 parameters / 8 ranks)"
};

// The memory of the rank that holds most.  What depends on batch and sequence (activations, logits)
// and on the allocator is not in it.
struct MemoryEstimate {
  std::vector<MemoryLine> lines;
  int64_t accelerator_bytes = 0, host_bytes = 0, nvme_bytes = 0;  // sums of the lines
  // What the estimate took for granted: "no shapes: padding is not counted", ...
  std::vector<std::string> assumptions;
};

struct EstimateRequest {
  ConfigValue config;  // a resolved DeepSpeed config, as DeepSpeed itself reads it
  ModelSize model;
  int64_t world_size = 1;
  bool inference = false;  // no gradients, no optimizer
  // torch.optim's name of the optimizer that the Trainer makes where the config has no "optimizer".
  std::string trainer_optimizer = "AdamW";
};

// The model states of DeepSpeed 0.19.8 on one rank: parameters, gradients, fp32 masters and
// optimizer states by stage, dtype and offload, and the buffers whose size the config sets.
//
// Errors: INVALID_ARGUMENT with a violation for each path of the config that the estimate needs and
// cannot read ("auto" left over, a stage beyond 3, sizes that are no integers), for a world size
// below 1, and for a model without parameters.
absl::StatusOr<MemoryEstimate> EstimateMemory(const EstimateRequest& request);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_CONFIG_ESTIMATE_H_
