#ifndef ZEROCAST_KERNELS_COPY_FOR_EACH_STEP_H_
#define ZEROCAST_KERNELS_COPY_FOR_EACH_STEP_H_

#include <cstdint>

#include "kernels/copy/box.h"

namespace zerocast {

// Calls visit(source, target) for every step of `loops`, the last one innermost.  A loop has
// extent, source_stride and target_stride; a place is an index, or a pointer where the strides are
// bytes.  At most kMaxBoxDims loops; none is one step.
template <typename Loop, typename Source, typename Target, typename Visit>
void ForEachStep(const Loop* loops, int num_loops, Source source, Target target,
                 const Visit& visit) {
  int64_t steps[kMaxBoxDims] = {};
  for (;;) {
    visit(source, target);
    int k = num_loops - 1;
    for (; k >= 0; --k) {
      source += loops[k].source_stride;
      target += loops[k].target_stride;
      if (++steps[k] < loops[k].extent) break;
      source -= loops[k].extent * loops[k].source_stride;
      target -= loops[k].extent * loops[k].target_stride;
      steps[k] = 0;
    }
    if (k < 0) return;
  }
}

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_COPY_FOR_EACH_STEP_H_
