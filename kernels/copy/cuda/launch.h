#ifndef ZEROCAST_KERNELS_COPY_CUDA_LAUNCH_H_
#define ZEROCAST_KERNELS_COPY_CUDA_LAUNCH_H_

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/copy/cuda/copy_piece.h"
#include "kernels/copy/cuda/mixed_batch.h"
#include "kernels/copy/dtype.h"

namespace zerocast {

// Gives `stream`, a stream of the calling thread's current device, one kernel that executes all
// boxes of a CopyBatch, bit for bit as CopyBoxReference would, and returns without waiting for it.
// `pieces` and `first_elements` (one more than pieces) are the batch's arrays in memory that the
// device reads; num_elements is the batch's, since the last of `first_elements` is not read here.
// All memory stays with the caller, until the kernel has ended.  A batch without pieces launches
// nothing.
//
//   INVALID_ARGUMENT     sizes that do not fit each other, a cast that CanCast refuses, a null
//                        stream (the default stream is never used)
//   others as ToStatus   of the launch or of work before it on the device
absl::Status LaunchCopyBoxes(absl::Span<const CopyPiece> pieces,
                             absl::Span<const int64_t> first_elements, int64_t num_elements,
                             DType source_dtype, DType target_dtype, cudaStream_t stream);

// The same for all boxes of a DecodeBatch, bit for bit as DecodeBoxReference would.
//
//   INVALID_ARGUMENT     sizes that do not fit each other, a target that CanDecodeTo refuses, a
//   null
//                        stream
//   others as ToStatus   of the launch or of work before it on the device
absl::Status LaunchDecodeBoxes(absl::Span<const DecodePiece> pieces,
                               absl::Span<const int64_t> first_elements, int64_t num_elements,
                               DType target_dtype, cudaStream_t stream);

// The same for all boxes of a MixedBatch, a kernel for each of its groups; a batch without boxes
// launches nothing.  `descriptors` is where, in the device's memory, the bytes lie that
// WriteDescriptors wrote; they stay until the kernels have ended, `batch` need not.  After an error
// kernels of groups before it may run.
//
//   INVALID_ARGUMENT     a null stream; descriptors that are null or not aligned to 8
//   others as ToStatus   of a launch or of work before it on the device
absl::Status LaunchMixedBatch(const MixedBatch& batch, const std::byte* descriptors,
                              cudaStream_t stream);

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_COPY_CUDA_LAUNCH_H_
