#include "kernels/copy/cuda/copy_batch.h"

#include <algorithm>
#include <cstddef>
#include <limits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "kernels/base/status_macros.h"
#include "kernels/copy/copy.h"

namespace zerocast {
namespace {

absl::Status Refuse(size_t index, absl::string_view why) {
  return absl::InvalidArgumentError(
      absl::StrCat("describe box ", index, " of a batch for the copy kernel: ", why));
}

absl::Status CheckBox(size_t index, const Box& box) {
  if (box.num_dims < 0 || box.num_dims > kMaxBoxDims) {
    return Refuse(index, absl::StrCat("it has ", box.num_dims, " loops, and 0 to ", kMaxBoxDims,
                                      " are possible"));
  }
  int64_t count = 1;
  for (int k = 0; k < box.num_dims; ++k) {
    const int64_t extent = box.dims[k].extent;
    if (extent < 1) return Refuse(index, absl::StrCat("loop ", k, " has extent ", extent));
    if (count > std::numeric_limits<int64_t>::max() / extent) {
      return Refuse(index, "it has more elements than 64 bits can count");
    }
    count *= extent;
  }
  return absl::OkStatus();
}

absl::Status CheckAddress(size_t index, absl::string_view side, const void* address, DType dtype) {
  if (address == nullptr) return Refuse(index, absl::StrCat("its ", side, " is null"));
  if (reinterpret_cast<uintptr_t>(address) % SizeOf(dtype) != 0) {
    return Refuse(index, absl::StrCat("its ", side, " is not aligned to the ", SizeOf(dtype),
                                      " bytes of a ", DTypeName(dtype)));
  }
  return absl::OkStatus();
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
  for (size_t i = 0; i < boxes.size(); ++i) {
    const Box& box = boxes[i].box;
    ZC_RETURN_IF_ERROR(CheckBox(i, box));
    ZC_RETURN_IF_ERROR(CheckAddress(i, "source", boxes[i].source, source_dtype));
    ZC_RETURN_IF_ERROR(CheckAddress(i, "target", boxes[i].target, target_dtype));
    const int64_t before = batch.first_elements.back();
    const int64_t count = NumElements(box);
    if (count > std::numeric_limits<int64_t>::max() - before) {
      return Refuse(i, "with it the batch has more elements than 64 bits can count");
    }
    batch.first_elements.push_back(before + count);
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
