#include "kernels/copy/cuda/launch.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/copy/copy.h"
#include "kernels/copy/cuda/copy_kernel.h"
#include "kernels/copy/decode_box.h"
#include "kernels/device/cuda_status.h"

namespace zerocast {
namespace {

absl::Status CheckSizes(const std::string& what, int64_t num_pieces, int64_t num_firsts,
                        int64_t num_elements, cudaStream_t stream) {
  if (num_firsts != num_pieces + 1) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, ": needs ", num_pieces + 1, " first elements, was given ", num_firsts));
  }
  if (num_elements < num_pieces || (num_elements > 0 && num_pieces == 0)) {
    return absl::InvalidArgumentError(absl::StrCat(what, ": every box has at least one element"));
  }
  if (stream == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(what, ": the stream is null"));
  }
  return absl::OkStatus();
}

// `count` items at *from, which is moved behind them.
template <typename T>
absl::Span<const T> Take(size_t count, const std::byte** from) {
  const absl::Span<const T> items(reinterpret_cast<const T*>(*from), count);
  *from += count * sizeof(T);
  return items;
}

}  // namespace

absl::Status LaunchCopyBoxes(absl::Span<const CopyPiece> pieces,
                             absl::Span<const int64_t> first_elements, int64_t num_elements,
                             DType source_dtype, DType target_dtype, cudaStream_t stream) {
  const auto num_pieces = static_cast<int64_t>(pieces.size());
  const std::string what =
      absl::StrCat("launch the copy of ", num_pieces, " boxes, ", num_elements, " elements, from ",
                   DTypeName(source_dtype), " to ", DTypeName(target_dtype));
  if (!CanCast(source_dtype, target_dtype)) {
    return absl::InvalidArgumentError(absl::StrCat(what, ": there is no such cast"));
  }
  ZC_RETURN_IF_ERROR(CheckSizes(what, num_pieces, static_cast<int64_t>(first_elements.size()),
                                num_elements, stream));
  if (num_pieces == 0) return absl::OkStatus();
  return ToStatus(
      LaunchCopyKernel({pieces.data(), first_elements.data(), num_pieces, num_elements, stream},
                       source_dtype, target_dtype),
      what);
}

absl::Status LaunchDecodeBoxes(absl::Span<const DecodePiece> pieces,
                               absl::Span<const int64_t> first_elements, int64_t num_elements,
                               DType target_dtype, cudaStream_t stream) {
  const auto num_pieces = static_cast<int64_t>(pieces.size());
  const std::string what = absl::StrCat("launch the decoding of ", num_pieces, " boxes, ",
                                        num_elements, " elements, to ", DTypeName(target_dtype));
  if (!CanDecodeTo(target_dtype)) {
    return absl::InvalidArgumentError(absl::StrCat(what, ": nothing is decoded to that type"));
  }
  ZC_RETURN_IF_ERROR(CheckSizes(what, num_pieces, static_cast<int64_t>(first_elements.size()),
                                num_elements, stream));
  if (num_pieces == 0) return absl::OkStatus();
  return ToStatus(
      LaunchDecodeKernel({pieces.data(), first_elements.data(), num_pieces, num_elements, stream},
                         target_dtype),
      what);
}

absl::Status LaunchMixedBatch(const MixedBatch& batch, const std::byte* descriptors,
                              cudaStream_t stream) {
  if (batch.num_launches() == 0) return absl::OkStatus();
  if (descriptors == nullptr || reinterpret_cast<uintptr_t>(descriptors) % 8 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("launch a batch of ", batch.num_launches(),
                     " groups of boxes: its descriptors are null or not aligned to 8 bytes"));
  }
  for (const CopyBatch& copy : batch.copies()) {
    const auto pieces = Take<CopyPiece>(copy.pieces.size(), &descriptors);
    const auto firsts = Take<int64_t>(copy.first_elements.size(), &descriptors);
    ZC_RETURN_IF_ERROR(LaunchCopyBoxes(pieces, firsts, copy.num_elements(), copy.source_dtype,
                                       copy.target_dtype, stream));
  }
  for (const DecodeBatch& decode : batch.decodes()) {
    const auto pieces = Take<DecodePiece>(decode.pieces.size(), &descriptors);
    const auto firsts = Take<int64_t>(decode.first_elements.size(), &descriptors);
    ZC_RETURN_IF_ERROR(
        LaunchDecodeBoxes(pieces, firsts, decode.num_elements(), decode.target_dtype, stream));
  }
  return absl::OkStatus();
}

}  // namespace zerocast
