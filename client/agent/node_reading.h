#ifndef ZEROCAST_CLIENT_AGENT_NODE_READING_H_
#define ZEROCAST_CLIENT_AGENT_NODE_READING_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/agent/arena.h"
#include "client/agent/executor.h"
#include "client/agent/load_environment.h"
#include "client/agent/messages.h"
#include "client/agent/participants.h"
#include "client/agent/reader.h"
#include "kernels/comm/communicator.h"

namespace zerocast {

struct NodeReadingOptions {
  std::shared_ptr<LoadEnvironment> environment;
  std::shared_ptr<Devices> devices;  // that fill the shards; null: processors do
  Participants participants;
  PrepareCommand command;
  std::vector<FileIdentity> identities;  // of all files that a participant reads
  // Of the node's ranks in ascending order; where devices fill them, the k-th is on device k or, as
  // the layout says, in host memory.
  std::shared_ptr<const std::vector<Arena>> arenas;
  int num_threads = 1;      // of each participant
  int64_t chunk_bytes = 0;  // of each thread
  // Connects participants.numbers[k], if anything is exchanged; the communicator outlives the call
  // of ReadNode.  Called for all of them at once, on threads of their own.
  std::function<absl::StatusOr<Communicator*>(size_t k, const std::function<bool()>& cancelled)>
      connect;
  // Ends what the communicators of this node do, for another participant has failed.
  std::function<void(const std::string& why)> abort;
  const std::atomic<bool>* cancelled = nullptr;
  // Called when `progress` has changed, by one thread at a time.
  std::function<void()> on_progress;
};

// Brings the shards of one node from the files: runs ExecuteLoad for each of its participants, side
// by side.  Arenas in host memory that devices fill are page-locked meanwhile.  `progress` gets the
// sum of what they do; times are those of an average one.  Errors: those of LockedArenas, of
// `connect`, of Devices and of ExecuteLoad, of the participant that failed first.
absl::Status ReadNode(const NodeReadingOptions& options, NodeProgress* progress);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_NODE_READING_H_
