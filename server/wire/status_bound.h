#ifndef ZEROCAST_SERVER_WIRE_STATUS_BOUND_H_
#define ZEROCAST_SERVER_WIRE_STATUS_BOUND_H_

#include <cstdint>

#include "google/rpc/status.pb.h"

namespace zerocast {

// What a status may take of a call's trailers, in bytes, as gRPC sends them: the message
// percent-encoded, the details in base64.  gRPC's clients refuse trailers of more than 8 KiB unless
// told otherwise, and then show neither message nor details; the rest is for other trailers.
inline constexpr int64_t kMaxStatusBytes = 7168;

// What `status` takes of the trailers.
int64_t StatusBytesOnTheWire(const google::rpc::Status& status);

// Cuts `status` so that it takes at most kMaxStatusBytes: the message at the border of a character,
// ending in "... (cut: N more bytes)"; violations of a BadRequest with a last one that says how
// many more there are.  Details of other kinds than google.rpc's go first.  One that fits stays as
// it is.
void BoundStatus(google::rpc::Status* status);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_WIRE_STATUS_BOUND_H_
