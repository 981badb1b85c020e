#include "kernels/copy/runs.h"

#include "kernels/copy/cast.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

namespace zerocast {

#if defined(__x86_64__)
namespace {

#define ZC_AVX2 __attribute__((target("avx2,f16c")))

ZC_AVX2 __m128i Load8(const uint16_t* from) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
}
ZC_AVX2 void Store8(uint16_t* to, __m128i values) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), values);
}

// The lower halves of eight 32-bit lanes, whose upper halves are zero.
ZC_AVX2 __m128i Pack(__m256i lanes) {
  const __m256i packed = _mm256_packus_epi32(lanes, lanes);
  return _mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08));
}

// A format of 8 bits: its exponent and mantissa bits, the magnitude that what is too large becomes,
// and 2^23 times its least magnitude, beside which a float32 keeps as much as the format does.
template <int kExponent, int kMantissa, int kMost>
struct Format8 {
  static constexpr int kExponentBits = kExponent;
  static constexpr int kMantissaBits = kMantissa;
  static constexpr int kMostMagnitude = kMost;
  static constexpr int kBias = (1 << (kExponentBits - 1)) - 1;
  static constexpr int kUnit = (127 + 23 + 1 - kBias - kMantissaBits) << 23;
};
using E4M3 = Format8<4, 3, 0x7e>;  // saturates
using E5M2 = Format8<5, 2, 0x7c>;  // infinity

ZC_AVX2 __m256i LoadBytes(const uint8_t* from) {
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
}

// Subnormal ones are converted as integers: as float32 bits they would be subnormal, too, and
// processors take a hundred cycles for those.
ZC_AVX2 __m256 WidenE4M3(__m256i bits) {
  constexpr int kLeastNormal = 1 << E4M3::kMantissaBits;
  constexpr float kLeast = 1.0f / (1 << (E4M3::kBias - 1 + E4M3::kMantissaBits));
  const __m256i sign = _mm256_slli_epi32(_mm256_and_si256(bits, _mm256_set1_epi32(0x80)), 24);
  const __m256i magnitude = _mm256_and_si256(bits, _mm256_set1_epi32(0x7f));
  const __m256i normal = _mm256_add_epi32(_mm256_slli_epi32(magnitude, 23 - E4M3::kMantissaBits),
                                          _mm256_set1_epi32((127 - E4M3::kBias) << 23));
  const __m256i subnormal =
      _mm256_castps_si256(_mm256_mul_ps(_mm256_cvtepi32_ps(magnitude), _mm256_set1_ps(kLeast)));
  const __m256i is_subnormal = _mm256_cmpgt_epi32(_mm256_set1_epi32(kLeastNormal), magnitude);
  const __m256i finite = _mm256_blendv_epi8(normal, subnormal, is_subnormal);
  // The one pattern that is not a number.
  const __m256i is_nan = _mm256_cmpeq_epi32(magnitude, _mm256_set1_epi32(0x7f));
  const __m256i value = _mm256_blendv_epi8(finite, _mm256_set1_epi32(0x7ff00000), is_nan);
  return _mm256_castsi256_ps(_mm256_or_si256(sign, value));
}

// See RoundMagnitude: magnitudes below the least normal one are rounded by an addition.
template <typename Format>
ZC_AVX2 __m256i RoundTo8(__m256 values) {
  constexpr int kDropped = 23 - Format::kMantissaBits;
  constexpr int kLeastNormal = (127 - Format::kBias + 1) << 23;
  const __m256i bits = _mm256_castps_si256(values);
  const __m256i sign = _mm256_and_si256(_mm256_srli_epi32(bits, 24), _mm256_set1_epi32(0x80));
  const __m256i magnitude = _mm256_and_si256(bits, _mm256_set1_epi32(0x7fffffff));
  const __m256i odd =
      _mm256_and_si256(_mm256_srli_epi32(magnitude, kDropped), _mm256_set1_epi32(1));
  const __m256i carry = _mm256_set1_epi32((1 << (kDropped - 1)) - 1 - (kLeastNormal - (1 << 23)));
  const __m256i normal =
      _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(magnitude, carry), odd), kDropped);
  const __m256i unit = _mm256_set1_epi32(Format::kUnit);
  const __m256i subnormal = _mm256_sub_epi32(
      _mm256_castps_si256(_mm256_add_ps(_mm256_castsi256_ps(magnitude), _mm256_castsi256_ps(unit))),
      unit);
  const __m256i is_subnormal = _mm256_cmpgt_epi32(_mm256_set1_epi32(kLeastNormal), magnitude);
  const __m256i rounded = _mm256_min_epu32(_mm256_blendv_epi8(normal, subnormal, is_subnormal),
                                           _mm256_set1_epi32(Format::kMostMagnitude));
  const __m256i is_nan = _mm256_cmpgt_epi32(magnitude, _mm256_set1_epi32(0x7f800000));
  return _mm256_or_si256(sign, _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7f), is_nan));
}

ZC_AVX2 void StoreBytes(uint8_t* to, __m256i lanes) {
  const __m128i halves = Pack(lanes);
  _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_packus_epi16(halves, halves));
}

ZC_AVX2 __m256 WidenBFloat16(__m128i values) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(values), 16));
}

