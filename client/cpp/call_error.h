#ifndef ZEROCAST_CLIENT_CPP_CALL_ERROR_H_
#define ZEROCAST_CLIENT_CPP_CALL_ERROR_H_

#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "zerocast/v1/load.pb.h"

namespace zerocast {

// A call to a server.
struct CallName {
  std::string method;       // "CreateJob"
  std::string address;      // of the server, as the user gave it
  absl::Duration deadline;  // what the call was given
};

// What a failed call says to the user.  The server's own errors carry a reason and come back as
// they are.  gRPC's (the server was not reached, did not answer, does not know the method, a
// message was too large, ...) get a reason of server/base/errors.h, and a message that says what
// was tried, on which server, within which time, what happened, and what to do.
absl::Status ExplainCallError(const absl::Status& status, const CallName& call);

// DEADLINE_EXCEEDED of a wait for a load, which says in which state the load was, for which nodes
// it waited and how far they were.  `last` null: nothing of the load was ever seen.
absl::Status WaitExpired(const CallName& call, const v1::Load* last);

// UNAVAILABLE of a wait for a load whose server was not there, or did not answer, for `within`;
// `why`: what gRPC says.  The load may go on without anybody who watches it.
absl::Status ServerAway(const CallName& call, absl::Duration within, const std::string& why);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_CPP_CALL_ERROR_H_
