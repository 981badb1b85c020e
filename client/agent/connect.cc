#include "client/agent/connect.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"

namespace zerocast {
namespace {

// A rendezvous between this agent and the others of one epoch, through the server.
class RelayedRendezvous : public Rendezvous {
 public:
  RelayedRendezvous(std::shared_ptr<AgentEvents> events, LoadKey key, std::string prefix,
                    MapRendezvous* entries)
      : events_(std::move(events)),
        key_(std::move(key)),
        prefix_(std::move(prefix)),
        entries_(entries) {}

  absl::Status Put(absl::string_view name, absl::string_view value) override {
    const std::string full = absl::StrCat(prefix_, name);
    ZC_RETURN_IF_ERROR(entries_->Put(full, value));
    events_->RendezvousPut(key_, full, std::string(value));
    return absl::OkStatus();
  }
  absl::StatusOr<std::string> Get(absl::string_view name, absl::Duration timeout) override {
    return entries_->Get(absl::StrCat(prefix_, name), timeout);
  }

 private:
  const std::shared_ptr<AgentEvents> events_;
  const LoadKey key_;
  const std::string prefix_;
  MapRendezvous* const entries_;
};

// Those whose arenas lie elsewhere would wait for each other, with another transport.
absl::Status AgreeOnArenas(const ConnectRequest& request, Rendezvous* rendezvous) {
  constexpr char kEntry[] = "arenas";
  if (request.participant == 0) return rendezvous->Put(kEntry, request.arenas);
  ZC_ASSIGN_OR_RETURN(const std::string first, rendezvous->Get(kEntry, request.timeout));
  if (first == request.arenas) return absl::OkStatus();
  return WithReason(absl::FailedPreconditionError(absl::StrCat(
                        "connect rank ", request.participant, " of ", request.key.load,
                        " to rank 0: its shards ", "lie ", request.arenas, ", those of rank 0 ",
                        first, "; start the agents of all nodes with --no-gpu, or none")),
                    "UNSUPPORTED");
}

}  // namespace

absl::StatusOr<std::unique_ptr<Communicator>> ConnectThroughServer(
    const LoadEnvironment& environment, const ConnectRequest& request) {
  const bool peers = request.kind == LinkKind::kPeers;
  CommunicatorRequest wanted;
  wanted.load = peers ? absl::StrCat(request.key.load, "/peers") : request.key.load;
  wanted.epoch = request.key.epoch;
  wanted.node = request.participant;
  wanted.num_nodes = request.num_participants;
  wanted.bulk_host = environment.bulk_host;
  wanted.nonce = request.nonce;
  wanted.rendezvous = std::make_shared<RelayedRendezvous>(environment.events, request.key,
                                                          peers ? "peers/" : "", request.entries);
  wanted.timeout = request.timeout;
  wanted.cancelled = request.cancelled;
  if (!request.arenas.empty() && request.num_participants > 1) {
    ZC_RETURN_IF_ERROR(AgreeOnArenas(request, wanted.rendezvous.get()));
  }
  absl::StatusOr<std::unique_ptr<Communicator>> communicator =
      request.devices == nullptr ? environment.communicators(wanted)
                                 : request.devices->Connect(request.device, wanted);
  if (communicator.ok()) return communicator;
  return WithReason(
      Annotate(communicator.status(), peers ? "connect to the agents that give or take shards"
                                            : "connect to the other nodes"),
      "EXCHANGE_FAILED");
}

}  // namespace zerocast
