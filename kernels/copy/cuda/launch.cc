#include "kernels/copy/cuda/launch.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/copy/copy.h"
#include "kernels/copy/cuda/copy_kernel.h"
#include "kernels/device/cuda_status.h"

namespace zerocast {

absl::Status LaunchCopyBoxes(absl::Span<const CopyPiece> pieces,
                             absl::Span<const int64_t> first_elements, int64_t num_elements,
                             DType source_dtype, DType target_dtype, cudaStream_t stream) {
  const auto num_pieces = static_cast<int64_t>(pieces.size());
  const std::string what =
      absl::StrCat("launch the copy of ", num_pieces, " boxes, ", num_elements, " elements, from ",
                   DTypeName(source_dtype), " to ", DTypeName(target_dtype));
  if (static_cast<int64_t>(first_elements.size()) != num_pieces + 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        what, ": needs ", num_pieces + 1, " first elements, was given ", first_elements.size()));
  }
  if (num_elements < num_pieces || (num_elements > 0 && num_pieces == 0)) {
    return absl::InvalidArgumentError(absl::StrCat(what, ": every box has at least one element"));
  }
  if (!CanCast(source_dtype, target_dtype)) {
    return absl::InvalidArgumentError(absl::StrCat(what, ": there is no such cast"));
  }
  if (stream == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(what, ": the stream is null"));
  }
  if (num_pieces == 0) return absl::OkStatus();
  return ToStatus(LaunchCopyKernel(pieces.data(), first_elements.data(), num_pieces, num_elements,
                                   source_dtype, target_dtype, stream),
                  what);
}

}  // namespace zerocast
