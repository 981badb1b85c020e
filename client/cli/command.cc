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

}  // namespace zerocast
