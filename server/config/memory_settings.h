#ifndef ZEROCAST_SERVER_CONFIG_MEMORY_SETTINGS_H_
#define ZEROCAST_SERVER_CONFIG_MEMORY_SETTINGS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/config/estimate.h"

namespace zerocast {

// What of a config decides about memory, as DeepSpeed 0.19.8 reads it: an "auto" that is left is
// dropped by its sections, so that the default takes effect; integral floats and numeric text are
// numbers.
struct MemorySettings {
  int stage = 0;
  std::string dtype;              // of the parameters: "bf16", "fp16" or "fp32"
  int64_t parameter_bytes = 4;    // of an element
  int64_t accumulated_bytes = 4;  // of an element of the gradients that are accumulated
  int64_t master_bytes = 4;       // of an element that the optimizer updates, and of its gradient
  bool immediate_grad_update = false;
  bool contiguous_gradients = true;
  bool overlap_comm = false;
  int64_t reduce_bucket_size = 0;  // sizes in elements
  int64_t prefetch_bucket_size = 0;
  int64_t max_live_parameters = 0;
  int64_t param_persistence_threshold = 0;
  int64_t model_persistence_threshold = 0;
  int64_t sub_group_size = 0;
  int64_t hpz_partition_size = 1;
  MemoryPlace optimizer_place = MemoryPlace::kAccelerator;
  double offload_ratio = 1.0;
  int64_t optimizer_buffer_count = 0;
  MemoryPlace parameter_place = MemoryPlace::kAccelerator;
  int64_t parameter_buffer_count = 0;
  int64_t parameter_buffer_size = 0;
  int64_t max_in_cpu = 0;
  int64_t accumulation_steps = 1;
  std::string optimizer;         // in lower case
  int64_t optimizer_states = 0;  // elements of state for each element that is trained
  int64_t state_bytes = 4;
  std::vector<std::string> assumptions;

  bool mixed() const { return parameter_bytes != 4; }
  bool offloads_optimizer() const { return optimizer_place != MemoryPlace::kAccelerator; }
};

// INVALID_ARGUMENT with a violation for each path that DeepSpeed would refuse or that is of no use.
absl::StatusOr<MemorySettings> ReadMemorySettings(const EstimateRequest& request);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_CONFIG_MEMORY_SETTINGS_H_
