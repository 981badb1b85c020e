#ifndef ZEROCAST_SERVER_PLAN_SHAPE_H_
#define ZEROCAST_SERVER_PLAN_SHAPE_H_

#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/types/span.h"
#include "kernels/copy/dtype.h"

namespace zerocast {

// The number of elements of `shape`; false when a size is negative or the product overflows.
inline bool CheckedElements(absl::Span<const int64_t> shape, int64_t* num_elements) {
  *num_elements = 1;
  for (const int64_t size : shape) {
    if (size < 0 || __builtin_mul_overflow(*num_elements, size, num_elements)) return false;
  }
  return true;
}

// No tensor and no arena has this many bytes.  So far from 64 bits that partitions of any world
// (ranks are numbered by 32 bits), their ends and sums of a few of them need no further check.
inline constexpr int64_t kTooManyBytes = int64_t{1} << 61;

// The same in bytes; false also for no dtype and for kTooManyBytes or more.
inline bool CheckedBytes(absl::Span<const int64_t> shape, DType dtype, int64_t* num_bytes) {
  return dtype != DType::kInvalid && CheckedElements(shape, num_bytes) &&
         !__builtin_mul_overflow(*num_bytes, SizeOf(dtype), num_bytes) &&
         *num_bytes < kTooManyBytes;
}

// "(2, 3)".
inline std::string ShapeAsText(absl::Span<const int64_t> shape) {
  return absl::StrCat("(", absl::StrJoin(shape, ", "), ")");
}

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_PLAN_SHAPE_H_
