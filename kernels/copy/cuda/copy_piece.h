#ifndef ZEROCAST_KERNELS_COPY_CUDA_COPY_PIECE_H_
#define ZEROCAST_KERNELS_COPY_CUDA_COPY_PIECE_H_

// What the copy kernel reads from device memory.  Plain data: CUDA sources include this header.

#include <cstdint>

#include "kernels/copy/box.h"
#include "kernels/copy/decode.h"

namespace zerocast {

// A box with its addresses: its first element lies at `source` and goes to `target`.  dims as in
// Box, strides in elements.
struct CopyPiece {
  const void* source;
  void* target;
  int64_t num_dims;
  BoxDim dims[kMaxBoxDims];
};

// A box that reads a quantised source: piece.source is null, and places of the source count logical
// elements from `first_element` on.  The rest as in EncodedSource.
struct DecodePiece {
  CopyPiece piece;
  int64_t first_element;
  const char* stored;
  int64_t stored_first;
  const char* scales;
  int64_t scales_first;
  Decoder decoder;
};

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_COPY_CUDA_COPY_PIECE_H_
