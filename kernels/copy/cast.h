#ifndef ZEROCAST_KERNELS_COPY_CAST_H_
#define ZEROCAST_KERNELS_COPY_CAST_H_

// Casts of one element to a floating type, in integer arithmetic: the same bits on every device.
//
// Every cast is what torch 2.15 computes (tests/oracle/make_casts.py asks it): by way of float32,
// rounding to nearest even each time, so that float64 and wide integers are rounded twice on their
// way to anything smaller; integers become float64 at once.  NaNs are the vectorised CPU kernels'
// of torch:
//   to float16, float32, float64   quiet, with the upper bits of the payload, and the sign
//   bfloat16 to float32            the bits, signalling NaNs too
//   to bfloat16                    0xffff from float32 and float64, 0x7fc0 from the others
//   to float8_e4m3fn, float8_e5m2  0x7f, and the sign
// torch's scalar kernels, which finish a tensor whose length is no multiple of a vector, differ
// from these in the NaNs of float16 to float32 and of float64 to bfloat16; a shard's element must
// not depend on where a tensor was cut.

#include <cstdint>

#include "kernels/copy/dtype.h"

#ifdef __CUDACC__
#define ZC_HOST_DEVICE __host__ __device__
#else
#define ZC_HOST_DEVICE
#endif

namespace zerocast {

// The unsigned integer that holds the bits of an element.
template <int kNumBytes>
struct BitsOfSize;
template <>
struct BitsOfSize<1> {
  using Type = uint8_t;
};
template <>
struct BitsOfSize<2> {
  using Type = uint16_t;
};
template <>
struct BitsOfSize<4> {
  using Type = uint32_t;
};
template <>
struct BitsOfSize<8> {
  using Type = uint64_t;
};
template <DType kType>
using Bits = typename BitsOfSize<SizeOf(kType)>::Type;

// A float32's finite magnitude (its bits without the sign) rounded to a format of that many
// exponent and mantissa bits.  Magnitudes beyond the format come back as if its exponents went on.
template <int kExponentBits, int kMantissaBits>
ZC_HOST_DEVICE constexpr uint32_t RoundMagnitude(uint32_t magnitude) {
  constexpr uint32_t kBias = (1u << (kExponentBits - 1)) - 1;
  constexpr uint32_t kLeastNormal = 127 - kBias + 1;  // as an exponent of float32
  constexpr uint32_t kDropped = 23 - kMantissaBits;
  const uint32_t exponent = magnitude >> 23;
  if (exponent >= kLeastNormal) {
    const uint32_t odd = (magnitude >> kDropped) & 1;
    return (magnitude - ((kLeastNormal - 1) << 23) + (1u << (kDropped - 1)) - 1 + odd) >> kDropped;
  }
  // Subnormal in the format; a float32 that is subnormal itself vanishes in each of them.
  const uint32_t shift = kDropped + kLeastNormal - exponent;
  if (exponent == 0 || shift > 25) return 0;
  const uint32_t significand = (magnitude & 0x7fffff) | 0x800000;
  const uint32_t odd = (significand >> shift) & 1;
  return (significand + (1u << (shift - 1)) - 1 + odd) >> shift;
}

// The float32 bits of the product of two float32, rounded to nearest even; of a NaN, any NaN.
ZC_HOST_DEVICE constexpr uint32_t FloatProduct(uint32_t a, uint32_t b) {
  return __builtin_bit_cast(uint32_t, __builtin_bit_cast(float, a) * __builtin_bit_cast(float, b));
}

// The float32 bits of a finite magnitude of such a format.  Its bits, as those of a float32, are
// the number times a power of two, subnormal ones too, so that the product is exact.
template <int kExponentBits, int kMantissaBits>
ZC_HOST_DEVICE constexpr uint32_t WidenMagnitude(uint32_t magnitude) {
  constexpr uint32_t kBias = (1u << (kExponentBits - 1)) - 1;
  constexpr uint32_t kPower = 127 + (127 - kBias);  // the exponent of 2^(127 - kBias)
  return FloatProduct(magnitude << (23 - kMantissaBits), kPower << 23);
}

ZC_HOST_DEVICE constexpr uint32_t Float16ToFloat32(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16;
  const uint32_t magnitude = bits & 0x7fff;
  if (magnitude < 0x7c00) return sign | WidenMagnitude<5, 10>(magnitude);
  const uint32_t payload = (magnitude & 0x3ff) << 13;
  return sign | 0x7f800000 | (payload != 0 ? 0x400000 | payload : 0);
}

ZC_HOST_DEVICE constexpr uint16_t Float32ToFloat16(uint32_t bits) {
  const uint32_t sign = (bits >> 16) & 0x8000;
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) {
    return static_cast<uint16_t>(sign | 0x7e00 | ((magnitude >> 13) & 0x1ff));
  }
  const uint32_t rounded = RoundMagnitude<5, 10>(magnitude);
  return static_cast<uint16_t>(sign | (rounded < 0x7c00 ? rounded : 0x7c00));
}

