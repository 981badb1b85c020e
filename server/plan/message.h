#ifndef ZEROCAST_SERVER_PLAN_MESSAGE_H_
#define ZEROCAST_SERVER_PLAN_MESSAGE_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "server/plan/plan.h"
#include "server/plan/schedule.h"

namespace zerocast {

// Appends what the message from `reader` to `node` holds in `round`, in wire order: as
// Schedule::Pieces, but of a target that every rank holds whole only the piece of the node's first
// rank, which the receiver unpacks for each of its ranks.  The pieces lie one behind the other,
// each WireBytes() long.
void MessagePieces(const Plan& plan, const Schedule& schedule, int64_t round, int32_t reader,
                   int32_t node, std::vector<Piece>* out);

// Bytes of `pieces` together on the wire.
int64_t WireBytes(const Plan& plan, absl::Span<const Piece> pieces);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_PLAN_MESSAGE_H_
