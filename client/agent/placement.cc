#include "client/agent/placement.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/copy/algebra.h"
#include "kernels/copy/copy.h"
#include "kernels/copy/decode_box.h"
#include "kernels/copy/pack.h"

namespace zerocast {
namespace {

// The source side of a copy: `box` counts from `source`, or, where a decoder reads it, from the
// beginning of the tensor.
struct PlacedSource {
  Box box;
  const char* source = nullptr;
  DType dtype = DType::kInvalid;
  const Decoder* decoder = nullptr;
  EncodedSource encoded;
};

// Where bytes [begin, end) of `file` were read to; null where no extent holds them all.
const char* FindBytes(const LoadedRound& loaded, int32_t file, int64_t begin, int64_t end) {
  int64_t start = 0;  // of the extent, in loaded.data
  for (const Extent& extent : loaded.extents) {
    if (extent.file == file && extent.begin <= begin && end <= extent.end) {
      return loaded.data + start + (begin - extent.begin);
    }
    start += extent.end - extent.begin;
  }
  return nullptr;
}

absl::Status NotRead(const ManifestTensor& tensor, int64_t begin, int64_t end) {
  return absl::InternalError(absl::StrCat("place a piece of ", tensor.tensor.name, " (bytes [",
                                          begin, ", ", end, ") of file ", tensor.file,
                                          "): no extent of this round holds it"));
}

// Finds the elements of a decoded source and their scales.
absl::StatusOr<PlacedSource> PlaceEncoded(const Plan& plan, const LoadedRound& loaded,
                                          const Box& box, const SourceDecoder& source) {
  const ManifestTensor& tensor = plan.manifest->tensors[static_cast<size_t>(source.source)];
  const ManifestTensor& scales = plan.manifest->tensors[static_cast<size_t>(source.scale)];
  const int64_t packed = PackedElements(source.decoder.kind);
  const int64_t size = SizeOf(tensor.tensor.dtype);
  const int64_t first = box.source_offset / packed;
  const int64_t last = (SourceEnd(box) + packed - 1) / packed;
  const ScaleRange range = ScalesOf(source.decoder, box.source_offset, SourceEnd(box));
  const int64_t scale_size = SizeOf(scales.tensor.dtype);
  PlacedSource placed;
  placed.box = box;
  placed.decoder = &source.decoder;
  placed.encoded.stored_first = first * packed;
  placed.encoded.stored = FindBytes(loaded, tensor.file, tensor.file_begin + first * size,
                                    tensor.file_begin + last * size);
  if (placed.encoded.stored == nullptr) {
    return NotRead(tensor, tensor.file_begin + first * size, tensor.file_begin + last * size);
  }
  placed.encoded.scales_first = range.begin;
  placed.encoded.scales =
      FindBytes(loaded, scales.file, scales.file_begin + range.begin * scale_size,
                scales.file_begin + range.end * scale_size);
  if (placed.encoded.scales == nullptr) {
    return NotRead(scales, scales.file_begin + range.begin * scale_size,
                   scales.file_begin + range.end * scale_size);
  }
  return placed;
}

// Finds the extent that holds `piece` and makes its box count from what of the source was read.
absl::StatusOr<PlacedSource> PlaceSource(const Plan& plan, const LoadedRound& loaded,
                                         const Piece& piece) {
  if (const SourceDecoder* const decoder = FindDecoder(plan.decoders, piece.source)) {
    return PlaceEncoded(plan, loaded, piece.box, *decoder);
  }
  const ManifestTensor& tensor = plan.manifest->tensors[static_cast<size_t>(piece.source)];
  const int64_t element = SizeOf(tensor.tensor.dtype);
  const int64_t begin = tensor.file_begin + piece.box.source_offset * element;
  const int64_t end = tensor.file_begin + SourceEnd(piece.box) * element;
  PlacedSource placed;
  placed.source = FindBytes(loaded, tensor.file, begin, end);
  if (placed.source == nullptr) return NotRead(tensor, begin, end);
  placed.box = piece.box;
  placed.box.source_offset = 0;
  placed.dtype = tensor.tensor.dtype;
  return placed;
}

// Elements that are in a message, by a box that counts from its beginning.
PlacedSource InMessageAt(const char* message, const Box& box, DType dtype) {
  PlacedSource placed;
  placed.box = box;
  placed.source = message;
  placed.dtype = dtype;
  return placed;
}

void CopyPlaced(const PlacedSource& placed, const Box& box, char* target, DType target_dtype) {
  if (placed.decoder != nullptr) {
    DecodeBox(box, *placed.decoder, placed.encoded, target, target_dtype);
  } else {
    CopyBox(box, placed.source, placed.dtype, target, target_dtype);
  }
}

const Target& TargetOf(const Plan& plan, const Piece& piece) {
  return plan.targets[static_cast<size_t>(piece.target)];
}

// Copies `box` of `placed`, whose target places count from the flat target's element
// `target_base`, into the arena at `arena`.
void CopyIntoPartition(const PlacedSource& placed, Box box, const Target& target,
                       int64_t target_base, char* arena) {
  box.target_offset -= target_base;
  CopyPlaced(placed, box, arena + target.arena_offset, target.dtype);
}

// Copies what of `placed` the ranks of `arenas` own.
void CutBox(const PlacedSource& placed, const Target& target, const NodeArenas& arenas,
            std::vector<Box>* scratch) {
  for (int32_t k = 0; k < arenas.num_ranks(); ++k) {
    const int32_t rank = arenas.first_rank + k;
    if (!target.partitioned) {
      CopyIntoPartition(placed, placed.box, target, 0, arenas.OfRank(rank));
      continue;
    }
    const int64_t base = rank * target.partition_elements;
    scratch->clear();
    SliceTarget(placed.box, base, base + target.partition_elements, scratch);
    for (const Box& slice : *scratch) {
      CopyIntoPartition(placed, slice, target, base, arenas.OfRank(rank));
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
  CopyIntoPartition(placed, placed.box, TargetOf(plan, piece), piece.target_base,
                    arenas.OfRank(piece.rank));
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

// Writes the elements of `piece` densely to `message`, in the dtype of the wire.
absl::Status PackPiece(const Plan& plan, const LoadedRound& loaded, const Piece& piece,
                       char* message) {
  ZC_ASSIGN_OR_RETURN(const PlacedSource placed, PlaceSource(plan, loaded, piece));
  Box pack, unpack;
  MakePackBoxes(placed.box, 0, &pack, &unpack);
  CopyPlaced(placed, pack, message, WireDType(plan, piece));
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
    const PlacedSource placed = InMessageAt(message, unpack, WireDType(plan, piece));
    const Target& target = TargetOf(plan, piece);
    if (IsReplicated(plan, piece)) {
      for (char* const arena : arenas.data) {
        CopyIntoPartition(placed, unpack, target, piece.target_base, arena);
      }
    } else {
      CopyIntoPartition(placed, unpack, target, piece.target_base, arenas.OfRank(piece.rank));
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
    CutBox(InMessageAt(message, unpack, WireDType(plan, piece)), TargetOf(plan, piece), arenas,
           &scratch);
    message += WireBytes(plan, piece);
  }
  return absl::OkStatus();
}

absl::Status CutToArenas(const Plan& plan, const LoadedRound& loaded,
                         absl::Span<const Piece> pieces, const NodeArenas& arenas) {
  std::vector<Box> scratch;
  for (const Piece& piece : pieces) {
    ZC_ASSIGN_OR_RETURN(const PlacedSource placed, PlaceSource(plan, loaded, piece));
    CutBox(placed, TargetOf(plan, piece), arenas, &scratch);
  }
  return absl::OkStatus();
}

}  // namespace zerocast
