#ifndef ZEROCAST_SERVER_WIRE_STATUS_H_
#define ZEROCAST_SERVER_WIRE_STATUS_H_

#include <grpcpp/support/status.h>

#include "absl/status/status.h"
#include "google/rpc/status.pb.h"
#include "zerocast/v1/types.pb.h"

namespace zerocast {

// The two forms of a status, every payload kept both ways: an absl payload is a detail of the
// google.rpc.Status in the call's "grpc-status-details-bin".  What would be more than a client
// accepts in trailers is cut, and says so: see BoundStatus().
//
// FromGrpc takes what a peer sent: details that do not parse are dropped, code and message stay; a
// code outside the table is kUnknown.
grpc::Status ToGrpc(const absl::Status& status);
absl::Status FromGrpc(const grpc::Status& status);

// The same in a message: nothing is cut.
google::rpc::Status StatusToProto(const absl::Status& status);
absl::Status StatusFromProto(const google::rpc::Status& status);

// A failure inside a resource or report: code, message and reason; other payloads do not travel.
// An OK status has no failure: FailureFromStatus gives an empty message (code 0), and
// StatusFromFailure of code 0 is OK.  A code outside the table is kUnknown.
v1::Failure FailureFromStatus(const absl::Status& status);
absl::Status StatusFromFailure(const v1::Failure& failure);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_WIRE_STATUS_H_
