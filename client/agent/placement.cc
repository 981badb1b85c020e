#include "client/agent/placement.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/copy/algebra.h"
#include "kernels/copy/copy.h"
#include "kernels/copy/pack.h"

namespace zerocast {
namespace {

// The source side of a copy: `box` counts from `source`.
struct PlacedSource {
  Box box;
  const char* source = nullptr;
};

// Finds the extent that holds `piece` and makes its box count from what of the source was read.
absl::StatusOr<PlacedSource> PlaceSource(const Plan& plan, const LoadedRound& loaded,
                                         const Piece& piece) {
  const ManifestTensor& tensor = plan.manifest->tensors[static_cast<size_t>(piece.source)];
  const int64_t element = SizeOf(tensor.tensor.dtype);
  const int64_t begin = tensor.file_begin + piece.box.source_offset * element;
  const int64_t end = tensor.file_begin + SourceEnd(piece.box) * element;
  int64_t start = 0;  // of the extent, in loaded.data
  for (const Extent& extent : loaded.extents) {
    if (extent.file == tensor.file && extent.begin <= begin && end <= extent.end) {
      PlacedSource placed;
      placed.box = piece.box;
      if (extent.begin <= tensor.file_begin) {
        placed.source = loaded.data + start + (tensor.file_begin - extent.begin);
      } else {
        placed.source = loaded.data + start;
        placed.box.source_offset -= (extent.begin - tensor.file_begin) / element;
      }
      return placed;
    }
    start += extent.end - extent.begin;
  }
  return absl::InternalError(absl::StrCat("place a piece of ", tensor.tensor.name, " (bytes [",
                                          begin, ", ", end, ") of file ", tensor.file,
                                          "): no extent of this round holds it"));
}

DType SourceDType(const Plan& plan, const Piece& piece) {
  return plan.manifest->tensors[static_cast<size_t>(piece.source)].tensor.dtype;
}

const Target& TargetOf(const Plan& plan, const Piece& piece) {
  return plan.targets[static_cast<size_t>(piece.target)];
}

// Copies `box`, whose target places count from the flat target's element `target_base`, into the
// arena at `arena`.
void CopyIntoPartition(Box box, const char* source, DType source_dtype, const Target& target,
                       int64_t target_base, char* arena) {
  box.target_offset -= target_base;
  CopyBox(box, source, source_dtype, arena + target.arena_offset, target.dtype);
}

// Copies what of `box` the ranks of `arenas` own.
void CutBox(const Box& box, const char* source, DType source_dtype, const Target& target,
            const NodeArenas& arenas, std::vector<Box>* scratch) {
  for (int32_t k = 0; k < arenas.num_ranks(); ++k) {
    const int32_t rank = arenas.first_rank + k;
    if (!target.partitioned) {
      CopyIntoPartition(box, source, source_dtype, target, 0, arenas.OfRank(rank));
      continue;
    }
    const int64_t base = rank * target.partition_elements;
    scratch->clear();
    SliceTarget(box, base, base + target.partition_elements, scratch);
    for (const Box& slice : *scratch) {
      CopyIntoPartition(slice, source, source_dtype, target, base, arenas.OfRank(rank));
    }
  }
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

absl::Status CopyToArena(const Plan& plan, const LoadedRound& loaded, const Piece& piece,
                         const NodeArenas& arenas) {
  ZC_ASSIGN_OR_RETURN(const PlacedSource placed, PlaceSource(plan, loaded, piece));
  CopyIntoPartition(placed.box, placed.source, SourceDType(plan, piece), TargetOf(plan, piece),
                    piece.target_base, arenas.OfRank(piece.rank));
  return absl::OkStatus();
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

namespace {

// Writes the elements of `piece` densely to `message`, in the source's dtype.
absl::Status PackPiece(const Plan& plan, const LoadedRound& loaded, const Piece& piece,
                       char* message) {
  ZC_ASSIGN_OR_RETURN(const PlacedSource placed, PlaceSource(plan, loaded, piece));
  const DType dtype = SourceDType(plan, piece);
  Box pack, unpack;
  MakePackBoxes(placed.box, 0, &pack, &unpack);
  CopyBox(pack, placed.source, dtype, message, dtype);
  return absl::OkStatus();
}

}  // namespace

absl::Status PackMessage(const Plan& plan, const LoadedRound& loaded,
                         absl::Span<const Piece> pieces, int32_t first_rank, char* message) {
  for (const Piece& piece : pieces) {
    if (!InMessage(plan, piece, first_rank)) continue;
    ZC_RETURN_IF_ERROR(PackPiece(plan, loaded, piece, message));
    message += WireBytes(plan, piece);
  }
  return absl::OkStatus();
}

absl::Status UnpackMessage(const Plan& plan, const char* message, absl::Span<const Piece> pieces,
                           const NodeArenas& arenas) {
  Box pack, unpack;
  for (const Piece& piece : pieces) {
    if (!InMessage(plan, piece, arenas.first_rank)) continue;
    MakePackBoxes(piece.box, 0, &pack, &unpack);
    const DType dtype = SourceDType(plan, piece);
    const Target& target = TargetOf(plan, piece);
    if (IsReplicated(plan, piece)) {
      for (char* const arena : arenas.data) {
        CopyIntoPartition(unpack, message, dtype, target, piece.target_base, arena);
      }
    } else {
      CopyIntoPartition(unpack, message, dtype, target, piece.target_base,
                        arenas.OfRank(piece.rank));
    }
    message += WireBytes(plan, piece);
  }
  return absl::OkStatus();
}

int64_t BroadcastBytes(const Plan& plan, absl::Span<const Piece> pieces) {
  int64_t num_bytes = 0;
  for (const Piece& piece : pieces) num_bytes += WireBytes(plan, piece);
  return num_bytes;
}

absl::Status PackBroadcast(const Plan& plan, const LoadedRound& loaded,
                           absl::Span<const Piece> pieces, char* message) {
  for (const Piece& piece : pieces) {
    ZC_RETURN_IF_ERROR(PackPiece(plan, loaded, piece, message));
    message += WireBytes(plan, piece);
  }
  return absl::OkStatus();
}

absl::Status UnpackBroadcast(const Plan& plan, const char* message, absl::Span<const Piece> pieces,
                             const NodeArenas& arenas) {
  std::vector<Box> scratch;
  Box pack, unpack;
  for (const Piece& piece : pieces) {
    MakePackBoxes(piece.box, 0, &pack, &unpack);
    CutBox(unpack, message, SourceDType(plan, piece), TargetOf(plan, piece), arenas, &scratch);
    message += WireBytes(plan, piece);
  }
  return absl::OkStatus();
}

absl::Status CutToArenas(const Plan& plan, const LoadedRound& loaded,
                         absl::Span<const Piece> pieces, const NodeArenas& arenas) {
  std::vector<Box> scratch;
  for (const Piece& piece : pieces) {
    ZC_ASSIGN_OR_RETURN(const PlacedSource placed, PlaceSource(plan, loaded, piece));
    CutBox(placed.box, placed.source, SourceDType(plan, piece), TargetOf(plan, piece), arenas,
           &scratch);
  }
  return absl::OkStatus();
}

}  // namespace zerocast
