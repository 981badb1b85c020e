#ifndef ZEROCAST_KERNELS_COPY_CUDA_PIECE_FORM_H_
#define ZEROCAST_KERNELS_COPY_CUDA_PIECE_FORM_H_

// Chooses how a warp goes through a piece.  Internal to kernels/copy/cuda.

#include <cstdint>

#include "kernels/copy/cuda/copy_piece.h"

namespace zerocast {

// What the choice depends on besides a piece's loops.
struct PieceSides {
  int64_t target_bytes = 0;  // of an element
  int64_t wider_bytes = 0;   // of an element on the side where it has more
  // The most elements of a vector, and whether vectors may have half of it and so on, too.
  int64_t vector_elements = 1;
  bool any_width = false;
  // The most elements, a power of two, of vectors that can be loaded from the first place on and
  // from those whole numbers of vectors behind it.
  int64_t source_alignment = 1;
};

// Sets the form of a piece whose target and loops are set, and what goes with the form.
void ChooseForm(const PieceSides& sides, CopyPiece* piece);

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_COPY_CUDA_PIECE_FORM_H_
