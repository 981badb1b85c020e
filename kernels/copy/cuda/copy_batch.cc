#include "kernels/copy/cuda/copy_batch.h"

#include <algorithm>
#include <cstddef>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/copy/copy.h"
#include "kernels/copy/cuda/piece_form.h"
#include "kernels/copy/cuda/piece_list.h"
#include "kernels/copy/cuda/warp.h"

namespace zerocast {
namespace {

// The elements of `num_bytes` in the largest vector for which `address` is aligned.
int64_t VectorAlignment(const void* address, int64_t num_bytes) {
  int64_t most = kVectorBytes;
  while (reinterpret_cast<uintptr_t>(address) % most != 0) most /= 2;
  return std::max<int64_t>(most / num_bytes, 1);
}

}  // namespace

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
  PieceSides sides;
  sides.target_bytes = SizeOf(target_dtype);
  sides.wider_bytes = std::max(SizeOf(source_dtype), SizeOf(target_dtype));
  sides.vector_elements = kVectorBytes / sides.wider_bytes;
  sides.any_width = source_dtype == target_dtype;
  for (size_t i = 0; i < boxes.size(); ++i) {
    const Box& box = boxes[i].box;
    ZC_RETURN_IF_ERROR(CheckBox(i, box));
    ZC_RETURN_IF_ERROR(CheckAddress(i, "source", boxes[i].source, source_dtype));
    ZC_RETURN_IF_ERROR(CheckAddress(i, "target", boxes[i].target, target_dtype));
    for (const Box& part : SmallParts(box)) {
      ZC_RETURN_IF_ERROR(AppendElements(i, part, &batch.first_elements));
      CopyPiece piece = {};
      piece.source = static_cast<const std::byte*>(boxes[i].source) +
                     part.source_offset * SizeOf(source_dtype);
      piece.target =
          static_cast<std::byte*>(boxes[i].target) + part.target_offset * SizeOf(target_dtype);
      SetLoops(part, &piece);
      sides.source_alignment = VectorAlignment(piece.source, SizeOf(source_dtype));
      ChooseForm(sides, &piece);
      batch.pieces.push_back(piece);
    }
  }
  return batch;
}

}  // namespace zerocast
