#ifndef ZEROCAST_KERNELS_COPY_CUDA_DECODE_SEGMENT_H_
#define ZEROCAST_KERNELS_COPY_CUDA_DECODE_SEGMENT_H_

// The work of one warp on boxes of quantised sources, as functions of host and device.  Internal to
// kernels/copy/cuda.

#include <cstdint>

#include "kernels/copy/cast.h"
#include "kernels/copy/cuda/copy_piece.h"
#include "kernels/copy/cuda/copy_segment.h"
#include "kernels/copy/decode.h"

namespace zerocast {

template <DType kTo>
ZC_HOST_DEVICE inline Bits<kTo> DecodedAs(uint32_t value) {
  if constexpr (kTo == DType::kFloat32) {
    return value;
  } else {
    return CastElement<DType::kFloat32, kTo>(value);
  }
}

template <DType kTo>
inline constexpr int64_t kDecodeSegmentElements = 8192 / SizeOf(kTo);

template <DType kTo>
ZC_HOST_DEVICE inline void DecodeBatchSegment(const DecodePiece* pieces,
                                              const int64_t* first_elements, int64_t num_pieces,
                                              int64_t segment, int lane) {
  const int64_t begin = segment * kDecodeSegmentElements<kTo>;
  const int64_t rest = first_elements[num_pieces] - begin;
  const int64_t end =
      begin + (rest < kDecodeSegmentElements<kTo> ? rest : kDecodeSegmentElements<kTo>);
  int64_t piece = 0;
  for (int64_t after = num_pieces; after - piece > 1;) {
    const int64_t middle = piece + (after - piece) / 2;
    if (first_elements[middle] <= begin) {
      piece = middle;
    } else {
      after = middle;
    }
  }
  for (int64_t i = begin + lane; i < end; i += kWarpSize) {
    while (first_elements[piece + 1] <= i) ++piece;
    const DecodePiece& from = pieces[piece];
    const Place place = PlaceOf(from.piece, i - first_elements[piece]);
    const uint32_t value = DecodeElement(from.decoder, InGlobalMemory(from.stored),
                                         from.stored_first, InGlobalMemory(from.scales),
                                         from.scales_first, from.first_element + place.source);
    InGlobalMemory(static_cast<Bits<kTo>*>(from.piece.target))[place.target] =
        DecodedAs<kTo>(value);
  }
}

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_COPY_CUDA_DECODE_SEGMENT_H_
