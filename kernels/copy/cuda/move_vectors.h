#ifndef ZEROCAST_KERNELS_COPY_CUDA_MOVE_VECTORS_H_
#define ZEROCAST_KERNELS_COPY_CUDA_MOVE_VECTORS_H_

// Pieces of form kVectors: any nest of loops, whose innermost one steps over vectors of some
// elements, or over single ones.  Internal to kernels/copy/cuda.

#include <cstdint>

#include "kernels/copy/cuda/copy_piece.h"
#include "kernels/copy/cuda/warp.h"

namespace zerocast {

// Where a step of a piece's loops lies, counted in elements from its first one.
struct Place {
  int64_t source = 0;
  int64_t target = 0;
};

// The place of step `index`, in the order of the loops.
ZC_HOST_DEVICE inline Place PlaceOf(const CopyPiece& piece, uint32_t index) {
  Place place;
  ZC_NO_UNROLL
  for (int k = piece.num_dims - 1; k >= 0; --k) {
    const PieceDim& dim = piece.dims[k];
    const uint32_t before = k > 0 ? Quotient(index, dim.by_extent) : 0;  // of the loops outside
    const int64_t step = index - before * static_cast<uint32_t>(dim.extent);
    place.source += step * dim.source_stride;
    place.target += step * dim.target_stride;
    index = before;
  }
  return place;
}

// Vectors [begin, end) of the piece.
template <int kCount, typename Source>
ZC_HOST_DEVICE inline void MoveVectorsOf(const Source& source, const CopyPiece& piece,
                                         typename Source::To* target, int64_t begin, int64_t end,
                                         const Warp& warp) {
  constexpr int kLoads = Source::kLoads;
  warp.Each([&](int lane) {
    int64_t i = begin + lane;
    if constexpr (kLoads > 1) {
      ZC_NO_UNROLL
      for (; i + (kLoads - 1) * kWarpSize < end; i += kLoads * kWarpSize) {
        typename Source::template Loaded<kCount> loaded[kLoads];
        int64_t places[kLoads];
        ZC_UNROLL
        for (int j = 0; j < kLoads; ++j) {
          const Place place = PlaceOf(piece, static_cast<uint32_t>(i + j * kWarpSize));
          places[j] = place.target;
          loaded[j] = source.template Load<kCount>(place.source);
        }
        ZC_UNROLL
        for (int j = 0; j < kLoads; ++j) {
          StoreVector(source.template Convert<kCount>(loaded[j]), target + places[j]);
        }
      }
    }
    ZC_NO_UNROLL
    for (; i < end; i += kWarpSize) {
      const Place place = PlaceOf(piece, static_cast<uint32_t>(i));
      StoreVector(source.template Convert<kCount>(source.template Load<kCount>(place.source)),
                  target + place.target);
    }
  });
}

// The vectors that begin in elements [begin, end) of the piece.
template <typename Source, int kCount = Source::kVectorElements>
ZC_HOST_DEVICE inline void MoveVectors(const Source& source, const CopyPiece& piece,
                                       typename Source::To* target, int64_t begin, int64_t end,
                                       const Warp& warp) {
  if (piece.vector_elements == kCount) {
    MoveVectorsOf<kCount>(source, piece, target, (begin + kCount - 1) / kCount,
                          (end + kCount - 1) / kCount, warp);
  } else if constexpr (kCount > 1) {
    MoveVectors<Source, Source::kAnyWidth ? kCount / 2 : 1>(source, piece, target, begin, end,
                                                            warp);
  }
}

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_COPY_CUDA_MOVE_VECTORS_H_
