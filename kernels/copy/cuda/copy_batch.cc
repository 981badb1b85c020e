#include "kernels/copy/cuda/copy_batch.h"

#include <algorithm>
#include <cstddef>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/copy/copy.h"
#include "kernels/copy/cuda/piece_list.h"

namespace zerocast {

absl::StatusOr<CopyBatch> MakeCopyBatch(absl::Span<const PlacedBox> boxes, DType source_dtype,
                                        DType target_dtype) {
  if (!CanCast(source_dtype, target_dtype)) {
    return absl::InvalidArgumentError(
        absl::StrCat("make a batch for the copy kernel: no cast from ", DTypeName(source_dtype),
                     " to ", DTypeName(target_dtype)));
  }
  CopyBatch batch;
  batch.source_dtype = source_dtype;
  batch.target_dtype = target_dtype;
  batch.pieces.reserve(boxes.size());
  batch.first_elements.reserve(boxes.size() + 1);
  batch.first_elements.push_back(0);
  for (size_t i = 0; i < boxes.size(); ++i) {
    const Box& box = boxes[i].box;
    ZC_RETURN_IF_ERROR(CheckBox(i, box));
    ZC_RETURN_IF_ERROR(CheckAddress(i, "source", boxes[i].source, source_dtype));
    ZC_RETURN_IF_ERROR(CheckAddress(i, "target", boxes[i].target, target_dtype));
    ZC_RETURN_IF_ERROR(AppendElements(i, box, &batch.first_elements));
    CopyPiece piece = {};
    piece.source =
        static_cast<const std::byte*>(boxes[i].source) + box.source_offset * SizeOf(source_dtype);
    piece.target =
        static_cast<std::byte*>(boxes[i].target) + box.target_offset * SizeOf(target_dtype);
    piece.num_dims = box.num_dims;
    std::copy(box.dims, box.dims + box.num_dims, piece.dims);
    batch.pieces.push_back(piece);
  }
  return batch;
}

}  // namespace zerocast
