#ifndef ZEROCAST_SERVER_JOBS_SOURCE_H_
#define ZEROCAST_SERVER_JOBS_SOURCE_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "server/jobs/types.h"
#include "server/plan/layout.h"

namespace zerocast::jobs {

// What a node of a load says of shards once its plan is prepared.
struct NodeShards {
  std::string content_key;  // of the files as it sees them; "" where it has not looked
  std::vector<HeldShards> held;
};

struct SourceRequest {
  const Layout* layout = nullptr;
  std::string plan_digest;
  std::vector<std::string> node_names;  // by node number
  std::vector<NodeShards> nodes;        // the same
  // What agents that are no nodes of the load hold, by node name; null means none.
  std::map<std::string, const std::vector<HeldShards>*> others;
};

// Where one node gets its shards from.
struct NodeSource {
  LoadSource source = LoadSource::kFiles;
  std::string content_key;   // of what its shards will hold; "" where that is not known
  int32_t participant = -1;  // kPeers: its number among those that give or take
};

struct SourceChoice {
  std::vector<NodeSource> nodes;          // by node number
  std::vector<std::string> participants;  // node names: first the load's own, then the donors
  std::vector<ShardTransfer> transfers;   // by rank
  std::vector<std::string> donors;        // participants that are no nodes of the load
};

// Where the shards of a load come from.  Held shards count only where they are of this plan and of
// the files as node 0 sees them now.  Every shard held by its own node: kCache.  Else every one
// held by some agent: kPeers, each from the agent that gives the fewest, those of the load itself
// before others; a node that has all of its own and gives none is kCache.  Else all from the files.
// In mode kLocal a node's files are its own: each decides for itself, and there are no peers. Pure.
SourceChoice ChooseSource(const SourceRequest& request);

// As where nobody holds anything.
SourceChoice ChooseFiles(const SourceRequest& request);

}  // namespace zerocast::jobs

#endif  // ZEROCAST_SERVER_JOBS_SOURCE_H_
