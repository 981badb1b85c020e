#include "client/cli/command.h"

#include "server/base/errors.h"

namespace zerocast {

absl::StatusOr<std::unique_ptr<Client>> GlobalOptions::Connect(absl::Time deadline) const {
  if (server.empty()) {
    return InvalidFields(
        {{"--server",
          "this command needs a server: give --server host:port or set ZEROCAST_SERVER"}});
  }
  Client::Options options;
  options.address = server;
  options.timeout = absl::Seconds(timeout_seconds);
  options.deadline = deadline;
  return Client::Create(std::move(options));
}

absl::Status CancelInGrace(const Client& client, absl::string_view job) {
  return client.WithLimits(kCancelGrace, absl::InfiniteFuture())->CancelJob(job).status();
}

int ExitCode(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return 0;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kUnimplemented:  // it asks for something that is refused by name
      return 2;
    case absl::StatusCode::kNotFound:
      return 3;
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kAborted:
    case absl::StatusCode::kAlreadyExists:
      return 4;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kCancelled:
      return 5;
    case absl::StatusCode::kDataLoss:
      return 6;
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnauthenticated:
      return 7;
    default:
      return 1;
  }
}

}  // namespace zerocast
