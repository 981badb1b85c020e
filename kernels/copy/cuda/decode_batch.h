#ifndef ZEROCAST_KERNELS_COPY_CUDA_DECODE_BATCH_H_
#define ZEROCAST_KERNELS_COPY_CUDA_DECODE_BATCH_H_

// Many boxes of quantised sources as one piece of work for the copy kernel.  Pure, and built
// without CUDA too.

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/copy/box.h"
#include "kernels/copy/cuda/copy_piece.h"
#include "kernels/copy/decode.h"
#include "kernels/copy/decode_box.h"
#include "kernels/copy/dtype.h"

namespace zerocast {

// One box of a quantised source, as DecodeBox takes it, and where its sides lie: addresses of the
// device.  The box's source places count logical elements of the whole source, from 0; `source`
// says what of it, and of its scales, is in the device's memory.
struct PlacedDecodeBox {
  Box box;
  Decoder decoder;
  EncodedSource source;
  void* target = nullptr;  // of element 0
};

// The boxes of one launch, all to one element type, each with a decoder of its own, in the order in
// which they were given.  Used as CopyBatch is.
struct DecodeBatch {
  DType target_dtype = DType::kInvalid;
  std::vector<DecodePiece> pieces;
  // The number of elements in all pieces before each, and at the end, of all.
  std::vector<int64_t> first_elements;

  int64_t num_elements() const { return first_elements.empty() ? 0 : first_elements.back(); }
};

// Describes `boxes`.  The caller guarantees what MakeCopyBatch and DecodeBox ask for: decoders are
// consistent (IsConsistent), all elements that a box reads, and their scales, are in memory.
//   INVALID_ARGUMENT  a target that CanDecodeTo refuses; a decoder of kind kPlain or of blocks that
//                     have no elements; a box whose number of loops or whose extents are out of
//                     range, or that reads before `stored_first`; an address that is null or not
//                     aligned to its element's size (stored elements: 1 byte)
absl::StatusOr<DecodeBatch> MakeDecodeBatch(absl::Span<const PlacedDecodeBox> boxes,
                                            DType target_dtype);

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_COPY_CUDA_DECODE_BATCH_H_
