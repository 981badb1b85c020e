#ifndef ZEROCAST_CLIENT_AGENT_SHARD_PLACE_H_
#define ZEROCAST_CLIENT_AGENT_SHARD_PLACE_H_

// Where the shards of a load lie on a node, told to others.  Functions.

#include <string>

#include "absl/types/span.h"
#include "client/agent/arena.h"
#include "client/agent/messages.h"
#include "server/plan/layout.h"

namespace zerocast {

// For the other nodes of a load, which must have them in the same place; "" of shards that
// processors fill because the job wants that.  `has_devices` is false with --no-gpu.
std::string ArenasText(const Layout& layout, bool has_devices);

// How processes will take the shards over, and what of them and of the buffers lies on devices:
// from the arenas that were made, and from `progress`, whose sums of bytes are known.
void TellWay(const Layout& layout, bool has_devices, absl::Span<const Arena> arenas,
             NodeProgress* progress);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_SHARD_PLACE_H_
