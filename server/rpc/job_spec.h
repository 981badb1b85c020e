#ifndef ZEROCAST_SERVER_RPC_JOB_SPEC_H_
#define ZEROCAST_SERVER_RPC_JOB_SPEC_H_

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "server/config/resolve.h"
#include "server/jobs/types.h"
#include "zerocast/v1/config.pb.h"
#include "zerocast/v1/job.pb.h"

namespace zerocast::rpc {

// What resolving a config gave.
struct ConfigFacts {
  std::string resolved_json;  // "": there is no config
  std::string dtype;          // "bf16", "fp16", "fp32", or "" without a config
  int zero_stage = -1;        // -1: the config names none, or there is none
};

// Checks every field of a submission and resolves its config.  The job that comes back lacks name,
// create_time, attach_token and request.  Pure.  Errors:
//   INVALID_ARGUMENT     every wrong field at once, as "spec.FIELD"; INVALID_FIELDS.
//   FAILED_PRECONDITION  the config contradicts the training arguments; CONFIG_MISMATCH.
absl::StatusOr<jobs::Job> JobFromSpec(const v1::JobSpec& spec);

// The same job from a record: what the config gave is known.  Errors: as above, for a damaged one.
absl::StatusOr<jobs::Job> JobFromRecord(const v1::JobSpec& spec, const ConfigFacts& facts);

// ConfigService.ResolveConfig.  Errors as JobFromSpec, with the request's field names.
absl::StatusOr<v1::ResolveConfigResponse> Resolve(const v1::ResolveConfigRequest& request);

// The value at `path` of a resolved config as JSON text ("" for the whole); nullopt where there is
// none.  Errors: INVALID_ARGUMENT where the path leads through a value that is no object.
absl::StatusOr<std::optional<std::string>> QueryConfigPath(const std::string& config_json,
                                                           const std::string& path);

}  // namespace zerocast::rpc

#endif  // ZEROCAST_SERVER_RPC_JOB_SPEC_H_