ZC_HOST_DEVICE constexpr uint32_t BFloat16ToFloat32(uint16_t bits) {
  return static_cast<uint32_t>(bits) << 16;
}

ZC_HOST_DEVICE constexpr uint16_t Float32ToBFloat16(uint32_t bits, uint16_t nan) {
  if ((bits & 0x7fffffff) > 0x7f800000) return nan;
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

ZC_HOST_DEVICE constexpr uint32_t Float8E4M3ToFloat32(uint8_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x80) << 24;
  const uint32_t magnitude = bits & 0x7f;
  return sign | (magnitude == 0x7f ? 0x7ff00000 : WidenMagnitude<4, 3>(magnitude));
}

ZC_HOST_DEVICE constexpr uint8_t Float32ToFloat8E4M3(uint32_t bits) {
  const uint32_t sign = (bits >> 24) & 0x80;
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return static_cast<uint8_t>(sign | 0x7f);
  const uint32_t rounded = RoundMagnitude<4, 3>(magnitude);
  return static_cast<uint8_t>(sign | (rounded < 0x7e ? rounded : 0x7e));
}

ZC_HOST_DEVICE constexpr uint32_t Float8E5M2ToFloat32(uint8_t bits) {
  return Float16ToFloat32(static_cast<uint16_t>(bits << 8));
}

ZC_HOST_DEVICE constexpr uint8_t Float32ToFloat8E5M2(uint32_t bits) {
  const uint32_t sign = (bits >> 24) & 0x80;
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return static_cast<uint8_t>(sign | 0x7f);
  const uint32_t rounded = RoundMagnitude<5, 2>(magnitude);
  return static_cast<uint8_t>(sign | (rounded < 0x7c ? rounded : 0x7c));
}

ZC_HOST_DEVICE constexpr uint64_t Float32ToFloat64(uint32_t bits) {
  const uint64_t sign = static_cast<uint64_t>(bits & 0x80000000) << 32;
  uint64_t magnitude = bits & 0x7fffffff;
  if (magnitude >= 0x7f800000) {
    const uint64_t payload = (magnitude & 0x7fffff) << 29;
    return sign | 0x7ff0000000000000 | (payload != 0 ? 0x8000000000000 | payload : 0);
  }
  if (magnitude >= 0x800000) return sign | ((magnitude << 29) + (uint64_t{1023 - 127} << 52));
  if (magnitude == 0) return sign;
  uint64_t exponent = 1023 - 127 + 1;
  while ((magnitude & 0x800000) == 0) {
    magnitude <<= 1;
    --exponent;
  }
  return sign | (exponent << 52) | ((magnitude & 0x7fffff) << 29);
}

ZC_HOST_DEVICE constexpr uint32_t Float64ToFloat32(uint64_t bits) {
  constexpr uint64_t kInfinity = 0x7ff0000000000000;
  const uint32_t sign = static_cast<uint32_t>(bits >> 32) & 0x80000000;
  const uint64_t magnitude = bits & 0x7fffffffffffffff;
  if (magnitude > kInfinity) {
    return sign | 0x7fc00000 | (static_cast<uint32_t>(magnitude >> 29) & 0x3fffff);
  }
  const uint64_t exponent = magnitude >> 52;
  constexpr uint64_t kLeastNormal = 1023 - 127 + 1;
  if (exponent >= kLeastNormal) {
    const uint64_t odd = (magnitude >> 29) & 1;
    const uint64_t rounded =
        (magnitude - ((kLeastNormal - 1) << 52) + (uint64_t{1} << 28) - 1 + odd) >> 29;
    return sign | static_cast<uint32_t>(rounded < 0x7f800000 ? rounded : 0x7f800000);
  }
  const uint64_t shift = 29 + kLeastNormal - exponent;
  if (shift > 54) return sign;
  const uint64_t significand = (magnitude & 0xfffffffffffff) | 0x10000000000000;
  const uint64_t odd = (significand >> shift) & 1;
  return sign |
         static_cast<uint32_t>((significand + (uint64_t{1} << (shift - 1)) - 1 + odd) >> shift);
}

