#ifndef ZEROCAST_KERNELS_COPY_CUDA_KERNELS_CUH_
#define ZEROCAST_KERNELS_COPY_CUDA_KERNELS_CUH_

// The kernels and their launch.  Internal to kernels/copy/cuda.

#include "kernels/copy/cuda/copy_kernel.h"
#include "kernels/copy/cuda/grid.h"
#include "kernels/copy/cuda/segment.h"

namespace zerocast {

// Calls move(begin, end, the warp's shared memory, the warp) for segments in turns, neighbours side
// by side.
template <int kMemoryBytes, typename Move>
__device__ inline void ForEachSegment(int64_t num_elements, int64_t segment_elements,
                                      const Move& move) {
  __shared__ alignas(kVectorBytes) char memory[kBlockWarps][kMemoryBytes];
  const int warp_of_block = threadIdx.x / kWarpSize;
  const Warp warp(threadIdx.x % kWarpSize);
  int64_t begin =
      (static_cast<int64_t>(blockIdx.x) * kBlockWarps + warp_of_block) * segment_elements;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kBlockWarps * segment_elements;
  for (; begin < num_elements; begin += step) {
    move(begin, begin + segment_elements, memory[warp_of_block], warp);
  }
}

template <DType kFrom, DType kTo>
__global__ void __launch_bounds__(kBlockThreads, 4)
    CopyKernel(const CopyPiece* __restrict__ pieces, const int64_t* __restrict__ first_elements,
               int64_t num_pieces, int64_t num_elements, int64_t segment_elements) {
  const BatchView<CopyPiece> batch = {pieces, first_elements, num_pieces, num_elements};
  ForEachSegment<WarpMemory<PlainSource<kFrom, kTo>>::kNumBytes>(
      num_elements, segment_elements,
      [&](int64_t begin, int64_t end, char* memory, const Warp& warp) {
        MoveSegment<kFrom, kTo>(batch, begin, end, memory, warp);
      });
}

template <DType kTo>
__global__ void __launch_bounds__(kBlockThreads, 4)
    DecodeKernel(const DecodePiece* __restrict__ pieces, const int64_t* __restrict__ first_elements,
                 int64_t num_pieces, int64_t num_elements, int64_t segment_elements) {
  const BatchView<DecodePiece> batch = {pieces, first_elements, num_pieces, num_elements};
  ForEachSegment<WarpMemory<DecodeSource<kTo, 1>>::kNumBytes>(
      num_elements, segment_elements,
      [&](int64_t begin, int64_t end, char* memory, const Warp& warp) {
        DecodeSegment<kTo>(batch, begin, end, memory, warp);
      });
}

// Launches `kernel`, whose elements have `element_bytes` on the side where they have more.
template <typename Piece>
cudaError_t LaunchKernel(void (*kernel)(const Piece*, const int64_t*, int64_t, int64_t, int64_t),
                         const KernelBatch<Piece>& batch, int64_t element_bytes) {
  int device = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  int num_processors = 0;
  error = cudaDeviceGetAttribute(&num_processors, cudaDevAttrMultiProcessorCount, device);
  if (error != cudaSuccess) return error;
  int blocks_at_once = 0;  // on one multiprocessor
  error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks_at_once, kernel, kBlockThreads, 0);
  if (error != cudaSuccess) return error;
  if (blocks_at_once < 1) return cudaErrorLaunchOutOfResources;
  const Grid grid = DivideBatch(batch.num_elements, batch.num_pieces, element_bytes,
                                int64_t{num_processors} * blocks_at_once * kBlockWarps);
  kernel<<<grid.num_blocks, kBlockThreads, 0, batch.stream>>>(batch.pieces, batch.first_elements,
                                                              batch.num_pieces, batch.num_elements,
                                                              grid.segment_elements);
  return cudaGetLastError();
}

template <DType kFrom, DType kTo>
cudaError_t Launch(const KernelBatch<CopyPiece>& batch) {
  return LaunchKernel(CopyKernel<kFrom, kTo>, batch, PlainSource<kFrom, kTo>::kWiderBytes);
}

template <DType kFrom, DType kTo>
cudaError_t LaunchCast(const KernelBatch<CopyPiece>& batch) {
  if constexpr (kFrom == kTo) {
    return cudaErrorInvalidValue;  // no cast
  } else {
    return Launch<kFrom, kTo>(batch);
  }
}

template <DType kFrom>
cudaError_t LaunchCastTo(DType target_dtype, const KernelBatch<CopyPiece>& batch) {
  switch (target_dtype) {
    case DType::kFloat8E4M3:
      return LaunchCast<kFrom, DType::kFloat8E4M3>(batch);
    case DType::kFloat8E5M2:
      return LaunchCast<kFrom, DType::kFloat8E5M2>(batch);
    case DType::kFloat16:
      return LaunchCast<kFrom, DType::kFloat16>(batch);
    case DType::kBFloat16:
      return LaunchCast<kFrom, DType::kBFloat16>(batch);
    case DType::kFloat32:
      return LaunchCast<kFrom, DType::kFloat32>(batch);
    case DType::kFloat64:
      return LaunchCast<kFrom, DType::kFloat64>(batch);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_COPY_CUDA_KERNELS_CUH_
