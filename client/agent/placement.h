#ifndef ZEROCAST_CLIENT_AGENT_PLACEMENT_H_
#define ZEROCAST_CLIENT_AGENT_PLACEMENT_H_

// Where the bytes of a piece lie: in a file, in a message, in an arena.  Functions of their
// arguments; all memory is the caller's.

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/types/span.h"
#include "client/agent/box_copy.h"
#include "server/plan/messages.h"
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
  int32_t rank = -1;                       // whose arena `memory` is in; -1: in none
};

// Appends the moves of pieces of this node's ranks into their arenas.
void AppendArenaMoves(const Plan& plan, absl::Span<const Piece> pieces, const NodeArenas& arenas,
                      std::vector<Move>* out);

// Appends the moves that write the message for the node whose first rank is `first_rank`.
void AppendMessageMoves(const Plan& plan, absl::Span<const Piece> pieces, int32_t first_rank,
                        char* message, std::vector<Move>* out);

// Appends the moves that write a broadcast.
void AppendBroadcastMoves(const Plan& plan, absl::Span<const Piece> pieces, char* message,
                          std::vector<Move>* out);

// A share of a message, or of a broadcast, that one thread unpacks.
struct MessagePart {
  size_t first_piece = 0, end_piece = 0;  // of the pieces, of which the message may lack some
  int64_t begin = 0;                      // where the first piece begins; bytes of the message
  // Elements of the first piece: all of them, unless it is the only one.
  int64_t first_element = 0, end_element = 0;
};

// Cuts a message of `pieces` into parts of about `part_bytes` bytes: whole pieces together, and
// pieces that are longer at elements.  `first_rank` is that of the receiving node.
std::vector<MessagePart> CutMessage(const Plan& plan, absl::Span<const Piece> pieces,
                                    int32_t first_rank, int64_t part_bytes);

// Calls `visit` with each copy that unpacks one part for the ranks of `arenas`.  Copies, and parts
// of one message, write to different places.
void UnpackPart(const Plan& plan, const char* message, absl::Span<const Piece> pieces,
                const MessagePart& part, const NodeArenas& arenas,
                absl::FunctionRef<void(const BoxCopy&)> visit);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_PLACEMENT_H_
