#include "kernels/copy/cuda/decode_batch.h"

#include <algorithm>
#include <cstddef>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
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
  for (size_t i = 0; i < boxes.size(); ++i) {
    const PlacedDecodeBox& placed = boxes[i];
    ZC_RETURN_IF_ERROR(Check(i, placed, target_dtype));
    ZC_RETURN_IF_ERROR(AppendElements(i, placed.box, &batch.first_elements));
    DecodePiece piece = {};
    piece.piece.target =
        static_cast<std::byte*>(placed.target) + placed.box.target_offset * SizeOf(target_dtype);
    piece.piece.num_dims = placed.box.num_dims;
    std::copy(placed.box.dims, placed.box.dims + placed.box.num_dims, piece.piece.dims);
    piece.first_element = placed.box.source_offset;
    piece.stored = placed.source.stored;
    piece.stored_first = placed.source.stored_first;
    piece.scales = placed.source.scales;
    piece.scales_first = placed.source.scales_first;
    piece.decoder = placed.decoder;
    batch.pieces.push_back(piece);
  }
  return batch;
}

}  // namespace zerocast
