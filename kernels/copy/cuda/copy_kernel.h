#ifndef ZEROCAST_KERNELS_COPY_CUDA_COPY_KERNEL_H_
#define ZEROCAST_KERNELS_COPY_CUDA_COPY_KERNEL_H_

// The border between the .cu file and the rest: plain types only, so that nvcc reads nothing else.
// Internal to kernels/copy/cuda; launch.h is for use.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/copy/cuda/copy_piece.h"
#include "kernels/copy/dtype.h"

namespace zerocast {

// Launches the kernel for a pair of types that CanCast allows; the other arguments as in launch.h.
// cudaErrorInvalidValue for any other pair.
cudaError_t LaunchCopyKernel(const CopyPiece* pieces, const int64_t* first_elements,
                             int64_t num_pieces, int64_t num_elements, DType source_dtype,
                             DType target_dtype, cudaStream_t stream);

// The same for pieces of quantised sources and a type that CanDecodeTo allows.
cudaError_t LaunchDecodeKernel(const DecodePiece* pieces, const int64_t* first_elements,
                               int64_t num_pieces, int64_t num_elements, DType target_dtype,
                               cudaStream_t stream);

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_COPY_CUDA_COPY_KERNEL_H_
