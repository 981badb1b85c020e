#ifndef ZEROCAST_SERVER_RPC_CHECKPOINT_CONVERT_H_
#define ZEROCAST_SERVER_RPC_CHECKPOINT_CONVERT_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/base/errors.h"
#include "server/jobs/checkpoints.h"
#include "zerocast/v1/agent.pb.h"
#include "zerocast/v1/checkpoint.pb.h"

namespace zerocast::rpc {

// Between registered checkpoints and their messages.

// With its etag, which depends neither on look_time nor on looked_by.
v1::Checkpoint CheckpointToProto(const jobs::Checkpoint& checkpoint);
// Everything but the request and, of a changed one, the digest that was found.  Trusts its input:
// our own record.
jobs::Checkpoint CheckpointFromProto(const v1::Checkpoint& checkpoint);

// What an agent answered; the caller adds its node and the time.  Errors: the agent's failure;
// INVALID_ARGUMENT for one that breaks the limits.
absl::StatusOr<jobs::FolderLook> FolderLookFromProto(const v1::FolderReport& report);

// The folder as it is kept: without slashes at its end.  Says into `violations` what is wrong with
// it, of the field `field`.
std::string ReadFolder(absl::string_view path, absl::string_view field,
                       std::vector<FieldViolation>* violations);
// Why a text is no tag, or "".
std::string TagProblem(absl::string_view tag);

}  // namespace zerocast::rpc

#endif  // ZEROCAST_SERVER_RPC_CHECKPOINT_CONVERT_H_
