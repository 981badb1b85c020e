#include "server/conversion/promote.h"

#include <algorithm>

namespace zerocast {
namespace {

bool IsUnsigned(DType dtype) {
  return dtype == DType::kUInt8 || dtype == DType::kUInt16 || dtype == DType::kUInt32 ||
         dtype == DType::kUInt64;
}

DType SignedOfSize(int64_t size) {
  return size <= 1   ? DType::kInt8
         : size <= 2 ? DType::kInt16
         : size <= 4 ? DType::kInt32
                     : DType::kInt64;
}

}  // namespace

DType PromoteDTypes(DType a, DType b) {
  if (a == b || b == DType::kInvalid) return a;
  if (a == DType::kInvalid) return b;
  if (IsFloating(a) != IsFloating(b)) return IsFloating(a) ? a : b;
  const int64_t size_a = SizeOf(a), size_b = SizeOf(b);
  if (IsFloating(a)) {
    if (size_a == size_b) return DType::kFloat32;  // float16 with bfloat16, or two 8-bit ones
    return size_a > size_b ? a : b;
  }
  if (a == DType::kBool || b == DType::kBool) return a == DType::kBool ? b : a;
  if (IsUnsigned(a) == IsUnsigned(b)) return size_a > size_b ? a : b;
  const int64_t size_unsigned = IsUnsigned(a) ? size_a : size_b;
  const int64_t size_signed = IsUnsigned(a) ? size_b : size_a;
  return SignedOfSize(std::max(size_signed, 2 * size_unsigned));
}

}  // namespace zerocast
