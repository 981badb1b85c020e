#ifndef ZEROCAST_SERVER_RPC_CALL_H_
#define ZEROCAST_SERVER_RPC_CALL_H_

#include <grpcpp/server_context.h>

#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "server/rpc/core.h"
#include "server/rpc/metrics.h"

namespace zerocast::rpc {

// What every handler needs.  Copied; the pointers outlive the services.
struct Env {
  Core* core = nullptr;
  Metrics* metrics = nullptr;
  const Clock* clock = nullptr;
  absl::Duration max_call_time;
  absl::Duration started;  // steady
  int64_t max_request_bytes = 0;
};

// Runs one unary call under the rules that all share: without a deadline it is INVALID_ARGUMENT
// with DEADLINE_REQUIRED, a far one is capped; whatever goes wrong leaves with an ErrorInfo, with
// RetryInfo where another try may help; it is counted and, when it failed, logged.  `handler` gets
// the time left.
grpc::Status RunUnary(const Env& env, absl::string_view method, grpc::ServerContextBase* context,
                      const std::function<absl::Status(absl::Duration left)>& handler);

// The status as it leaves: with ErrorInfo, and RetryInfo where another try may help.
absl::Status Outgoing(absl::Status status);

// Why a request_id is not one, or "".
std::string RequestIdProblem(absl::string_view request_id);

// Pages (AIP-158).
struct Page {
  int limit = 0;
  std::string after;  // name of the last resource of the page before
};
// 0 asks for 50, more than 1000 gets 1000.  Errors: INVALID_ARGUMENT for a negative size, a token
// that this server did not make, or one that was made with another `filter`.
absl::StatusOr<Page> ReadPage(int page_size, absl::string_view page_token,
                              absl::string_view filter);
std::string PageToken(absl::string_view last_name, absl::string_view filter);

}  // namespace zerocast::rpc

#endif  // ZEROCAST_SERVER_RPC_CALL_H_
