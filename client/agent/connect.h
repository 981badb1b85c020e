#ifndef ZEROCAST_CLIENT_AGENT_CONNECT_H_
#define ZEROCAST_CLIENT_AGENT_CONNECT_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/agent/load_environment.h"
#include "client/agent/messages.h"
#include "kernels/comm/communicator.h"
#include "kernels/comm/map_rendezvous.h"

namespace zerocast {

// Who of a load are to be connected: its nodes for reading, or givers and takers of shards.  The
// two never mix, although they may have one epoch.
enum class LinkKind { kNodes, kPeers };

struct ConnectRequest {
  LoadKey key;
  LinkKind kind = LinkKind::kNodes;
  int participant = 0;
  int num_participants = 1;
  uint64_t nonce = 0;
  // What the others have put, through the server; outlives the communicator.
  MapRendezvous* entries = nullptr;
  absl::Duration timeout;
  // Not null: memory of its device number `device` is exchanged.
  Devices* devices = nullptr;
  int device = 0;
  // Where this node's shards for devices lie, which must be so on all nodes of the load; "": they
  // are for the host.
  std::string arenas;
  std::function<bool()> cancelled;
};

// Connects through the server.  Errors: those of CommunicatorFactory, with reason EXCHANGE_FAILED;
// FAILED_PRECONDITION, reason UNSUPPORTED, where the arenas of another node lie elsewhere.
absl::StatusOr<std::unique_ptr<Communicator>> ConnectThroughServer(
    const LoadEnvironment& environment, const ConnectRequest& request);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_CONNECT_H_
