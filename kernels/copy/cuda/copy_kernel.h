#ifndef ZEROCAST_KERNELS_COPY_CUDA_COPY_KERNEL_H_
#define ZEROCAST_KERNELS_COPY_CUDA_COPY_KERNEL_H_

// The border between the .cu files and the rest: plain types only, so that nvcc reads nothing else.
// Internal to kernels/copy/cuda; launch.h is for use.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/copy/cuda/copy_piece.h"
#include "kernels/copy/dtype.h"

namespace zerocast {

// The arguments of a launch: arrays in the device's memory, as launch.h has them.
template <typename Piece>
struct KernelBatch {
  const Piece* pieces;
  const int64_t* first_elements;
  int64_t num_pieces;
  int64_t num_elements;
  cudaStream_t stream;
};

// Launches the kernel for a pair of types that CanCast allows; cudaErrorInvalidValue for any other
// pair.
cudaError_t LaunchCopyKernel(const KernelBatch<CopyPiece>& batch, DType source_dtype,
                             DType target_dtype);

// Its parts: bits of any one type, casts of floating types and casts of integers.
cudaError_t LaunchBitsKernel(const KernelBatch<CopyPiece>& batch, int64_t element_bytes);
cudaError_t LaunchFloatKernel(const KernelBatch<CopyPiece>& batch, DType source_dtype,
                              DType target_dtype);
cudaError_t LaunchIntegerKernel(const KernelBatch<CopyPiece>& batch, DType source_dtype,
                                DType target_dtype);

// The same for pieces of quantised sources and a type that CanDecodeTo allows.
cudaError_t LaunchDecodeKernel(const KernelBatch<DecodePiece>& batch, DType target_dtype);

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_COPY_CUDA_COPY_KERNEL_H_
