#include "client/agent/placement.h"

#include <algorithm>
#include <utility>

#include "kernels/copy/algebra.h"
#include "kernels/copy/copy.h"
#include "kernels/copy/pack.h"

namespace zerocast {
namespace {

const Target& TargetOf(const Plan& plan, const Piece& piece) {
  return plan.targets[static_cast<size_t>(piece.target)];
}

Move MoveOf(const Plan& plan, const Piece& piece, const Box& box, DType dtype, char* memory) {
  return {piece.source, box, dtype, FindDecoder(plan.decoders, piece.source), memory};
}

// Elements that are in a message, by a box that counts from its beginning.
struct Received {
  Box box;
  const char* message = nullptr;
  DType dtype = DType::kInvalid;
};

// Copies `box` of what was received, whose target places count from the flat target's element
// `target_base`, into the arena at `arena`.
void CopyIntoPartition(const Received& received, Box box, const Target& target, int64_t target_base,
                       char* arena) {
  box.target_offset -= target_base;
  CopyBox(box, received.message, received.dtype, arena + target.arena_offset, target.dtype);
}

// Copies what of `received` the ranks of `arenas` own.
void CutBox(const Received& received, const Target& target, const NodeArenas& arenas,
            std::vector<Box>* scratch) {
  for (int32_t k = 0; k < arenas.num_ranks(); ++k) {
    const int32_t rank = arenas.first_rank + k;
    if (!target.partitioned) {
      CopyIntoPartition(received, received.box, target, 0, arenas.OfRank(rank));
      continue;
    }
    const int64_t base = rank * target.partition_elements;
    scratch->clear();
    SliceTarget(received.box, base, base + target.partition_elements, scratch);
    for (const Box& slice : *scratch) {
      CopyIntoPartition(received, slice, target, base, arenas.OfRank(rank));
    }
  }
}

// The move that writes the elements of `piece` densely to `message`, in the dtype of the wire.
Move PackMove(const Plan& plan, const Piece& piece, char* message) {
  Box pack, unpack;
  MakePackBoxes(piece.box, 0, &pack, &unpack);
  return MoveOf(plan, piece, pack, WireDType(plan, piece), message);
}

}  // namespace

int64_t TotalBytes(absl::Span<const Extent> extents) {
  int64_t num_bytes = 0;
  for (const Extent& extent : extents) num_bytes += extent.end - extent.begin;
  return num_bytes;
}

std::pair<int32_t, int32_t> RanksOfNode(const Layout& layout, int32_t node) {
  const auto& nodes = layout.node_of_rank;
  const auto range = std::equal_range(nodes.begin(), nodes.end(), node);
  return {static_cast<int32_t>(range.first - nodes.begin()),
          static_cast<int32_t>(range.second - nodes.begin())};
}

void AppendArenaMoves(const Plan& plan, absl::Span<const Piece> pieces, const NodeArenas& arenas,
                      std::vector<Move>* out) {
  for (const Piece& piece : pieces) {
    const Target& target = TargetOf(plan, piece);
    Box box = piece.box;
    box.target_offset -= piece.target_base;
    out->push_back(
        MoveOf(plan, piece, box, target.dtype, arenas.OfRank(piece.rank) + target.arena_offset));
  }
}

bool InMessage(const Plan& plan, const Piece& piece, int32_t first_rank) {
  return piece.rank == first_rank || !IsReplicated(plan, piece);
}

int64_t MessageBytes(const Plan& plan, absl::Span<const Piece> pieces, int32_t first_rank) {
  int64_t num_bytes = 0;
  for (const Piece& piece : pieces) {
    if (InMessage(plan, piece, first_rank)) num_bytes += WireBytes(plan, piece);
  }
  return num_bytes;
}

void AppendMessageMoves(const Plan& plan, absl::Span<const Piece> pieces, int32_t first_rank,
                        char* message, std::vector<Move>* out) {
  for (const Piece& piece : pieces) {
    if (!InMessage(plan, piece, first_rank)) continue;
    out->push_back(PackMove(plan, piece, message));
    message += WireBytes(plan, piece);
  }
}

void UnpackMessage(const Plan& plan, const char* message, absl::Span<const Piece> pieces,
                   const NodeArenas& arenas) {
  Box pack, unpack;
  for (const Piece& piece : pieces) {
    if (!InMessage(plan, piece, arenas.first_rank)) continue;
    MakePackBoxes(piece.box, 0, &pack, &unpack);
    const Received received = {unpack, message, WireDType(plan, piece)};
    const Target& target = TargetOf(plan, piece);
    if (IsReplicated(plan, piece)) {
      for (char* const arena : arenas.data) {
        CopyIntoPartition(received, unpack, target, piece.target_base, arena);
      }
    } else {
      CopyIntoPartition(received, unpack, target, piece.target_base, arenas.OfRank(piece.rank));
    }
    message += WireBytes(plan, piece);
  }
}

int64_t BroadcastBytes(const Plan& plan, absl::Span<const Piece> pieces) {
  int64_t num_bytes = 0;
  for (const Piece& piece : pieces) num_bytes += WireBytes(plan, piece);
  return num_bytes;
}

void AppendBroadcastMoves(const Plan& plan, absl::Span<const Piece> pieces, char* message,
                          std::vector<Move>* out) {
  for (const Piece& piece : pieces) {
    out->push_back(PackMove(plan, piece, message));
    message += WireBytes(plan, piece);
  }
}

void UnpackBroadcast(const Plan& plan, const char* message, absl::Span<const Piece> pieces,
                     const NodeArenas& arenas) {
  std::vector<Box> scratch;
  Box pack, unpack;
  for (const Piece& piece : pieces) {
    MakePackBoxes(piece.box, 0, &pack, &unpack);
    CutBox({unpack, message, WireDType(plan, piece)}, TargetOf(plan, piece), arenas, &scratch);
    message += WireBytes(plan, piece);
  }
}

}  // namespace zerocast
