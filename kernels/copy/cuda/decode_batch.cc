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

// Of elements, counted from the beginning of a matrix.
constexpr int64_t kMostPlaces = std::numeric_limits<uint32_t>::max();

bool HasBlocks(const Decoder& decoder) {
  return decoder.kind != DecoderKind::kPlain && decoder.kind <= DecoderKind::kMxfp4 &&
         decoder.rows >= 1 && decoder.cols >= 1 && decoder.block_rows >= 1 &&
         decoder.block_cols >= 1 && decoder.block_rows <= decoder.rows &&
         decoder.block_cols <= decoder.cols && decoder.matrix_scales >= 0 &&
         decoder.rows <= kMostPlaces / decoder.cols && SizeOf(decoder.scale) > 0;
}

absl::Status Check(size_t index, const PlacedDecodeBox& placed, DType target_dtype) {
  ZC_RETURN_IF_ERROR(CheckBox(index, placed.box));
  const Decoder& decoder = placed.decoder;
  if (!HasBlocks(decoder))
    return RefuseBox(index, "its decoder has no blocks of elements, or too many");
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

// The matrices before `element` that can be left out of the count of elements: bytes that hold two
// of them stay whole.
int64_t MatricesBefore(const Decoder& decoder, int64_t element) {
  const int64_t matrices = element / (decoder.rows * decoder.cols);
  return matrices - matrices % PackedElements(decoder.kind);
}

// A part of a box as a piece whose places count from the beginning of a matrix.
DecodePiece PieceOf(const PlacedDecodeBox& placed, const Box& part, DType target_dtype) {
  const Decoder& decoder = placed.decoder;
  const int64_t matrix = decoder.rows * decoder.cols;
  const int64_t skipped = MatricesBefore(decoder, part.source_offset);
  DecodePiece piece = {};
  piece.first_element = part.source_offset - skipped * matrix;
  piece.stored = placed.source.stored;
  piece.stored_first = placed.source.stored_first - skipped * matrix;
  piece.scales = placed.source.scales;
  piece.scales_first = placed.source.scales_first - skipped * decoder.matrix_scales;
  piece.decoder = decoder;
  piece.grid_cols = GridCols(decoder);
  piece.rows = MakeDivider(static_cast<uint32_t>(decoder.rows));
  piece.cols = MakeDivider(static_cast<uint32_t>(decoder.cols));
  piece.block_rows = MakeDivider(static_cast<uint32_t>(decoder.block_rows));
  piece.block_cols = MakeDivider(static_cast<uint32_t>(decoder.block_cols));
  piece.piece.target =
      static_cast<std::byte*>(placed.target) + part.target_offset * SizeOf(target_dtype);
  SetLoops(part, &piece.piece);
  return piece;
}

// That 32 bits hold the places of a part of a box as its piece counts them.
absl::Status CheckPlaces(size_t index, const Decoder& decoder, const Box& part) {
  const int64_t matrix = decoder.rows * decoder.cols;
  const int64_t begin = MatricesBefore(decoder, part.source_offset) * matrix;
  if (SourceEnd(part) - begin <= kMostPlaces) {
    return absl::OkStatus();
  }
  return RefuseBox(index, absl::StrCat("it reads from places of the source that lie more than ",
                                       kMostPlaces, " elements apart"));
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
    for (const Box& part : SmallParts(placed.box)) {
      ZC_RETURN_IF_ERROR(CheckPlaces(i, placed.decoder, part));
      ZC_RETURN_IF_ERROR(AppendElements(i, part, &batch.first_elements));
      DecodePiece piece = PieceOf(placed, part, target_dtype);
      sides.source_alignment = SourceAlignment(piece, sides.vector_elements);
      ChooseForm(sides, &piece.piece);
      batch.pieces.push_back(piece);
    }
  }
  return batch;
}

}  // namespace zerocast
