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

// Copies `box` of what was received into the secondary partition at `arena`.
void CopyIntoSecondary(const Received& received, Box box, const Target& target, int64_t target_base,
                       char* arena) {
  box.target_offset -= target_base;
  CopyBox(box, received.message, received.dtype, arena + target.secondary_offset, target.dtype);
}

// Copies what of `received` the ranks of `arenas` own in their primary partitions.
void CutToPartitions(const Received& received, const Target& target, const NodeArenas& arenas,
                     std::vector<Box>* scratch) {
  const int64_t part = target.partition_elements;
  const int64_t first = std::max<int64_t>(arenas.first_rank, received.box.target_offset / part);
  const int64_t last = std::min<int64_t>(arenas.first_rank + arenas.num_ranks() - 1,
                                         (TargetEnd(received.box) - 1) / part);
  for (int64_t rank = first; rank <= last; ++rank) {
    scratch->clear();
    SliceTarget(received.box, rank * part, (rank + 1) * part, scratch);
    for (const Box& slice : *scratch) {
      CopyIntoPartition(received, slice, target, rank * part,
                        arenas.OfRank(static_cast<int32_t>(rank)));
    }
  }
}

// Copies what of `received` lies in block `block` into the secondary partitions that are that
// block.
void CutToBlock(const Received& received, const Target& target, int64_t block, int32_t group_size,
                const NodeArenas& arenas, std::vector<Box>* scratch) {
  const int64_t base = block * target.secondary_elements;
  const int64_t end_rank = arenas.first_rank + arenas.num_ranks();
  int64_t rank = FirstRankOfBlock(block, group_size, arenas.first_rank);
  if (rank >= end_rank) return;
  scratch->clear();
  SliceTarget(received.box, base, base + target.secondary_elements, scratch);
  for (; rank < end_rank; rank += group_size) {
    for (const Box& slice : *scratch) {
      CopyIntoSecondary(received, slice, target, base, arenas.OfRank(static_cast<int32_t>(rank)));
    }
  }
}

// Copies what of `received` the ranks of `arenas` own.
void CutBox(const Received& received, const Target& target, int32_t group_size,
            const NodeArenas& arenas, std::vector<Box>* scratch) {
  if (!target.partitioned) {
    for (char* const arena : arenas.data) {
      CopyIntoPartition(received, received.box, target, 0, arena);
    }
    return;
  }
  CutToPartitions(received, target, arenas, scratch);
  if (target.secondary_elements == 0) return;
  const int64_t last = (TargetEnd(received.box) - 1) / target.secondary_elements;
  for (int64_t block = received.box.target_offset / target.secondary_elements; block <= last;
       ++block) {
    CutToBlock(received, target, block, group_size, arenas, scratch);
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
    out->push_back(MoveOf(plan, piece, box, target.dtype,
                          arenas.OfRank(piece.rank) +
                              (piece.secondary ? target.secondary_offset : target.arena_offset)));
  }
}

bool InMessage(const Plan& plan, const Piece& piece, int32_t first_rank) {
  const Target& target = TargetOf(plan, piece);
  if (!target.partitioned) return piece.rank == first_rank;
  if (target.secondary_elements == 0) return true;
  const int32_t group_size = SecondaryGroupSize(plan.layout);
  if (piece.secondary) return piece.rank < first_rank + group_size;
  // A block is made of whole primary partitions.
  const int64_t block = int64_t{piece.rank} * target.partition_elements / target.secondary_elements;
  const int64_t holder = FirstRankOfBlock(block, group_size, first_rank);
  const std::vector<int32_t>& nodes = plan.layout.node_of_rank;
  return holder >= plan.layout.world_size ||
         nodes[static_cast<size_t>(holder)] != nodes[static_cast<size_t>(piece.rank)];
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
  const int32_t group_size = SecondaryGroupSize(plan.layout);
  std::vector<Box> scratch;
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
    } else if (piece.secondary) {
      CutBox(received, target, group_size, arenas, &scratch);
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
  const int32_t group_size = SecondaryGroupSize(plan.layout);
  std::vector<Box> scratch;
  Box pack, unpack;
  for (const Piece& piece : pieces) {
    MakePackBoxes(piece.box, 0, &pack, &unpack);
    CutBox({unpack, message, WireDType(plan, piece)}, TargetOf(plan, piece), group_size, arenas,
           &scratch);
    message += WireBytes(plan, piece);
  }
}

}  // namespace zerocast
