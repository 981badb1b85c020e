#include "kernels/copy/cuda/kernels.cuh"

namespace zerocast {
namespace {

template <DType kTo>
cudaError_t Run(const KernelBatch<DecodePiece>& batch) {
  return LaunchKernel(DecodeKernel<kTo>, batch, SizeOf(kTo));
}

}  // namespace

cudaError_t LaunchDecodeKernel(const KernelBatch<DecodePiece>& batch, DType target_dtype) {
  switch (target_dtype) {
    case DType::kFloat8E4M3:
      return Run<DType::kFloat8E4M3>(batch);
    case DType::kFloat8E5M2:
      return Run<DType::kFloat8E5M2>(batch);
    case DType::kFloat16:
      return Run<DType::kFloat16>(batch);
    case DType::kBFloat16:
      return Run<DType::kBFloat16>(batch);
    case DType::kFloat32:
      return Run<DType::kFloat32>(batch);
    case DType::kFloat64:
      return Run<DType::kFloat64>(batch);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace zerocast
