#ifndef ZEROCAST_CLIENT_AGENT_CHUNKS_H_
#define ZEROCAST_CLIENT_AGENT_CHUNKS_H_

// The moves of one round on one node, cut into chunks of file that fit the caches.  What is
// contiguous in file and memory, and is not changed on its way, may be read straight to its place;
// the rest of a chunk is read into a buffer and copied from there while the caches still hold it.

#include <sys/uio.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "client/agent/box_copy.h"
#include "client/agent/placement.h"
#include "server/plan/node_memory.h"
#include "server/plan/plan.h"
#include "server/plan/schedule.h"

namespace zerocast {

// A move with the place of its source in a file.
struct PlacedMove {
  Move move;
  int32_t file = 0;
  int64_t tensor_begin = 0, tensor_end = 0;  // bytes of the file
  int64_t begin = 0, end = 0;                // bytes of the file that hold what it reads
  int64_t element_bytes = 0;                 // of a stored element
  int64_t packed = 1;                        // logical elements in a stored one
  DType stored = DType::kInvalid;
};

// What one node reads in one round, and where it goes.  Immutable.
class RoundMoves {
 public:
  RoundMoves() = default;
  // `extents` are the node's of the round, `moves` all that reads them; `plan` must outlive this.
  // Chunks have at most `chunk_bytes` bytes, or one stored element; in a round that transposes they
  // have kTransposedChunks times as many.  INTERNAL where no
  // extent holds what a move reads, or its scales.  Runs of fewer than `min_direct_bytes` bytes are
  // not read straight to their place: they cost more as a piece of their own than as a copy.
  static absl::StatusOr<RoundMoves> Create(const Plan& plan, absl::Span<const Extent> extents,
                                           absl::Span<const Move> moves, int64_t chunk_bytes,
                                           int64_t min_direct_bytes = 4096);

  // File ranges, each within one extent; they cut no stored element.
  const std::vector<Extent>& chunks() const { return chunks_; }
  // The chunks [first, second) fill the arena of one rank before all, or none; within a group they
  // are in the order of the file.  Threads that work on different groups write to different arenas.
  const std::vector<std::pair<size_t, size_t>>& groups() const { return groups_; }
  // Extents that are no move's source: the scales of those that are decoded.
  const std::vector<Extent>& scales() const { return scales_; }
  // By file and begin.
  const std::vector<PlacedMove>& moves() const { return moves_; }
  const Plan& plan() const { return *plan_; }
  // Of the largest chunk.
  int64_t buffer_bytes() const { return buffer_bytes_; }
  int64_t min_direct_bytes() const { return min_direct_bytes_; }

 private:
  using Iterator = std::vector<PlacedMove>::const_iterator;
  // The first move whose tensor ends behind byte `at` of `file`.
  Iterator FirstBehind(int32_t file, int64_t at) const;
  void CutExtent(const Extent& extent, int64_t chunk_bytes);
  int32_t MainRank(const Extent& chunk) const;
  void GroupChunks();
  absl::Status CheckRead(absl::Span<const Extent> extents) const;

  int64_t buffer_bytes_ = 0;
  int64_t min_direct_bytes_ = 0;
  const Plan* plan_ = nullptr;
  std::vector<PlacedMove> moves_;
  std::vector<Extent> chunks_, scales_;
  std::vector<std::pair<size_t, size_t>> groups_;
};

// One chunk on its way.  Thread-compatible; used again and again it keeps its memory.
class ChunkWork {
 public:
  // Decides where the bytes of `chunk` go.  `buffer` has as many bytes as the chunk and must, as
  // `moves`, stay until Copy.  What `into_place` refuses, by place and number of bytes, goes
  // through the buffer.
  void Plan(const RoundMoves& moves, const Extent& chunk, char* buffer,
            absl::FunctionRef<bool(const char*, int64_t)> into_place);

  // Where to read the chunk: pieces of memory, in the order of the file.
  absl::Span<const struct iovec> pieces() const { return pieces_; }

  // What is to be copied, cast and decoded from the buffer.  `scales` holds the bytes of
  // moves.scales(), one behind the other.  Valid until the next call, or Plan.
  absl::Span<const BoxCopy> Copies(const char* scales);

 private:
  struct Cut {
    const PlacedMove* move;
    Box box;
    int64_t begin, end;  // bytes of the file
  };
  void CutMoves();
  void AddPieces(absl::FunctionRef<bool(const char*, int64_t)> into_place);

  const RoundMoves* moves_ = nullptr;
  Extent chunk_;
  char* buffer_ = nullptr;
  std::vector<Cut> cuts_;
  BoxCopy CopyOf(const Cut& cut, const char* scales) const;

  std::vector<const Cut*> copied_;
  std::vector<BoxCopy> copies_;
  std::vector<struct iovec> pieces_;
  std::vector<Box> boxes_;
};

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_CHUNKS_H_
