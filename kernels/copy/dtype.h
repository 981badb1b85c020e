#ifndef ZEROCAST_KERNELS_COPY_DTYPE_H_
#define ZEROCAST_KERNELS_COPY_DTYPE_H_

// Element types of tensors.  Plain data: CUDA sources include this header.

#include <cstdint>

namespace zerocast {

enum class DType : uint8_t {
  kInvalid = 0,
  kBool = 1,
  kUInt8 = 2,
  kInt8 = 3,
  kUInt16 = 4,
  kInt16 = 5,
  kUInt32 = 6,
  kInt32 = 7,
  kUInt64 = 8,
  kInt64 = 9,
  kFloat8E4M3 = 10,  // torch.float8_e4m3fn: no infinity; NaN is 0x7f and 0xff
  kFloat8E5M2 = 11,  // torch.float8_e5m2
  kFloat16 = 12,
  kBFloat16 = 13,
  kFloat32 = 14,
  kFloat64 = 15,
  kFloat8E8M0 = 16,  // torch.float8_e8m0fnu: 2^(byte - 127), NaN is 0xff; scales only, never cast
};

// Bytes of one element; 0 for kInvalid.
constexpr int64_t SizeOf(DType dtype) {
  switch (dtype) {
    case DType::kInvalid:
      return 0;
    case DType::kBool:
    case DType::kUInt8:
    case DType::kInt8:
    case DType::kFloat8E4M3:
    case DType::kFloat8E5M2:
    case DType::kFloat8E8M0:
      return 1;
    case DType::kUInt16:
    case DType::kInt16:
    case DType::kFloat16:
    case DType::kBFloat16:
      return 2;
    case DType::kUInt32:
    case DType::kInt32:
    case DType::kFloat32:
      return 4;
    case DType::kUInt64:
    case DType::kInt64:
    case DType::kFloat64:
      return 8;
  }
  return 0;
}

// The types that cast.h casts to.
constexpr bool IsFloating(DType dtype) {
  return dtype >= DType::kFloat8E4M3 && dtype <= DType::kFloat64;
}

// The other types that cast.h casts from; a bool is 1 where its byte is not 0.
constexpr bool IsInteger(DType dtype) { return dtype >= DType::kBool && dtype <= DType::kInt64; }

constexpr bool IsSignedInteger(DType dtype) {
  return dtype == DType::kInt8 || dtype == DType::kInt16 || dtype == DType::kInt32 ||
         dtype == DType::kInt64;
}

constexpr bool IsFloat8(DType dtype) {
  return dtype == DType::kFloat8E4M3 || dtype == DType::kFloat8E5M2;
}

// torch's name without "torch.": "bfloat16", "float8_e4m3fn"; "invalid" for kInvalid.
const char* DTypeName(DType dtype);
// From torch's name; kInvalid when unknown.
DType DTypeFromName(const char* name);
// The name in a safetensors header ("BF16", "F8_E4M3"); "" for kInvalid.
const char* SafetensorsName(DType dtype);
// From a safetensors header; kInvalid when unknown.
DType DTypeFromSafetensors(const char* name);

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_COPY_DTYPE_H_
