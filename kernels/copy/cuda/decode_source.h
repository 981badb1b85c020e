#ifndef ZEROCAST_KERNELS_COPY_CUDA_DECODE_SOURCE_H_
#define ZEROCAST_KERNELS_COPY_CUDA_DECODE_SOURCE_H_

// The source of a piece that is quantised; as plain_source.h says of sources.  Internal to
// kernels/copy/cuda.

#include <cstdint>

#include "kernels/copy/cast.h"
#include "kernels/copy/cuda/copy_piece.h"
#include "kernels/copy/cuda/warp.h"
#include "kernels/copy/decode.h"
#include "kernels/copy/dtype.h"

namespace zerocast {

// The elements of a vector, of a type of that many bytes.  Quantised sources become quantised types
// rarely: few elements, for the code of each is long.
constexpr int64_t DecodeVectorElements(int64_t target_bytes) {
  return target_bytes == 1 ? 4 : kVectorBytes / target_bytes;
}

// Elements of which kPackedElements lie in a byte become kTo.
template <DType kTo, int kPackedElements>
class DecodeSource {
 public:
  using Piece = DecodePiece;
  using To = Bits<kTo>;
  static constexpr int kWiderBytes = sizeof(To);
  static constexpr int kLoadBytes = 1;
  static constexpr int kVectorElements = static_cast<int>(DecodeVectorElements(sizeof(To)));
  static constexpr int kLoads = 2;
  static constexpr bool kAnyWidth = false;
  static constexpr bool kShifts = false;

  // The stored bytes, the place of the first in the source, and the scale, which they share.
  template <int kCount>
  struct Loaded {
    static constexpr int kBytes = kCount < kPackedElements ? 1 : kCount / kPackedElements;
    Vector<uint8_t, kBytes> stored;
    uint32_t scale;
    uint32_t is_upper;  // of a single element that is half a byte
  };

  ZC_HOST_DEVICE explicit DecodeSource(const DecodePiece& piece)
      : piece_(piece),
        stored_(InGlobalMemory(reinterpret_cast<const uint8_t*>(piece.stored)) -
                piece.stored_first / kPackedElements) {}

  template <int kCount>
  ZC_HOST_DEVICE int MisalignmentAt(int64_t place) const {
    if constexpr (kCount == 1) return 0;
    // Blocks then hold whole vectors, and so do their rows.
    if (piece_.decoder.block_cols % kCount != 0) return -1;
    if (Misalignment<Loaded<kCount>::kBytes>(stored_) != 0) return -1;
    return static_cast<int>(static_cast<uint64_t>(piece_.first_element + place) % kCount);
  }

  template <int kCount>
  ZC_HOST_DEVICE Loaded<kCount> Load(int64_t place) const {
    const int64_t element = piece_.first_element + place;
    Loaded<kCount> loaded;
    loaded.stored =
        LoadVector<uint8_t, Loaded<kCount>::kBytes>(stored_ + element / kPackedElements);
    loaded.scale = LoadScaleOf(static_cast<uint32_t>(element));
    loaded.is_upper = static_cast<uint32_t>(element & (kPackedElements - 1));
    return loaded;
  }

  template <int kCount>
  ZC_HOST_DEVICE Vector<To, kCount> Convert(const Loaded<kCount>& loaded) const {
    Vector<To, kCount> converted;
    ZC_UNROLL
    for (int i = 0; i < kCount; ++i) {
      const int part = kCount == 1 ? loaded.is_upper : i % kPackedElements;
      const uint32_t value = ApplyScale(
          piece_.decoder,
          StoredToFloat32(piece_.decoder, loaded.stored.values[i / kPackedElements], part),
          loaded.scale);
      if constexpr (kTo == DType::kFloat32) {
        converted.values[i] = value;
      } else {
        converted.values[i] = CastElement<DType::kFloat32, kTo>(value);
      }
    }
    return converted;
  }

 private:
  // As ScaleIndex and LoadScale, without divisions and from an aligned address.
  ZC_HOST_DEVICE uint32_t LoadScaleOf(uint32_t element) const {
    const Decoder& decoder = piece_.decoder;
    const uint32_t row = Quotient(element, piece_.cols);
    const uint32_t col = element - row * static_cast<uint32_t>(decoder.cols);
    const uint32_t matrix = Quotient(row, piece_.rows);
    const uint32_t matrix_row = row - matrix * static_cast<uint32_t>(decoder.rows);
    const int64_t index = matrix * decoder.matrix_scales +
                          Quotient(matrix_row, piece_.block_rows) * piece_.grid_cols +
                          Quotient(col, piece_.block_cols) - piece_.scales_first;
    const char* const scales = InGlobalMemory(piece_.scales);
    const int64_t size = SizeOf(decoder.scale);
    uint64_t bits;
    if (size == 1) {
      bits = reinterpret_cast<const uint8_t*>(scales)[index];
    } else if (size == 2) {
      bits = reinterpret_cast<const uint16_t*>(scales)[index];
    } else if (size == 4) {
      bits = reinterpret_cast<const uint32_t*>(scales)[index];
    } else {
      bits = reinterpret_cast<const uint64_t*>(scales)[index];
    }
    return ScaleToFloat32(decoder.scale, bits);
  }

  const DecodePiece& piece_;
  const uint8_t* stored_;
};

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_COPY_CUDA_DECODE_SOURCE_H_
