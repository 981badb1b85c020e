#ifndef ZEROCAST_KERNELS_COPY_CUDA_COPY_BATCH_H_
#define ZEROCAST_KERNELS_COPY_CUDA_COPY_BATCH_H_

// Many boxes as one piece of work for the copy kernel.  Pure, and built without CUDA too.

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/copy/box.h"
#include "kernels/copy/cuda/copy_piece.h"
#include "kernels/copy/dtype.h"

namespace zerocast {

// One box and where its two sides lie: addresses of the device, each of element 0.
struct PlacedBox {
  Box box;
  const void* source = nullptr;
  void* target = nullptr;
};

// The boxes of one launch, all of one pair of element types, in the order in which they were given.
// The launch reads `pieces` and `first_elements` in device memory, 8-byte aligned: the caller
// copies them there and keeps them until the kernel has ended.
struct CopyBatch {
  DType source_dtype = DType::kInvalid;
  DType target_dtype = DType::kInvalid;
  std::vector<CopyPiece> pieces;
  // The number of elements in all pieces before each, and at the end, of all.
  std::vector<int64_t> first_elements;

  int64_t num_elements() const { return first_elements.empty() ? 0 : first_elements.back(); }
};

// Describes `boxes`.  The caller guarantees that every place of a box lies within its buffers, that
// sources and targets do not overlap, and that no element of a target is written twice.
//   INVALID_ARGUMENT  a cast that CanCast refuses; a box whose number of loops or whose extents are
//                     out of range; an address that is null or not aligned to its element's size
absl::StatusOr<CopyBatch> MakeCopyBatch(absl::Span<const PlacedBox> boxes, DType source_dtype,
                                        DType target_dtype);

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_COPY_CUDA_COPY_BATCH_H_
