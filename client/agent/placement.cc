#include "client/agent/placement.h"

#include <algorithm>
#include <utility>

#include "kernels/copy/algebra.h"
#include "kernels/copy/pack.h"

namespace zerocast {
namespace {

const Target& TargetOf(const Plan& plan, const Piece& piece) {
  return plan.targets[static_cast<size_t>(piece.target)];
}

Move MoveOf(const Plan& plan, const Piece& piece, const Box& box, DType dtype, char* memory) {
  return {piece.source, box, dtype, FindDecoder(plan.decoders, piece.source), memory};
}

// Unpacks pieces of one message.
class Unpacker {
 public:
  Unpacker(const Plan& plan, const NodeArenas& arenas,
           absl::FunctionRef<void(const BoxCopy&)> visit)
      : plan_(plan), group_size_(SecondaryGroupSize(plan.layout)), arenas_(arenas), visit_(visit) {}

  // Elements [first, end) of `piece`, which is at `packed`.
  void Unpack(const Piece& piece, const char* packed, int64_t first, int64_t end) {
    target_ = &TargetOf(plan_, piece);
    packed_ = packed;
    dtype_ = WireDType(plan_, piece);
    Box pack, unpack;
    MakePackBoxes(piece.box, 0, &pack, &unpack);
    cuts_.clear();
    SliceSource(unpack, first, end, &cuts_);
    const bool of_one_rank = piece.rank >= 0 && target_->partitioned && !piece.secondary;
    for (const Box& box : cuts_) {
      if (of_one_rank) {
        Write(box, piece.target_base, arenas_.OfRank(piece.rank) + target_->arena_offset);
      } else {
        WriteToRanks(box);
      }
    }
  }

 private:
  // What of `box` each rank holds, in its primary and in its secondary partition.
  void WriteToRanks(const Box& box) {
    if (!target_->partitioned) {
      for (char* const arena : arenas_.data) Write(box, 0, arena + target_->arena_offset);
      return;
    }
    WriteToPartitions(box);
    if (target_->secondary_elements == 0) return;
    const int64_t last = (TargetEnd(box) - 1) / target_->secondary_elements;
    for (int64_t block = box.target_offset / target_->secondary_elements; block <= last; ++block) {
      WriteToBlock(box, block);
    }
  }

  void WriteToPartitions(const Box& box) {
    const int64_t part = target_->partition_elements;
    const int64_t first = std::max<int64_t>(arenas_.first_rank, box.target_offset / part);
    const int64_t last = std::min<int64_t>(arenas_.first_rank + arenas_.num_ranks() - 1,
                                           (TargetEnd(box) - 1) / part);
    for (int64_t rank = first; rank <= last; ++rank) {
      slices_.clear();
      SliceTarget(box, rank * part, (rank + 1) * part, &slices_);
      for (const Box& slice : slices_) {
        Write(slice, rank * part,
              arenas_.OfRank(static_cast<int32_t>(rank)) + target_->arena_offset);
      }
    }
  }

  // To the secondary partitions that are that block.
  void WriteToBlock(const Box& box, int64_t block) {
    const int64_t base = block * target_->secondary_elements;
    const int64_t end_rank = arenas_.first_rank + arenas_.num_ranks();
    int64_t rank = FirstRankOfBlock(block, group_size_, arenas_.first_rank);
    if (rank >= end_rank) return;
    slices_.clear();
    SliceTarget(box, base, base + target_->secondary_elements, &slices_);
    for (; rank < end_rank; rank += group_size_) {
      for (const Box& slice : slices_) {
        Write(slice, base, arenas_.OfRank(static_cast<int32_t>(rank)) + target_->secondary_offset);
      }
    }
  }

  // `box` writes to places of the flat target; the one that lies at `memory` is `base`.
  void Write(const Box& box, int64_t base, char* memory) const {
    BoxCopy copy;
    copy.box = box;
    copy.box.target_offset -= base;
    copy.source = packed_;
    copy.source_dtype = dtype_;
    copy.target = memory;
    copy.target_dtype = target_->dtype;
    visit_(copy);
  }

  const Plan& plan_;
  const int32_t group_size_;
  const NodeArenas& arenas_;
  const absl::FunctionRef<void(const BoxCopy&)> visit_;
  // Of the piece.
  const Target* target_ = nullptr;
  const char* packed_ = nullptr;
  DType dtype_ = DType::kInvalid;
  std::vector<Box> cuts_, slices_;
};

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
    out->back().rank = piece.rank;
  }
}

void AppendMessageMoves(const Plan& plan, absl::Span<const Piece> pieces, int32_t first_rank,
                        char* message, std::vector<Move>* out) {
  for (const Piece& piece : pieces) {
    if (!InMessage(plan, piece, first_rank)) continue;
    out->push_back(PackMove(plan, piece, message));
    message += WireBytes(plan, piece);
  }
}

void AppendBroadcastMoves(const Plan& plan, absl::Span<const Piece> pieces, char* message,
                          std::vector<Move>* out) {
  for (const Piece& piece : pieces) {
    out->push_back(PackMove(plan, piece, message));
    message += WireBytes(plan, piece);
  }
}

std::vector<MessagePart> CutMessage(const Plan& plan, absl::Span<const Piece> pieces,
                                    int32_t first_rank, int64_t part_bytes) {
  std::vector<MessagePart> parts;
  MessagePart part;
  int64_t at = 0;  // bytes of the message up to here
  const auto close = [&](size_t end_piece) {
    part.end_piece = end_piece;
    if (at > part.begin) parts.push_back(part);
    part = {end_piece, end_piece, at, 0, 0};
  };
  for (size_t k = 0; k < pieces.size(); ++k) {
    if (pieces[k].rank >= 0 && !InMessage(plan, pieces[k], first_rank)) continue;
    const int64_t num_bytes = WireBytes(plan, pieces[k]);
    const int64_t count = NumElements(pieces[k].box);
    if (at > part.begin && at + num_bytes > part.begin + part_bytes) close(k);
    if (part.begin == at) {
      part.first_piece = k;
      part.end_element = count;
    }
    if (num_bytes > part_bytes) {
      const int64_t step = std::max<int64_t>(1, part_bytes / SizeOf(WireDType(plan, pieces[k])));
      for (int64_t first = 0; first < count; first += step) {
        parts.push_back({k, k + 1, at, first, std::min(first + step, count)});
      }
      at += num_bytes;
      part = {k + 1, k + 1, at, 0, 0};
      continue;
    }
    at += num_bytes;
  }
  close(pieces.size());
  return parts;
}

void UnpackPart(const Plan& plan, const char* message, absl::Span<const Piece> pieces,
                const MessagePart& part, const NodeArenas& arenas,
                absl::FunctionRef<void(const BoxCopy&)> visit) {
  Unpacker unpacker(plan, arenas, visit);
  const char* packed = message + part.begin;
  for (size_t k = part.first_piece; k < part.end_piece; ++k) {
    const Piece& piece = pieces[k];
    if (piece.rank >= 0 && !InMessage(plan, piece, arenas.first_rank)) continue;
    const bool first = k == part.first_piece;
    unpacker.Unpack(piece, packed, first ? part.first_element : 0,
                    first ? part.end_element : NumElements(piece.box));
    packed += WireBytes(plan, piece);
  }
}

}  // namespace zerocast
