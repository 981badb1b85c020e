#ifndef ZEROCAST_KERNELS_COPY_CUDA_COPY_PIECE_H_
#define ZEROCAST_KERNELS_COPY_CUDA_COPY_PIECE_H_

// What the copy kernel reads from device memory.  Plain data: CUDA sources include this header.

#include <cstdint>

#include "kernels/copy/box.h"

namespace zerocast {

// A box with its addresses: its first element lies at `source` and goes to `target`.  dims as in
// Box, strides in elements.
struct CopyPiece {
  const void* source;
  void* target;
  int64_t num_dims;
  BoxDim dims[kMaxBoxDims];
};

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_COPY_CUDA_COPY_PIECE_H_
