#include "kernels/copy/cuda/piece_list.h"

#include <limits>

#include "absl/strings/str_cat.h"

namespace zerocast {
namespace {

// More than any device's memory has, few enough to be cut into parts.
constexpr int64_t kMostBoxElements = int64_t{1} << 44;

void AddSmallParts(const Box& box, std::vector<Box>* parts) {
  if (NumElements(box) <= kMostPieceElements) {
    parts->push_back(box);
    return;
  }
  Box first = box, rest = box;
  const BoxDim& outer = box.dims[0];
  if (outer.extent == 1) {  // nothing is left of it to cut
    for (int k = 1; k < box.num_dims; ++k) first.dims[k - 1] = box.dims[k];
    --first.num_dims;
    AddSmallParts(first, parts);
    return;
  }
  const int64_t half = outer.extent / 2;
  first.dims[0].extent = half;
  rest.dims[0].extent -= half;
  rest.source_offset += half * outer.source_stride;
  rest.target_offset += half * outer.target_stride;
  AddSmallParts(first, parts);
  AddSmallParts(rest, parts);
}

}  // namespace

std::vector<Box> SmallParts(const Box& box) {
  std::vector<Box> parts;
  AddSmallParts(box, &parts);
  return parts;
}

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
    if (extent > kMostBoxElements / count) {
      return RefuseBox(index, absl::StrCat("it has more elements than a device can hold: at most ",
                                           kMostBoxElements, " are possible"));
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
