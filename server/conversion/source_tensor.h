#ifndef ZEROCAST_SERVER_CONVERSION_SOURCE_TENSOR_H_
#define ZEROCAST_SERVER_CONVERSION_SOURCE_TENSOR_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "kernels/copy/dtype.h"

namespace zerocast {

// A tensor of the checkpoint as conversion sees it.
struct SourceTensor {
  std::string name;
  DType dtype = DType::kInvalid;
  std::vector<int64_t> shape;
  // How many elements of the file lie between neighbours along each axis, one number an axis (that
  // of an axis of size 1 says nothing).  Empty: in row-major order without gaps, as safetensors
  // have it and as every tensor of no elements is.
  std::vector<int64_t> strides = {};
};

// How many elements of the file a tensor reaches over, from its first to the end of its last, those
// of gaps too.  False where shape and strides are none of a tensor: negative numbers, not as many
// strides as axes, a reach beyond 64 bits, a tensor of no elements that has strides, or strides
// that do not nest (each at least the size times the stride of the next smaller one), with which an
// element might be there twice.
inline bool CheckedReach(absl::Span<const int64_t> shape, absl::Span<const int64_t> strides,
                         int64_t* num_elements) {
  *num_elements = 1;
  if (strides.empty()) {
    for (const int64_t size : shape) {
      if (size < 0 || __builtin_mul_overflow(*num_elements, size, num_elements)) return false;
    }
    return true;
  }
  if (strides.size() != shape.size()) return false;
  std::vector<std::pair<int64_t, int64_t>> loops;  // stride, size
  for (size_t k = 0; k < shape.size(); ++k) {
    if (shape[k] < 1 || strides[k] < 0) return false;
    if (shape[k] > 1) loops.emplace_back(strides[k], shape[k]);
  }
  std::sort(loops.begin(), loops.end());
  int64_t least = 1;  // that the next stride may be
  for (const auto& [stride, size] : loops) {
    int64_t reach = 0;
    if (stride < least || __builtin_mul_overflow(stride, size, &least) ||
        __builtin_mul_overflow(stride, size - 1, &reach) ||
        __builtin_add_overflow(*num_elements, reach, num_elements)) {
      return false;
    }
  }
  return true;
}

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_CONVERSION_SOURCE_TENSOR_H_
