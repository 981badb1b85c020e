#ifndef ZEROCAST_KERNELS_COPY_BOX_H_
#define ZEROCAST_KERNELS_COPY_BOX_H_

// The one shape of work that moves weights.  Plain data: CUDA sources include this header.

#include <cstdint>

namespace zerocast {

inline constexpr int kMaxBoxDims = 6;

// One loop of a box: `extent` steps, each moving source_stride elements in the source and
// target_stride elements in the target.
struct BoxDim {
  int64_t extent = 1;
  int64_t source_stride = 0;
  int64_t target_stride = 0;

  friend bool operator==(const BoxDim& a, const BoxDim& b) {
    return a.extent == b.extent && a.source_stride == b.source_stride &&
           a.target_stride == b.target_stride;
  }
};

// A strided copy: element source_offset + sum(i_k * source_stride_k) of source number `source` goes
// to element target_offset + sum(i_k * target_stride_k) of the target, for all 0 <= i_k < extent_k.
// Offsets and strides count elements, never bytes.
//
// Canonical form, in which every function of algebra.h returns boxes: dims sorted by target_stride
// from largest to smallest, no dim of extent 1, no two dims that could be one (that is, no k with
// stride_k == extent_{k+1} * stride_{k+1} on both sides); a box of one element has num_dims 0.
// Strides are positive.  The target side is nested: target_stride_k >= extent_{k+1} *
// target_stride_{k+1}, so no element of the target is written twice; the source side is nested
// likewise in its own order of strides.
struct Box {
  int32_t source = 0;
  int32_t num_dims = 0;
  int64_t source_offset = 0;
  int64_t target_offset = 0;
  BoxDim dims[kMaxBoxDims];
};

inline bool operator==(const Box& a, const Box& b) {
  if (a.source != b.source || a.num_dims != b.num_dims || a.source_offset != b.source_offset ||
      a.target_offset != b.target_offset) {
    return false;
  }
  for (int k = 0; k < a.num_dims; ++k) {
    if (!(a.dims[k] == b.dims[k])) return false;
  }
  return true;
}

// Elements that `box` copies.
inline int64_t NumElements(const Box& box) {
  int64_t count = 1;
  for (int k = 0; k < box.num_dims; ++k) count *= box.dims[k].extent;
  return count;
}

// The last element of the target that `box` writes, plus one.
inline int64_t TargetEnd(const Box& box) {
  int64_t end = box.target_offset + 1;
  for (int k = 0; k < box.num_dims; ++k)
    end += (box.dims[k].extent - 1) * box.dims[k].target_stride;
  return end;
}

// The last element of the source that `box` reads, plus one.
inline int64_t SourceEnd(const Box& box) {
  int64_t end = box.source_offset + 1;
  for (int k = 0; k < box.num_dims; ++k)
    end += (box.dims[k].extent - 1) * box.dims[k].source_stride;
  return end;
}

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_COPY_BOX_H_
