#include "kernels/copy/cuda/kernels.cuh"

namespace zerocast {

cudaError_t LaunchIntegerKernel(const KernelBatch<CopyPiece>& batch, DType source_dtype,
                                DType target_dtype) {
  switch (source_dtype) {
    case DType::kBool:
      return LaunchCastTo<DType::kBool>(target_dtype, batch);
    case DType::kUInt8:
      return LaunchCastTo<DType::kUInt8>(target_dtype, batch);
    case DType::kInt8:
      return LaunchCastTo<DType::kInt8>(target_dtype, batch);
    case DType::kUInt16:
      return LaunchCastTo<DType::kUInt16>(target_dtype, batch);
    case DType::kInt16:
      return LaunchCastTo<DType::kInt16>(target_dtype, batch);
    case DType::kUInt32:
      return LaunchCastTo<DType::kUInt32>(target_dtype, batch);
    case DType::kInt32:
      return LaunchCastTo<DType::kInt32>(target_dtype, batch);
    case DType::kUInt64:
      return LaunchCastTo<DType::kUInt64>(target_dtype, batch);
    case DType::kInt64:
      return LaunchCastTo<DType::kInt64>(target_dtype, batch);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace zerocast