// The bits of an integer rounded to a format of that many mantissa bits whose exponents reach 2^64.
template <int kMantissaBits, int kBias>
ZC_HOST_DEVICE constexpr uint64_t FloatOfMagnitude(uint64_t magnitude) {
  if (magnitude == 0) return 0;
  uint64_t exponent = 63 + kBias;
  for (int shift = 32; shift > 0; shift /= 2) {
    if ((magnitude >> (64 - shift)) != 0) continue;
    magnitude <<= shift;
    exponent -= shift;
  }
  constexpr int kDropped = 63 - kMantissaBits;
  constexpr uint64_t kTie = uint64_t{1} << (kDropped - 1);
  const uint64_t significand = magnitude >> kDropped;
  const uint64_t rest = magnitude & (2 * kTie - 1);
  const uint64_t up = rest > kTie || (rest == kTie && (significand & 1) != 0) ? 1 : 0;
  // The significand's leading one adds the last 1 to the exponent.
  return ((exponent - 1) << kMantissaBits) + significand + up;
}

template <DType kFrom, DType kTo>
ZC_HOST_DEVICE constexpr Bits<kTo> FloatOfInteger(Bits<kFrom> bits) {
  static_assert(kTo == DType::kFloat32 || kTo == DType::kFloat64, "the types that torch goes by");
  uint64_t magnitude = kFrom == DType::kBool && bits != 0 ? 1 : bits;
  uint64_t sign = 0;
  if constexpr (IsSignedInteger(kFrom)) {
    constexpr int kWidth = 8 * SizeOf(kFrom);
    sign = magnitude >> (kWidth - 1);
    if (sign != 0) magnitude = static_cast<Bits<kFrom>>(~magnitude + 1);
  }
  if constexpr (kTo == DType::kFloat64) return sign << 63 | FloatOfMagnitude<52, 1023>(magnitude);
  return static_cast<Bits<kTo>>(sign << 31 | FloatOfMagnitude<23, 127>(magnitude));
}

template <DType kFrom, DType kTo>
inline constexpr bool kIsElementCast = (IsFloating(kFrom) || IsInteger(kFrom)) &&
                                       IsFloating(kTo) && kFrom != kTo;

// The cast of an element of type kFrom to type kTo, as bits.
template <DType kFrom, DType kTo>
ZC_HOST_DEVICE constexpr Bits<kTo> CastElement(Bits<kFrom> bits) {
  static_assert(kIsElementCast<kFrom, kTo>, "a cast is to another, floating type");
  if constexpr (IsInteger(kFrom) && kTo == DType::kFloat64) {
    return FloatOfInteger<kFrom, DType::kFloat64>(bits);
  }
  uint32_t middle = 0;
  if constexpr (IsInteger(kFrom)) middle = FloatOfInteger<kFrom, DType::kFloat32>(bits);
  if constexpr (kFrom == DType::kFloat8E4M3) middle = Float8E4M3ToFloat32(bits);
  if constexpr (kFrom == DType::kFloat8E5M2) middle = Float8E5M2ToFloat32(bits);
  if constexpr (kFrom == DType::kFloat16) middle = Float16ToFloat32(bits);
  if constexpr (kFrom == DType::kBFloat16) middle = BFloat16ToFloat32(bits);
  if constexpr (kFrom == DType::kFloat32) middle = bits;
  if constexpr (kFrom == DType::kFloat64) middle = Float64ToFloat32(bits);
  if constexpr (kTo == DType::kFloat8E4M3) return Float32ToFloat8E4M3(middle);
  if constexpr (kTo == DType::kFloat8E5M2) return Float32ToFloat8E5M2(middle);
  if constexpr (kTo == DType::kFloat16) return Float32ToFloat16(middle);
  if constexpr (kTo == DType::kBFloat16) {
    constexpr bool kIsVectorised = kFrom == DType::kFloat32 || kFrom == DType::kFloat64;
    return Float32ToBFloat16(middle, kIsVectorised ? 0xffff : 0x7fc0);
  }
  if constexpr (kTo == DType::kFloat64) return Float32ToFloat64(middle);
  return static_cast<Bits<kTo>>(middle);
}

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_COPY_CAST_H_
