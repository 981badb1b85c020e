#ifndef ZEROCAST_CLIENT_AGENT_PLACEMENT_H_
#define ZEROCAST_CLIENT_AGENT_PLACEMENT_H_

// Where the bytes of a piece lie: in a file, in a message, in an arena.  Functions of their
// arguments; all memory is the caller's.

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "server/plan/plan.h"
#include "server/plan/schedule.h"

namespace zerocast {

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

// One box on its way from a tensor of the checkpoint into memory.
struct Move {
  int32_t source = 0;  // index in Manifest::tensors
  Box box;  // source places count from the tensor's element 0, target places from `memory`
  DType dtype = DType::kInvalid;           // of what is in `memory`
  const SourceDecoder* decoder = nullptr;  // of the plan, where the source is decoded
  char* memory = nullptr;                  // not owned
};

// Appends the moves of pieces of this node's ranks into their arenas.
void AppendArenaMoves(const Plan& plan, absl::Span<const Piece> pieces, const NodeArenas& arenas,
                      std::vector<Move>* out);

// A message holds the pieces of a list one behind the other in their WireDType (schedule.h).  Of a
// target that every rank holds whole it carries the piece of `first_rank` alone, of a block of
// secondary partitions that of the node's first rank that holds it, and of a primary partition
// nothing where the node holds the block around it.
bool InMessage(const Plan& plan, const Piece& piece, int32_t first_rank);
int64_t MessageBytes(const Plan& plan, absl::Span<const Piece> pieces, int32_t first_rank);

// Appends the moves that write the message for the node whose first rank is `first_rank`.
void AppendMessageMoves(const Plan& plan, absl::Span<const Piece> pieces, int32_t first_rank,
                        char* message, std::vector<Move>* out);

// Unpacks a message for the ranks of `arenas`.
void UnpackMessage(const Plan& plan, const char* message, absl::Span<const Piece> pieces,
                   const NodeArenas& arenas);

// A broadcast holds whole pieces (Piece::rank -1), one behind the other.  Each node cuts them to
// its ranks.
int64_t BroadcastBytes(const Plan& plan, absl::Span<const Piece> pieces);
void AppendBroadcastMoves(const Plan& plan, absl::Span<const Piece> pieces, char* message,
                          std::vector<Move>* out);
void UnpackBroadcast(const Plan& plan, const char* message, absl::Span<const Piece> pieces,
                     const NodeArenas& arenas);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_PLACEMENT_H_
