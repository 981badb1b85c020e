#ifndef ZEROCAST_SERVER_PLAN_MESSAGES_H_
#define ZEROCAST_SERVER_PLAN_MESSAGES_H_

// What is in a message between nodes, and how many bytes a node's messages take.

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "server/plan/plan.h"
#include "server/plan/schedule.h"

namespace zerocast {

// A message holds the pieces of a list one behind the other in their WireDType (schedule.h).  Of a
// target that every rank holds whole it carries the piece of `first_rank` alone, of a block of
// secondary partitions that of the node's first rank that holds it, and of a primary partition
// nothing where the node holds the block around it.
bool InMessage(const Plan& plan, const Piece& piece, int32_t first_rank);
int64_t MessageBytes(const Plan& plan, absl::Span<const Piece> pieces, int32_t first_rank);

// A broadcast holds whole pieces (Piece::rank -1), one behind the other.  Each node cuts them to
// its ranks.
int64_t BroadcastBytes(const Plan& plan, absl::Span<const Piece> pieces);

// Messages that share one buffer begin at multiples of this.
inline constexpr int64_t kMessageAlignment = 64;
inline int64_t AlignedMessage(int64_t num_bytes) {
  return (num_bytes + kMessageAlignment - 1) / kMessageAlignment * kMessageAlignment;
}

// What a node's buffers must hold, two of each used in turn; bytes.
struct ExchangeBuffers {
  int64_t outgoing[2] = {};    // messages and broadcasts of a round
  int64_t incoming[2] = {};    // messages of a round
  int64_t broadcasts[2] = {};  // that come

  int64_t sending() const { return outgoing[0] + outgoing[1]; }
  int64_t receiving() const { return incoming[0] + incoming[1] + broadcasts[0] + broadcasts[1]; }
};

// Derives every message that `node` sends or gets: as long as a load's own derivation takes.
ExchangeBuffers ComputeExchangeBuffers(const Plan& plan, const Schedule& schedule, int32_t node);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_PLAN_MESSAGES_H_
