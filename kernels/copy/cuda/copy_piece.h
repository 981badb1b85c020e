#ifndef ZEROCAST_KERNELS_COPY_CUDA_COPY_PIECE_H_
#define ZEROCAST_KERNELS_COPY_CUDA_COPY_PIECE_H_

// What the copy kernel reads from device memory.  Plain data: CUDA sources include this header.

#include <cstdint>

#include "kernels/copy/box.h"
#include "kernels/copy/cuda/divider.h"
#include "kernels/copy/decode.h"

namespace zerocast {

// How a warp goes through a piece.  piece_form.h chooses.
enum class PieceForm : uint8_t {
  kVectors = 0,  // by small vectors of elements, or single ones, in the order of the target
  kRuns = 1,     // along the innermost loop, contiguous on both sides
  kTiles = 2,    // by tiles of two loops, one contiguous in the source, the other in the target
};

// One loop, as in BoxDim; strides in elements.
struct PieceDim {
  int64_t extent;
  int64_t source_stride;
  int64_t target_stride;
  Divider by_extent;
};

// Of a piece.  Larger boxes are more than one, so that 32 bits hold all numbers of elements.
inline constexpr int64_t kMostPieceElements = int64_t{1} << 31;

// A box with its addresses: its first element lies at `source` and goes to `target`.  Of form
// kVectors the innermost loop steps over whole vectors.
struct CopyPiece {
  const void* source;
  void* target;
  int32_t num_dims;
  PieceForm form;
  // Elements of a vector, of form kVectors.
  uint8_t vector_elements;
  // The loop that is contiguous in the source, of form kTiles; in the target it is the last one.
  uint8_t reads_dim;
  PieceDim dims[kMaxBoxDims];
};

// A box that reads a quantised source: piece.source is null, and places of the source count logical
// elements from `first_element` on.  The rest as in EncodedSource, but that all count from the
// beginning of a matrix, so that 32 bits hold all places.
struct DecodePiece {
  int64_t first_element;
  const char* stored;
  int64_t stored_first;
  const char* scales;
  int64_t scales_first;
  Decoder decoder;
  int64_t grid_cols;  // of the decoder
  // By the decoder's numbers.
  Divider rows, cols, block_rows, block_cols;
  CopyPiece piece;
};

// Most pieces have few loops: a warp reads the others of either kind only where there are some.
inline constexpr int kFewDims = 3;
template <typename Piece>
inline constexpr int kFewDimsBytes = sizeof(Piece) - (kMaxBoxDims - kFewDims) * sizeof(PieceDim);

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_COPY_CUDA_COPY_PIECE_H_
