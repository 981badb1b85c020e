#include "kernels/copy/cuda/piece_list.h"

#include <limits>

#include "absl/strings/str_cat.h"

namespace zerocast {

absl::Status RefuseBox(size_t index, absl::string_view why) {
  return absl::InvalidArgumentError(
      absl::StrCat("describe box ", index, " of a batch for the copy kernel: ", why));
}

absl::Status CheckBox(size_t index, const Box& box) {
  if (box.num_dims < 0 || box.num_dims > kMaxBoxDims) {
    return RefuseBox(index, absl::StrCat("it has ", box.num_dims, " loops, and 0 to ", kMaxBoxDims,
                                         " are possible"));
  }
  int64_t count = 1;
  for (int k = 0; k < box.num_dims; ++k) {
    const int64_t extent = box.dims[k].extent;
    if (extent < 1) return RefuseBox(index, absl::StrCat("loop ", k, " has extent ", extent));
    if (count > std::numeric_limits<int64_t>::max() / extent) {
      return RefuseBox(index, "it has more elements than 64 bits can count");
    }
    count *= extent;
  }
  return absl::OkStatus();
}

absl::Status CheckAddress(size_t index, absl::string_view side, const void* address, DType dtype) {
  if (address == nullptr) return RefuseBox(index, absl::StrCat("its ", side, " is null"));
  if (reinterpret_cast<uintptr_t>(address) % SizeOf(dtype) != 0) {
    return RefuseBox(index, absl::StrCat("its ", side, " is not aligned to the ", SizeOf(dtype),
                                         " bytes of a ", DTypeName(dtype)));
  }
  return absl::OkStatus();
}

absl::Status AppendElements(size_t index, const Box& box, std::vector<int64_t>* first_elements) {
  if (first_elements->empty()) first_elements->push_back(0);
  const int64_t before = first_elements->back();
  const int64_t count = NumElements(box);
  if (count > std::numeric_limits<int64_t>::max() - before) {
    return RefuseBox(index, "with it the batch has more elements than 64 bits can count");
  }
  first_elements->push_back(before + count);
  return absl::OkStatus();
}

void SetLoops(const Box& box, CopyPiece* piece) {
  piece->num_dims = box.num_dims;
  for (int k = 0; k < box.num_dims; ++k) {
    const BoxDim& dim = box.dims[k];
    piece->dims[k] = {dim.extent, dim.source_stride, dim.target_stride, Divider()};
  }
}

}  // namespace zerocast
