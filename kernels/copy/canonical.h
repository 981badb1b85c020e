#ifndef ZEROCAST_KERNELS_COPY_CANONICAL_H_
#define ZEROCAST_KERNELS_COPY_CANONICAL_H_

// The canonical form of a box's loops.  Internal to kernels/copy.

#include "kernels/copy/box.h"

namespace zerocast {

// Merges neighbouring loops that are one loop on both sides and drops those of extent 1.  `dims`
// are nested and sorted by target_stride from largest to smallest, and stay so.
inline void MergeLoops(BoxDim* dims, int* num_dims) {
  int kept = 0;
  for (int k = 0; k < *num_dims; ++k) {
    const BoxDim& dim = dims[k];
    if (dim.extent == 1) continue;
    if (kept > 0 && dims[kept - 1].target_stride == dim.extent * dim.target_stride &&
        dims[kept - 1].source_stride == dim.extent * dim.source_stride) {
      dims[kept - 1] = {dims[kept - 1].extent * dim.extent, dim.source_stride, dim.target_stride};
    } else {
      dims[kept++] = dim;
    }
  }
  *num_dims = kept;
}

enum class Canonical { kOk, kNotNested, kTooManyLoops, kOverflow };

// The largest number of loops that MakeCanonical takes.
inline constexpr int kMaxLoops = 32;

// Fills box->dims from `num_dims` <= kMaxLoops loops in any order.  `dims` is scratch afterwards.
// Anything but kOk leaves `box` unspecified.
Canonical MakeCanonical(BoxDim* dims, int num_dims, Box* box);

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_COPY_CANONICAL_H_
