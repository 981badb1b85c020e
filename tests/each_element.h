#ifndef ZEROCAST_TESTS_EACH_ELEMENT_H_
#define ZEROCAST_TESTS_EACH_ELEMENT_H_

#include <cstdint>

#include "kernels/copy/box.h"

namespace zerocast {

// Calls visit(from, to) for every element of a box, in row-major order: what a box means, by the
// book and not by the product's loops.
template <typename Visit>
void ForEachElement(const Box& box, const Visit& visit) {
  int64_t index[kMaxBoxDims] = {};
  for (int64_t i = NumElements(box); i > 0; --i) {
    int64_t from = box.source_offset, to = box.target_offset;
    for (int k = 0; k < box.num_dims; ++k) {
      from += index[k] * box.dims[k].source_stride;
      to += index[k] * box.dims[k].target_stride;
    }
    visit(from, to);
    for (int k = box.num_dims - 1; k >= 0 && ++index[k] == box.dims[k].extent; --k) index[k] = 0;
  }
}

}  // namespace zerocast

#endif  // ZEROCAST_TESTS_EACH_ELEMENT_H_
