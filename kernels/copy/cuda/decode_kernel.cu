#include <algorithm>

#include "kernels/copy/cuda/copy_kernel.h"
#include "kernels/copy/cuda/copy_segment.h"
#include "kernels/copy/cuda/decode_segment.h"

namespace zerocast {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;

// Warps take segments in turns, neighbours side by side.
template <DType kTo>
__global__ void __launch_bounds__(kThreads, 2)
    DecodeKernel(const DecodePiece* pieces, const int64_t* first_elements, int64_t num_pieces,
                 int64_t num_segments) {
  const int lane = threadIdx.x % kWarpSize;
  const int64_t warp = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarpSize;
  const int64_t num_warps = static_cast<int64_t>(gridDim.x) * kWarps;
  for (int64_t segment = warp; segment < num_segments; segment += num_warps) {
    DecodeBatchSegment<kTo>(pieces, first_elements, num_pieces, segment, lane);
  }
}

struct Launch {
  const DecodePiece* pieces;
  const int64_t* first_elements;
  int64_t num_pieces;
  int64_t num_elements;
  cudaStream_t stream;
};

template <DType kTo>
cudaError_t Run(const Launch& launch) {
  int device = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  int num_processors = 0;
  error = cudaDeviceGetAttribute(&num_processors, cudaDevAttrMultiProcessorCount, device);
  if (error != cudaSuccess) return error;
  int blocks_at_once = 0;  // on one multiprocessor
  error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks_at_once, DecodeKernel<kTo>,
                                                        kThreads, 0);
  if (error != cudaSuccess) return error;

  const int64_t num_segments = (launch.num_elements - 1) / kDecodeSegmentElements<kTo> + 1;
  const int64_t blocks_of_work = (num_segments - 1) / kWarps + 1;
  const int64_t most_blocks = std::max<int64_t>(1, int64_t{num_processors} * blocks_at_once);
  const auto num_blocks = static_cast<unsigned>(std::min(blocks_of_work, most_blocks));
  DecodeKernel<kTo><<<num_blocks, kThreads, 0, launch.stream>>>(
      launch.pieces, launch.first_elements, launch.num_pieces, num_segments);
  return cudaGetLastError();
}

}  // namespace

cudaError_t LaunchDecodeKernel(const DecodePiece* pieces, const int64_t* first_elements,
                               int64_t num_pieces, int64_t num_elements, DType target_dtype,
                               cudaStream_t stream) {
  const Launch launch = {pieces, first_elements, num_pieces, num_elements, stream};
  switch (target_dtype) {
    case DType::kFloat8E4M3:
      return Run<DType::kFloat8E4M3>(launch);
    case DType::kFloat8E5M2:
      return Run<DType::kFloat8E5M2>(launch);
    case DType::kFloat16:
      return Run<DType::kFloat16>(launch);
    case DType::kBFloat16:
      return Run<DType::kBFloat16>(launch);
    case DType::kFloat32:
      return Run<DType::kFloat32>(launch);
    case DType::kFloat64:
      return Run<DType::kFloat64>(launch);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace zerocast
