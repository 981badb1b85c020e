#ifndef ZEROCAST_SERVER_RPC_CONFIG_FACTS_H_
#define ZEROCAST_SERVER_RPC_CONFIG_FACTS_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/config/value.h"
#include "zerocast/v1/job.pb.h"

namespace zerocast::rpc {

// What resolving a config gave.
struct ConfigFacts {
  std::string resolved_json;       // "": there is no config
  std::string dtype;               // "bf16", "fp16", "fp32", or "" without a config
  int zero_stage = -1;             // -1: the config names none, or there is none
  int32_t hpz_partition_size = 1;  // zero_hpz_partition_size under ZeRO-3; 0 and 1: none
  // offload_param.device under ZeRO-3: "cpu" or "nvme"; "": parameters are not offloaded.
  std::string offload_param_device = {};
  // The same of offload_optimizer.device under ZeRO stages 1 to 3.
  std::string offload_optimizer_device = {};
};

// Resolves the config of a submission; without training arguments, what it says by itself.  Pure.
// Errors: INVALID_ARGUMENT, naming the fields, reason INVALID_FIELDS; FAILED_PRECONDITION, reason
// CONFIG_MISMATCH, where config and training arguments contradict each other.
absl::StatusOr<ConfigFacts> ResolveSpec(const v1::JobSpec& spec);

// The training arguments as an object, with the topology's world size unless that is 0; "" has
// none.  Errors: INVALID_ARGUMENT naming `field`.
absl::StatusOr<ConfigValue> ReadArgumentsText(const std::string& text, absl::string_view field,
                                              int32_t world_size);

}  // namespace zerocast::rpc

#endif  // ZEROCAST_SERVER_RPC_CONFIG_FACTS_H_