ZC_AVX2 __m128i RoundToBFloat16(__m256 values, int nan) {
  const __m256i bits = _mm256_castps_si256(values);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_srli_epi32(
      _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd), 16);
  const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(values, values, _CMP_UNORD_Q));
  return Pack(_mm256_blendv_epi8(rounded, _mm256_set1_epi32(nan), is_nan));
}

// Eight elements as float32.
template <DType kFrom>
ZC_AVX2 __m256 Widen(const Bits<kFrom>* from) {
  if constexpr (kFrom == DType::kFloat8E4M3) {
    return WidenE4M3(LoadBytes(from));
  } else if constexpr (kFrom == DType::kFloat8E5M2) {
    const __m256i halves = _mm256_slli_epi32(LoadBytes(from), 8);
    return _mm256_cvtph_ps(Pack(halves));
  } else if constexpr (kFrom == DType::kFloat16) {
    return _mm256_cvtph_ps(Load8(from));
  } else if constexpr (kFrom == DType::kBFloat16) {
    return WidenBFloat16(Load8(from));
  } else {
    static_assert(kFrom == DType::kFloat32, "the types that have lanes");
    return _mm256_loadu_ps(reinterpret_cast<const float*>(from));
  }
}

// Eight float32, which were of type kFrom, as elements.
template <DType kFrom, DType kTo>
ZC_AVX2 void Narrow(__m256 values, Bits<kTo>* to) {
  if constexpr (kTo == DType::kFloat8E4M3) {
    StoreBytes(to, RoundTo8<E4M3>(values));
  } else if constexpr (kTo == DType::kFloat8E5M2) {
    StoreBytes(to, RoundTo8<E5M2>(values));
  } else if constexpr (kTo == DType::kFloat16) {
    Store8(to, _mm256_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  } else if constexpr (kTo == DType::kBFloat16) {
    Store8(to, RoundToBFloat16(values, kFrom == DType::kFloat32 ? 0xffff : 0x7fc0));
  } else {
    static_assert(kTo == DType::kFloat32, "the types that have lanes");
    _mm256_storeu_ps(reinterpret_cast<float*>(to), values);
  }
}

template <DType kFrom, DType kTo>
ZC_AVX2 void CastRun(const void* source, void* target, int64_t count) {
  const auto* from = static_cast<const Bits<kFrom>*>(source);
  auto* to = static_cast<Bits<kTo>*>(target);
  for (int64_t i = 0; i < count; i += 8) Narrow<kFrom, kTo>(Widen<kFrom>(from + i), to + i);
}

template <DType kFrom, DType kTo>
constexpr RunFunction CastRunOrNone() {
  if constexpr (kFrom == kTo) return nullptr;
  return &CastRun<kFrom, kTo>;
}

template <DType kFrom>
RunFunction CastRunTo(DType to) {
  switch (to) {
    case DType::kFloat8E4M3:
      return CastRunOrNone<kFrom, DType::kFloat8E4M3>();
    case DType::kFloat8E5M2:
      return CastRunOrNone<kFrom, DType::kFloat8E5M2>();
    case DType::kFloat16:
      return CastRunOrNone<kFrom, DType::kFloat16>();
    case DType::kBFloat16:
      return CastRunOrNone<kFrom, DType::kBFloat16>();
    case DType::kFloat32:
      return CastRunOrNone<kFrom, DType::kFloat32>();
    default:
      return nullptr;
  }
}

ZC_AVX2 void Float32ToFloat64Run(const void* source, void* target, int64_t count) {
  const auto* from = static_cast<const float*>(source);
  auto* to = static_cast<double*>(target);
  for (int64_t i = 0; i < count; i += 4) {
    _mm256_storeu_pd(to + i, _mm256_cvtps_pd(_mm_loadu_ps(from + i)));
  }
}

ZC_AVX2 void Float64ToFloat32Run(const void* source, void* target, int64_t count) {
  const auto* from = static_cast<const double*>(source);
  auto* to = static_cast<float*>(target);
  for (int64_t i = 0; i < count; i += 4) {
    _mm_storeu_ps(to + i, _mm256_cvtpd_ps(_mm256_loadu_pd(from + i)));
  }
}

#undef ZC_AVX2

bool HasVectors() {
  static const bool has = [] {
    unsigned int eax = 0;
    unsigned int ebx = 0;
    unsigned int ecx = 0;
    unsigned int edx = 0;
    // Not every compiler's __builtin_cpu_supports knows F16C.
    const bool has_f16c = __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
    return has_f16c && __builtin_cpu_supports("avx2") != 0;
  }();
  return has;
}

}  // namespace

RunFunction VectorRun(DType from, DType to) {
  if (!HasVectors()) return nullptr;
  switch (from) {
    case DType::kFloat8E4M3:
      return CastRunTo<DType::kFloat8E4M3>(to);
    case DType::kFloat8E5M2:
      return CastRunTo<DType::kFloat8E5M2>(to);
    case DType::kFloat16:
      return CastRunTo<DType::kFloat16>(to);
    case DType::kBFloat16:
      return CastRunTo<DType::kBFloat16>(to);
    case DType::kFloat32:
      return to == DType::kFloat64 ? &Float32ToFloat64Run : CastRunTo<DType::kFloat32>(to);
    case DType::kFloat64:
      return to == DType::kFloat32 ? &Float64ToFloat32Run : nullptr;
    default:
      return nullptr;
  }
}

#else

RunFunction VectorRun(DType, DType) { return nullptr; }

#endif

}  // namespace zerocast
