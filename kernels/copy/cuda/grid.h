#ifndef ZEROCAST_KERNELS_COPY_CUDA_GRID_H_
#define ZEROCAST_KERNELS_COPY_CUDA_GRID_H_

// How a batch is divided among warps.  Internal to kernels/copy/cuda.

#include <cstdint>

namespace zerocast {

// Of a block.
inline constexpr int kBlockThreads = 128;
inline constexpr int kBlockWarps = kBlockThreads / 32;

// A batch's elements are cut into segments of equal size (the last one may be shorter), so that
// warps get equal work however uneven the pieces are.
struct Grid {
  unsigned num_blocks = 1;
  int64_t segment_elements = 1;
};

// Divides num_elements >= 1 of num_pieces >= 1 on a device that runs `num_warps` at a time.
// element_bytes is the size of an element on the side where it has more.
Grid DivideBatch(int64_t num_elements, int64_t num_pieces, int64_t element_bytes,
                 int64_t num_warps);

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_COPY_CUDA_GRID_H_
