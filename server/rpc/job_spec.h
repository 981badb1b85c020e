#ifndef ZEROCAST_SERVER_RPC_JOB_SPEC_H_
#define ZEROCAST_SERVER_RPC_JOB_SPEC_H_

#include "absl/status/statusor.h"
#include "server/jobs/types.h"
#include "server/rpc/config_facts.h"
#include "zerocast/v1/job.pb.h"

namespace zerocast::rpc {

// Checks every field of a submission and resolves its config.  The job that comes back lacks name,
// create_time, attach_token and request.  Pure.  Errors:
//   INVALID_ARGUMENT     every wrong field at once, as "spec.FIELD"; INVALID_FIELDS.
//   FAILED_PRECONDITION  the config contradicts the training arguments; CONFIG_MISMATCH.
absl::StatusOr<jobs::Job> JobFromSpec(const v1::JobSpec& spec);

// The same job from a record: what the config gave is known.  Errors: as above, for a damaged one.
absl::StatusOr<jobs::Job> JobFromRecord(const v1::JobSpec& spec, const ConfigFacts& facts);

}  // namespace zerocast::rpc

#endif  // ZEROCAST_SERVER_RPC_JOB_SPEC_H_
