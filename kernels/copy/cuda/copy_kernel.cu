#include "kernels/copy/cuda/kernels.cuh"

namespace zerocast {

// Equal types are bits of a size: one kernel a size.
cudaError_t LaunchBitsKernel(const KernelBatch<CopyPiece>& batch, int64_t element_bytes) {
  switch (element_bytes) {
    case 1:
      return Launch<DType::kUInt8, DType::kUInt8>(batch);
    case 2:
      return Launch<DType::kUInt16, DType::kUInt16>(batch);
    case 4:
      return Launch<DType::kUInt32, DType::kUInt32>(batch);
    case 8:
      return Launch<DType::kUInt64, DType::kUInt64>(batch);
    default:
      return cudaErrorInvalidValue;
  }
}

cudaError_t LaunchCopyKernel(const KernelBatch<CopyPiece>& batch, DType source_dtype,
                             DType target_dtype) {
  if (source_dtype == target_dtype) return LaunchBitsKernel(batch, SizeOf(source_dtype));
  if (IsInteger(source_dtype)) return LaunchIntegerKernel(batch, source_dtype, target_dtype);
  return LaunchFloatKernel(batch, source_dtype, target_dtype);
}

}  // namespace zerocast
