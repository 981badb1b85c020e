#ifndef ZEROCAST_CLIENT_AGENT_COMMUNICATORS_H_
#define ZEROCAST_CLIENT_AGENT_COMMUNICATORS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kernels/comm/communicator.h"

namespace zerocast {

// What is needed to connect the nodes of one attempt at a load.
struct CommunicatorRequest {
  std::string load;
  int64_t epoch = 0;
  int node = 0;
  int num_nodes = 1;
  std::string bulk_host;
  uint64_t nonce = 0;  // equal on all nodes of this epoch
  std::shared_ptr<Rendezvous> rendezvous;
  absl::Duration timeout;
  std::function<bool()> cancelled;
};

// Connects; called on a worker thread and may wait for the other nodes until `timeout`.
using CommunicatorFactory =
    std::function<absl::StatusOr<std::unique_ptr<Communicator>>(const CommunicatorRequest&)>;

// TCP with Gloo; a load of one node needs no network.
CommunicatorFactory GlooCommunicators();

// For agents that are threads of one process: all of them must get the same factory.
CommunicatorFactory LoopbackCommunicators();

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_COMMUNICATORS_H_
