#ifndef ZEROCAST_KERNELS_COPY_PACK_H_
#define ZEROCAST_KERNELS_COPY_PACK_H_

// Splitting a copy in two around a dense buffer, so that its elements can travel between them.

#include <cstdint>

#include "kernels/copy/box.h"

namespace zerocast {

// `pack` reads the elements that `piece` reads and writes them to [packed_offset, packed_offset +
// NumElements(piece)) of a buffer, in the order of their places in piece's target; `unpack` reads
// them there (its `source` is 0) and writes them where `piece` writes.  Running `pack` and then
// `unpack` has the effect of running `piece`.  Both come back canonical.
void MakePackBoxes(const Box& piece, int64_t packed_offset, Box* pack, Box* unpack);

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_COPY_PACK_H_
