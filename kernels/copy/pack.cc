#include "kernels/copy/pack.h"

#include "kernels/copy/canonical.h"

namespace zerocast {

void MakePackBoxes(const Box& piece, int64_t packed_offset, Box* pack, Box* unpack) {
  Box packing = piece;
  packing.target_offset = packed_offset;
  Box unpacking = piece;
  unpacking.source = 0;
  unpacking.source_offset = packed_offset;
  int64_t packed_stride = 1;
  for (int k = piece.num_dims - 1; k >= 0; --k) {
    packing.dims[k].target_stride = packed_stride;
    unpacking.dims[k].source_stride = packed_stride;
    packed_stride *= piece.dims[k].extent;
  }
  MergeLoops(packing.dims, &packing.num_dims);
  MergeLoops(unpacking.dims, &unpacking.num_dims);
  *pack = packing;
  *unpack = unpacking;
}

}  // namespace zerocast
