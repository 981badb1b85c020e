#include <algorithm>

#include "kernels/copy/cuda/copy_kernel.h"
#include "kernels/copy/cuda/copy_segment.h"

namespace zerocast {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;

// Warps take segments in turns, neighbours side by side.
template <typename Cast>
__global__ void __launch_bounds__(kThreads, 2)
    CopyKernel(const CopyPiece* pieces, const int64_t* first_elements, int64_t num_pieces,
               int64_t num_segments) {
  const int lane = threadIdx.x % kWarpSize;
  const int64_t warp = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarpSize;
  const int64_t num_warps = static_cast<int64_t>(gridDim.x) * kWarps;
  for (int64_t segment = warp; segment < num_segments; segment += num_warps) {
    CopyBatchSegment<Cast>(pieces, first_elements, num_pieces, segment, lane);
  }
}

struct Launch {
  const CopyPiece* pieces;
  const int64_t* first_elements;
  int64_t num_pieces;
  int64_t num_elements;
  cudaStream_t stream;
};

template <DType kFrom, DType kTo>
cudaError_t Run(const Launch& launch) {
  using Cast = ElementCast<kFrom, kTo>;
  int device = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  int num_processors = 0;
  error = cudaDeviceGetAttribute(&num_processors, cudaDevAttrMultiProcessorCount, device);
  if (error != cudaSuccess) return error;
  int blocks_at_once = 0;  // on one multiprocessor
  error =
      cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks_at_once, CopyKernel<Cast>, kThreads, 0);
  if (error != cudaSuccess) return error;

  const int64_t num_segments = (launch.num_elements - 1) / kSegmentElements<Cast> + 1;
  const int64_t blocks_of_work = (num_segments - 1) / kWarps + 1;
  const int64_t most_blocks = std::max<int64_t>(1, int64_t{num_processors} * blocks_at_once);
  const auto num_blocks = static_cast<unsigned>(std::min(blocks_of_work, most_blocks));
  CopyKernel<Cast><<<num_blocks, kThreads, 0, launch.stream>>>(launch.pieces, launch.first_elements,
                                                               launch.num_pieces, num_segments);
  return cudaGetLastError();
}

template <DType kFrom, DType kTo>
cudaError_t RunCast(const Launch& launch) {
  if constexpr (kFrom == kTo) {
    return cudaErrorInvalidValue;  // RunBits has it
  } else {
    return Run<kFrom, kTo>(launch);
  }
}

template <DType kFrom>
cudaError_t RunCastTo(DType to, const Launch& launch) {
  switch (to) {
    case DType::kFloat8E4M3:
      return RunCast<kFrom, DType::kFloat8E4M3>(launch);
    case DType::kFloat8E5M2:
      return RunCast<kFrom, DType::kFloat8E5M2>(launch);
    case DType::kFloat16:
      return RunCast<kFrom, DType::kFloat16>(launch);
    case DType::kBFloat16:
      return RunCast<kFrom, DType::kBFloat16>(launch);
    case DType::kFloat32:
      return RunCast<kFrom, DType::kFloat32>(launch);
    case DType::kFloat64:
      return RunCast<kFrom, DType::kFloat64>(launch);
    default:
      return cudaErrorInvalidValue;
  }
}

// Equal types are bits of a size: one kernel a size.
cudaError_t RunBits(int64_t size, const Launch& launch) {
  switch (size) {
    case 1:
      return Run<DType::kUInt8, DType::kUInt8>(launch);
    case 2:
      return Run<DType::kUInt16, DType::kUInt16>(launch);
    case 4:
      return Run<DType::kUInt32, DType::kUInt32>(launch);
    case 8:
      return Run<DType::kUInt64, DType::kUInt64>(launch);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace

cudaError_t LaunchCopyKernel(const CopyPiece* pieces, const int64_t* first_elements,
                             int64_t num_pieces, int64_t num_elements, DType source_dtype,
                             DType target_dtype, cudaStream_t stream) {
  const Launch launch = {pieces, first_elements, num_pieces, num_elements, stream};
  if (source_dtype == target_dtype) return RunBits(SizeOf(source_dtype), launch);
  switch (source_dtype) {
    case DType::kBool:
      return RunCastTo<DType::kBool>(target_dtype, launch);
    case DType::kUInt8:
      return RunCastTo<DType::kUInt8>(target_dtype, launch);
    case DType::kInt8:
      return RunCastTo<DType::kInt8>(target_dtype, launch);
    case DType::kUInt16:
      return RunCastTo<DType::kUInt16>(target_dtype, launch);
    case DType::kInt16:
      return RunCastTo<DType::kInt16>(target_dtype, launch);
    case DType::kUInt32:
      return RunCastTo<DType::kUInt32>(target_dtype, launch);
    case DType::kInt32:
      return RunCastTo<DType::kInt32>(target_dtype, launch);
    case DType::kUInt64:
      return RunCastTo<DType::kUInt64>(target_dtype, launch);
    case DType::kInt64:
      return RunCastTo<DType::kInt64>(target_dtype, launch);
    case DType::kFloat8E4M3:
      return RunCastTo<DType::kFloat8E4M3>(target_dtype, launch);
    case DType::kFloat8E5M2:
      return RunCastTo<DType::kFloat8E5M2>(target_dtype, launch);
    case DType::kFloat16:
      return RunCastTo<DType::kFloat16>(target_dtype, launch);
    case DType::kBFloat16:
      return RunCastTo<DType::kBFloat16>(target_dtype, launch);
    case DType::kFloat32:
      return RunCastTo<DType::kFloat32>(target_dtype, launch);
    case DType::kFloat64:
      return RunCastTo<DType::kFloat64>(target_dtype, launch);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace zerocast
