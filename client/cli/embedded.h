#ifndef ZEROCAST_CLIENT_CLI_EMBEDDED_H_
#define ZEROCAST_CLIENT_CLI_EMBEDDED_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/agent/agent.h"
#include "client/cpp/client.h"

namespace zerocast {

// A whole cluster in this process: a real server with its state in memory and real agents, one a
// node, that talk over loopback.  What runs is what runs on a cluster; only the processes are one.
class EmbeddedCluster {
 public:
  struct Options {
    int num_agents = 1;                          // 0: the server alone
    absl::Duration timeout = absl::Seconds(30);  // of one call of client()
    // Neither the start nor a call of client() goes on beyond it.
    absl::Time deadline = absl::InfiniteFuture();
    AgentOptions agent;  // what all of them have; names and addresses are set here
  };
  // Returns once every agent is connected.  Errors: DEADLINE_EXCEEDED, and from the parts.
  static absl::StatusOr<std::unique_ptr<EmbeddedCluster>> Start(const Options& options);
  ~EmbeddedCluster();  // stops everything; removes its sockets
  EmbeddedCluster(const EmbeddedCluster&) = delete;
  EmbeddedCluster& operator=(const EmbeddedCluster&) = delete;

  Client* client() const;

 private:
  struct Rep;
  explicit EmbeddedCluster(std::unique_ptr<Rep> rep);
  const std::unique_ptr<Rep> rep_;
};

// What a command talks to: the server that was named, or, where none was, an embedded cluster.
struct ClusterHandle {
  std::unique_ptr<EmbeddedCluster> embedded;
  std::shared_ptr<Client> remote;
  Client* client() const { return embedded != nullptr ? embedded->client() : remote.get(); }
};

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_CLI_EMBEDDED_H_
