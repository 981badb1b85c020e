#ifndef ZEROCAST_KERNELS_COPY_DECODE_H_
#define ZEROCAST_KERNELS_COPY_DECODE_H_

// Decoding one element of a quantised source: a narrow number times the scale of its block.  Plain
// data and arithmetic: CUDA sources include this header.
//
// An element becomes float32, is multiplied by its scale in float32, and is rounded once, to the
// target's dtype: what Transformers' Fp8Dequantize (integrations/finegrained_fp8.py) and
// Mxfp4Dequantize (integrations/mxfp4.py) compute with torch 2.15.  NaNs of the product are those
// of torch's vectorised kernels on x86: the scale's, else the element's, both quiet; 0xffc00000 for
// 0 * infinity.

#include <cstdint>
#include <cstring>

#include "kernels/copy/cast.h"
#include "kernels/copy/dtype.h"

namespace zerocast {

enum class DecoderKind : uint8_t {
  kPlain = 0,     // elements are what they are
  kFp8Block = 1,  // one 8-bit float an element
  kFp4Block = 2,  // two e2m1 numbers a byte, the low half first
  kMxfp4 = 3,     // the same; its scale byte is an exponent: it does not overflow on its own
};

// How the elements of one source are decoded.  All counts are of logical elements: those that come
// out.  The source is a sequence of matrices of `rows` x `cols`, each a grid of blocks of
// `block_rows` x `block_cols` which divide it evenly; a block has one scale.
struct Decoder {
  DecoderKind kind = DecoderKind::kPlain;
  // Of the stored elements: kFloat8E4M3 or kFloat8E5M2 for kFp8Block, else a type of one byte.
  DType stored = DType::kInvalid;
  // Of the scales: floating; kFloat8E8M0; or kUInt8, a byte b that stands for 2^(b - 127).
  DType scale = DType::kInvalid;
  int64_t rows = 1, cols = 1;
  int64_t block_rows = 1, block_cols = 1;
  // From the scales of a matrix to those of the next; 0 where all matrices share one grid.
  int64_t matrix_scales = 0;
};

inline bool operator==(const Decoder& a, const Decoder& b) {
  return a.kind == b.kind && a.stored == b.stored && a.scale == b.scale && a.rows == b.rows &&
         a.cols == b.cols && a.block_rows == b.block_rows && a.block_cols == b.block_cols &&
         a.matrix_scales == b.matrix_scales;
}

// Logical elements in one stored element.
ZC_HOST_DEVICE constexpr int64_t PackedElements(DecoderKind kind) {
  return kind == DecoderKind::kFp4Block || kind == DecoderKind::kMxfp4 ? 2 : 1;
}

ZC_HOST_DEVICE constexpr int64_t GridCols(const Decoder& decoder) {
  return decoder.cols / decoder.block_cols;
}

// The number of the scale of logical element `element`.
ZC_HOST_DEVICE constexpr int64_t ScaleIndex(const Decoder& decoder, int64_t element) {
  const int64_t row = element / decoder.cols;
  return row / decoder.rows * decoder.matrix_scales +
         row % decoder.rows / decoder.block_rows * GridCols(decoder) +
         element % decoder.cols / decoder.block_cols;
}

// A range of scales: [begin, end).
struct ScaleRange {
  int64_t begin = 0;
  int64_t end = 0;
};

// Scales that hold those of all elements in [begin, end), begin < end.  A range within another has
// its scales within the other's.
constexpr ScaleRange ScalesOf(const Decoder& decoder, int64_t begin, int64_t end) {
  const int64_t first_row = begin / decoder.cols, last_row = (end - 1) / decoder.cols;
  if (first_row == last_row) {
    return {ScaleIndex(decoder, begin), ScaleIndex(decoder, end - 1) + 1};
  }
  const int64_t grid_cols = GridCols(decoder);
  if (decoder.matrix_scales == 0 && first_row / decoder.rows != last_row / decoder.rows) {
    return {0, decoder.rows / decoder.block_rows * grid_cols};
  }
  return {ScaleIndex(decoder, first_row * decoder.cols),
          ScaleIndex(decoder, last_row * decoder.cols) + grid_cols};
}

// The float32 bits of a number of 4 bits: sign, two bits of exponent, one of mantissa.
ZC_HOST_DEVICE constexpr uint32_t Float4E2M1ToFloat32(uint8_t bits) {
  return static_cast<uint32_t>(bits & 8) << 28 | WidenMagnitude<2, 1>(bits & 7);
}

// The float32 bits of 2^(bits - 127); 255 gives infinity.
ZC_HOST_DEVICE constexpr uint32_t PowerOfTwo(uint8_t bits) {
  return bits == 0 ? 0x400000 : static_cast<uint32_t>(bits) << 23;
}

ZC_HOST_DEVICE constexpr bool IsNanFloat32(uint32_t bits) {
  return (bits & 0x7fffffff) > 0x7f800000;
}

// The product of an element and its scale, float32, rounded to nearest even, as bits.
ZC_HOST_DEVICE inline uint32_t MultiplyFloat32(uint32_t a, uint32_t b) {
  constexpr uint32_t kQuiet = 0x400000;
  const uint32_t product = FloatProduct(a, b);
  if (!IsNanFloat32(product)) return product;
  if (IsNanFloat32(b)) return b | kQuiet;
  if (IsNanFloat32(a)) return a | kQuiet;
  return 0xffc00000;  // 0 * infinity
}

// The float32 bits of a scale of type `dtype` with these bits.
ZC_HOST_DEVICE constexpr uint32_t ScaleToFloat32(DType dtype, uint64_t bits) {
  const auto byte = static_cast<uint8_t>(bits);
  if (dtype == DType::kUInt8) return PowerOfTwo(byte);
  if (dtype == DType::kFloat8E8M0) return byte == 0xff ? 0x7f800001 : PowerOfTwo(byte);
  if (dtype == DType::kFloat8E4M3) return Float8E4M3ToFloat32(byte);
  if (dtype == DType::kFloat8E5M2) return Float8E5M2ToFloat32(byte);
  if (dtype == DType::kFloat16) return Float16ToFloat32(static_cast<uint16_t>(bits));
  if (dtype == DType::kBFloat16) return BFloat16ToFloat32(static_cast<uint16_t>(bits));
  if (dtype == DType::kFloat64) return Float64ToFloat32(bits);
  return static_cast<uint32_t>(bits);
}

// The float32 bits of scale number `index` at `scales`, of type `dtype`; unaligned.
ZC_HOST_DEVICE inline uint32_t LoadScale(DType dtype, const char* scales, int64_t index) {
  const char* const place = scales + index * SizeOf(dtype);
  uint8_t byte = 0;
  uint16_t half = 0;
  uint32_t single = 0;
  uint64_t wide = 0;
  switch (SizeOf(dtype)) {
    case 1:
      memcpy(&byte, place, sizeof(byte));
      return ScaleToFloat32(dtype, byte);
    case 2:
      memcpy(&half, place, sizeof(half));
      return ScaleToFloat32(dtype, half);
    case 4:
      memcpy(&single, place, sizeof(single));
      return ScaleToFloat32(dtype, single);
    default:
      memcpy(&wide, place, sizeof(wide));
      return ScaleToFloat32(dtype, wide);
  }
}

// The float32 bits of an undecoded element: `byte` is the stored element that holds logical element
// `element`.
ZC_HOST_DEVICE constexpr uint32_t StoredToFloat32(const Decoder& decoder, uint8_t byte,
                                                  int64_t element) {
  if (PackedElements(decoder.kind) == 2) {
    return Float4E2M1ToFloat32(static_cast<uint8_t>(element % 2 == 0 ? byte & 15 : byte >> 4));
  }
  return decoder.stored == DType::kFloat8E5M2 ? Float8E5M2ToFloat32(byte)
                                              : Float8E4M3ToFloat32(byte);
}

// The float32 bits of value * scale.
ZC_HOST_DEVICE inline uint32_t ApplyScale(const Decoder& decoder, uint32_t value, uint32_t scale) {
  if (decoder.kind == DecoderKind::kMxfp4 && scale == 0x7f800000) {
    // 2^128 is no float32, but a half times it is: it comes in two steps, neither of which rounds.
    return FloatProduct(FloatProduct(value, 0x40000000), 0x7f000000);
  }
  return MultiplyFloat32(value, scale);
}

// The float32 bits of logical element `element`.  `stored` points at the stored element that holds
// logical element `stored_first` (a multiple of PackedElements), `scales` at scale number
// `scales_first`.
ZC_HOST_DEVICE inline uint32_t DecodeElement(const Decoder& decoder, const char* stored,
                                             int64_t stored_first, const char* scales,
                                             int64_t scales_first, int64_t element) {
  uint8_t byte;
  memcpy(&byte, stored + (element - stored_first) / PackedElements(decoder.kind), sizeof(byte));
  return ApplyScale(decoder, StoredToFloat32(decoder, byte, element),
                    LoadScale(decoder.scale, scales, ScaleIndex(decoder, element) - scales_first));
}

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_COPY_DECODE_H_
