#ifndef ZEROCAST_CLIENT_AGENT_PLACEMENT_H_
#define ZEROCAST_CLIENT_AGENT_PLACEMENT_H_

// Where the bytes of a piece lie: in what was read, in a message, in an arena.  Functions of their
// arguments; all memory is the caller's.

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "server/plan/plan.h"
#include "server/plan/schedule.h"

namespace zerocast {

// The bytes of one node's extents of one round, one behind the other from `data` on.
struct LoadedRound {
  absl::Span<const Extent> extents;
  const char* data = nullptr;
};

// Bytes of `extents` together.
int64_t TotalBytes(absl::Span<const Extent> extents);

// Arenas of the ranks of one node: element k belongs to rank first_rank + k.
struct NodeArenas {
  int32_t first_rank = 0;
  absl::Span<char* const> data;

  char* OfRank(int32_t rank) const { return data[static_cast<size_t>(rank - first_rank)]; }
  int32_t num_ranks() const { return static_cast<int32_t>(data.size()); }
};

// The ranks of `node`: [first, second).  Layout keeps them together.
std::pair<int32_t, int32_t> RanksOfNode(const Layout& layout, int32_t node);

// Copies `piece` from what was read into the arena of its rank.
// INTERNAL when no extent of `loaded` holds it.
absl::Status CopyToArena(const Plan& plan, const LoadedRound& loaded, const Piece& piece,
                         const NodeArenas& arenas);

// A message holds the pieces of a list one behind the other in their WireDType (schedule.h).  Of a
// target that every rank holds whole it carries the piece of `first_rank` alone.
bool InMessage(const Plan& plan, const Piece& piece, int32_t first_rank);
int64_t MessageBytes(const Plan& plan, absl::Span<const Piece> pieces, int32_t first_rank);

// Writes the message for the node whose first rank is `first_rank`.
absl::Status PackMessage(const Plan& plan, const LoadedRound& loaded,
                         absl::Span<const Piece> pieces, int32_t first_rank, char* message);

// Unpacks a message for the ranks of `arenas`.
absl::Status UnpackMessage(const Plan& plan, const char* message, absl::Span<const Piece> pieces,
                           const NodeArenas& arenas);

// A broadcast holds whole pieces (Piece::rank -1), one behind the other.  Each node cuts them to
// its ranks: from the message, or, where it read them itself, from `loaded`.
int64_t BroadcastBytes(const Plan& plan, absl::Span<const Piece> pieces);
absl::Status PackBroadcast(const Plan& plan, const LoadedRound& loaded,
                           absl::Span<const Piece> pieces, char* message);
absl::Status UnpackBroadcast(const Plan& plan, const char* message, absl::Span<const Piece> pieces,
                             const NodeArenas& arenas);
absl::Status CutToArenas(const Plan& plan, const LoadedRound& loaded,
                         absl::Span<const Piece> pieces, const NodeArenas& arenas);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_PLACEMENT_H_
