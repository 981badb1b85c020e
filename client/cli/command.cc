#include "client/cli/command.h"

#include "client/cli/interruption.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"

namespace zerocast {

absl::StatusOr<std::shared_ptr<Client>> GlobalOptions::Connect(absl::Time deadline) const {
  if (server.empty()) {
    return InvalidFields(
        {{"--server",
          "this command needs a server: give --server host:port or set ZEROCAST_SERVER"}});
  }
  Client::Options options;
  options.address = server;
  options.timeout = absl::Seconds(timeout_seconds);
  options.deadline = deadline;
  ZC_ASSIGN_OR_RETURN(std::unique_ptr<Client> client, Client::Create(std::move(options)));
  return EndWhenInterrupted(std::move(client));
}

std::shared_ptr<Client> EndWhenInterrupted(std::unique_ptr<Client> client) {
  struct Watched {
    std::unique_ptr<Client> client;
    OnInterrupt on_interrupt;  // in front of the client's end
  };
  OnInterrupt::Actions actions;
  actions.now = [called = client.get()] { called->CancelCalls(); };
  const auto watched =
      std::shared_ptr<Watched>(new Watched{std::move(client), OnInterrupt(std::move(actions))});
  return std::shared_ptr<Client>(watched, watched->client.get());
}

absl::Duration CancelGrace() { return InterruptSignal() != 0 ? kInterruptGrace : kCancelGrace; }

absl::Status CancelInGrace(const Client& client, absl::string_view job) {
  return client.WithLimits(CancelGrace(), absl::InfiniteFuture())->CancelJob(job).status();
}

}  // namespace zerocast
