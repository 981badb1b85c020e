#ifndef ZEROCAST_CLIENT_AGENT_HANDOVER_H_
#define ZEROCAST_CLIENT_AGENT_HANDOVER_H_

#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/agent/messages.h"
#include "client/agent/shards.h"

namespace zerocast {

struct HandOverOptions {
  std::string socket_path;
  mode_t mode = 0660;
  // Users that may attach besides this process's own and root.
  std::vector<uid_t> allowed_uids;
  // Until a connection must have asked for something; for each later frame of it.
  absl::Duration request_timeout = absl::Seconds(5);
  absl::Duration frame_timeout = absl::Seconds(10);
  // Connections that have asked and are served, and those that have not asked yet; of one user at
  // most half of each.  Beyond that a connection is answered with RESOURCE_EXHAUSTED.
  int max_connections = 128;
  int max_waiting = 512;

  // As LoadTable::Offer and Settle; called on the connections' threads.
  std::function<absl::StatusOr<ShardOffer>(const std::string& load, int32_t rank,
                                           const std::string& token, AttachMode mode,
                                           const std::function<bool()>& stopped)>
      offer;
  // As LoadTable::OfferCopy.
  std::function<absl::StatusOr<ShardOffer>(const ShardOffer& offer, const std::string& why,
                                           const std::function<bool()>& stopped)>
      offer_copy;
  // Called before the descriptor is sent; an error is sent instead of it.
  std::function<absl::Status(const ShardOffer& offer, bool acknowledged)> settle;
};

// The unix socket where training processes take their shards over; README.md has the protocol.  One
// thread accepts, one more serves each connection once it speaks, so that a slow client keeps
// nobody waiting.
class HandOverServer {
 public:
  // A socket that nobody listens on is replaced.  Errors: ALREADY_EXISTS (another process listens),
  // NOT_FOUND or PERMISSION_DENIED (its folder), INVALID_ARGUMENT (a path of more than 107 bytes,
  // or something there that is no socket).
  static absl::StatusOr<std::unique_ptr<HandOverServer>> Start(HandOverOptions options);

  // Ends every connection, removes the socket.
  ~HandOverServer();
  // Removes the socket and ends every connection but those of processes that use memory of this one
  // ("cuda_ipc"): they stay until the processes have returned it.
  void StopServing();
  // After StopServing: true once nobody uses memory of this process, at the latest after `timeout`.
  bool WaitUntilReturned(absl::Duration timeout);
  HandOverServer(const HandOverServer&) = delete;
  HandOverServer& operator=(const HandOverServer&) = delete;

 private:
  struct State;
  explicit HandOverServer(std::shared_ptr<State> state);
  const std::shared_ptr<State> state_;
};

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_HANDOVER_H_
