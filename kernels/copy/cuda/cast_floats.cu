#include "kernels/copy/cuda/kernels.cuh"

namespace zerocast {

cudaError_t LaunchFloatKernel(const KernelBatch<CopyPiece>& batch, DType source_dtype,
                              DType target_dtype) {
  switch (source_dtype) {
    case DType::kFloat8E4M3:
      return LaunchCastTo<DType::kFloat8E4M3>(target_dtype, batch);
    case DType::kFloat8E5M2:
      return LaunchCastTo<DType::kFloat8E5M2>(target_dtype, batch);
    case DType::kFloat16:
      return LaunchCastTo<DType::kFloat16>(target_dtype, batch);
    case DType::kBFloat16:
      return LaunchCastTo<DType::kBFloat16>(target_dtype, batch);
    case DType::kFloat32:
      return LaunchCastTo<DType::kFloat32>(target_dtype, batch);
    case DType::kFloat64:
      return LaunchCastTo<DType::kFloat64>(target_dtype, batch);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace zerocast
