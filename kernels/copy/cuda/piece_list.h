#ifndef ZEROCAST_KERNELS_COPY_CUDA_PIECE_LIST_H_
#define ZEROCAST_KERNELS_COPY_CUDA_PIECE_LIST_H_

// What both kinds of batches check and count.  Internal to kernels/copy/cuda.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "kernels/copy/box.h"
#include "kernels/copy/cuda/copy_piece.h"
#include "kernels/copy/dtype.h"

namespace zerocast {

// INVALID_ARGUMENT: box number `index` of a batch is refused for the reason `why`.
absl::Status RefuseBox(size_t index, absl::string_view why);

// That the box's loops are in range.
absl::Status CheckBox(size_t index, const Box& box);

// That an address of `side` ("source", "target") is one that elements of `dtype` can have.
absl::Status CheckAddress(size_t index, absl::string_view side, const void* address, DType dtype);

// The parts of a checked box that are small enough for a piece each, in the order of its elements.
std::vector<Box> SmallParts(const Box& box);

// Puts the elements of a checked box behind those of the boxes before it.
absl::Status AppendElements(size_t index, const Box& box, std::vector<int64_t>* first_elements);

// Sets the loops of a piece to those of a checked box.
void SetLoops(const Box& box, CopyPiece* piece);

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_COPY_CUDA_PIECE_LIST_H_
