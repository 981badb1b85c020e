#include "kernels/copy/cuda/decode_batch.h"

#include <algorithm>
#include <cstddef>
#include <limits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/copy/cuda/decode_source.h"
#include "kernels/copy/cuda/piece_form.h"
#include "kernels/copy/cuda/piece_list.h"

namespace zerocast {
namespace {

bool HasBlocks(const Decoder& decoder) {
  return decoder.kind != DecoderKind::kPlain && decoder.kind <= DecoderKind::kMxfp4 &&
         decoder.rows >= 1 && decoder.cols >= 1 && decoder.block_rows >= 1 &&
         decoder.block_cols >= 1 && decoder.block_rows <= decoder.rows &&
         decoder.block_cols <= decoder.cols && decoder.matrix_scales >= 0 &&
         SizeOf(decoder.scale) > 0;
}

absl::Status Check(size_t index, const PlacedDecodeBox& placed, DType target_dtype) {
  ZC_RETURN_IF_ERROR(CheckBox(index, placed.box));
  const Decoder& decoder = placed.decoder;
  if (!HasBlocks(decoder)) return RefuseBox(index, "its decoder has no blocks of elements");
  if (placed.source.stored_first % PackedElements(decoder.kind) != 0) {
    return RefuseBox(index, absl::StrCat("its stored elements begin within a byte, at element ",
                                         placed.source.stored_first));
  }
  if (placed.box.source_offset < placed.source.stored_first) {
    return RefuseBox(
        index, absl::StrCat("it reads element ", placed.box.source_offset,
                            ", and in memory are those from ", placed.source.stored_first, " on"));
  }
  ZC_RETURN_IF_ERROR(CheckAddress(index, "source", placed.source.stored, DType::kUInt8));
  ZC_RETURN_IF_ERROR(CheckAddress(index, "array of scales", placed.source.scales, decoder.scale));
  return CheckAddress(index, "target", placed.target, target_dtype);
}

// Whether the elements of a decoder's blocks lie in vectors of that many, from the first place of
// the piece on.
int64_t SourceAlignment(const DecodePiece& piece, int64_t vector_elements) {
  const int64_t packed = PackedElements(piece.decoder.kind);
  const int64_t vector_bytes = std::max<int64_t>(vector_elements / packed, 1);
  const auto first_byte = reinterpret_cast<uintptr_t>(piece.stored) -
                          static_cast<uintptr_t>(piece.stored_first / packed);
  const bool is_aligned = piece.decoder.block_cols % vector_elements == 0 &&
                          first_byte % vector_bytes == 0 &&
                          piece.first_element % vector_elements == 0;
  return is_aligned ? vector_elements : 1;
}

// For a piece that reads elements before `source_end`.
void SetDividers(int64_t source_end, DecodePiece* piece) {
  constexpr int64_t kMost = std::numeric_limits<uint32_t>::max();
  const Decoder& decoder = piece->decoder;
  piece->is_small = source_end <= kMost && decoder.rows <= kMost && decoder.cols <= kMost ? 1 : 0;
  if (piece->is_small == 0) return;
  piece->rows = MakeDivider(static_cast<uint32_t>(decoder.rows));
  piece->cols = MakeDivider(static_cast<uint32_t>(decoder.cols));
  piece->block_rows = MakeDivider(static_cast<uint32_t>(decoder.block_rows));
  piece->block_cols = MakeDivider(static_cast<uint32_t>(decoder.block_cols));
}

}  // namespace

absl::StatusOr<DecodeBatch> MakeDecodeBatch(absl::Span<const PlacedDecodeBox> boxes,
                                            DType target_dtype) {
  if (!CanDecodeTo(target_dtype)) {
    return absl::InvalidArgumentError(
        absl::StrCat("make a batch for the copy kernel: quantised elements are not decoded to ",
                     DTypeName(target_dtype)));
  }
  DecodeBatch batch;
  batch.target_dtype = target_dtype;
  batch.pieces.reserve(boxes.size());
  batch.first_elements.reserve(boxes.size() + 1);
  batch.first_elements.push_back(0);
  PieceSides sides;
  sides.target_bytes = SizeOf(target_dtype);
  sides.wider_bytes = sides.target_bytes;
  sides.vector_elements = DecodeVectorElements(sides.target_bytes);
  for (size_t i = 0; i < boxes.size(); ++i) {
    const PlacedDecodeBox& placed = boxes[i];
    ZC_RETURN_IF_ERROR(Check(i, placed, target_dtype));
    ZC_RETURN_IF_ERROR(AppendElements(i, placed.box, &batch.first_elements));
    DecodePiece piece = {};
    piece.piece.target =
        static_cast<std::byte*>(placed.target) + placed.box.target_offset * SizeOf(target_dtype);
    SetLoops(placed.box, &piece.piece);
    piece.first_element = placed.box.source_offset;
    piece.stored = placed.source.stored;
    piece.stored_first = placed.source.stored_first;
    piece.scales = placed.source.scales;
    piece.scales_first = placed.source.scales_first;
    piece.decoder = placed.decoder;
    piece.grid_cols = GridCols(placed.decoder);
    SetDividers(SourceEnd(placed.box), &piece);
    sides.source_alignment = SourceAlignment(piece, sides.vector_elements);
    ChooseForm(sides, &piece.piece);
    batch.pieces.push_back(piece);
  }
  return batch;
}

}  // namespace zerocast
