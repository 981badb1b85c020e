#ifndef ZEROCAST_SERVER_RPC_CONVERT_H_
#define ZEROCAST_SERVER_RPC_CONVERT_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/jobs/events.h"
#include "server/jobs/types.h"
#include "zerocast/v1/agent.pb.h"
#include "zerocast/v1/job.pb.h"
#include "zerocast/v1/load.pb.h"

namespace zerocast::rpc {

// Between the state machine's types and the messages.

google::protobuf::Duration DurationToProto(absl::Duration duration);
absl::Duration DurationFromProto(const google::protobuf::Duration& duration);

// With its etag.  A job whose spec_bytes do not parse has an empty spec.
v1::Job JobToProto(const jobs::Job& job);

enum class Digests { kKeep, kDrop };
// `elapsed`: from creation to now, for a load that is not final.  With its etag, which depends
// neither on `elapsed` nor on `digests`.
v1::Load LoadToProto(const jobs::Load& load, absl::Duration elapsed, Digests digests);
// Everything but the job (a name is in the message) and the request.  Trusts its input: our own
// record.
jobs::Load LoadFromProto(const v1::Load& load);

v1::PlanSummary PlanSummaryToProto(const jobs::PlanSummary& plan);

// A message of an agent that has registered as `session`.  Errors: INVALID_ARGUMENT for an empty or
// oversized one, and for Register, which only begins a stream.
absl::StatusOr<jobs::Event> EventFromProto(const v1::SessionRequest& request,
                                           jobs::SessionId session);
// The first message of a stream.  Errors: INVALID_ARGUMENT with all violations.
absl::StatusOr<jobs::AgentRegistered> RegistrationFromProto(const v1::SessionRequest& request,
                                                            jobs::SessionId session);

// `now`: steady; a deadline travels as what is left of it.
v1::SessionResponse MessageToProto(const jobs::AgentMessage& message, absl::Duration now);

// XXH3-64 as 16 hexadecimal digits; XXH3-128 as 32.
std::string Hash64(absl::string_view bytes);
std::string Hash128(absl::string_view bytes);

}  // namespace zerocast::rpc

#endif  // ZEROCAST_SERVER_RPC_CONVERT_H_
