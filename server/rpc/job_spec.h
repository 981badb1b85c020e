#ifndef ZEROCAST_SERVER_RPC_JOB_SPEC_H_
#define ZEROCAST_SERVER_RPC_JOB_SPEC_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/config/value.h"
#include "server/jobs/types.h"
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
};

// Checks every field of a submission and resolves its config.  The job that comes back lacks name,
// create_time, attach_token and request.  Pure.  Errors:
//   INVALID_ARGUMENT     every wrong field at once, as "spec.FIELD"; INVALID_FIELDS.
//   FAILED_PRECONDITION  the config contradicts the training arguments; CONFIG_MISMATCH.
absl::StatusOr<jobs::Job> JobFromSpec(const v1::JobSpec& spec);

// The same job from a record: what the config gave is known.  Errors: as above, for a damaged one.
absl::StatusOr<jobs::Job> JobFromRecord(const v1::JobSpec& spec, const ConfigFacts& facts);

// The training arguments as an object, with the topology's world size unless that is 0; "" has
// none.  Errors: INVALID_ARGUMENT naming `field`.
absl::StatusOr<ConfigValue> ReadArgumentsText(const std::string& text, absl::string_view field,
                                              int32_t world_size);

}  // namespace zerocast::rpc

#endif  // ZEROCAST_SERVER_RPC_JOB_SPEC_H_
