#include "kernels/copy/runs.h"

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

ZC_AVX2 __m128i RoundToFloat16(__m256 values) {
  return _mm256_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

ZC_AVX2 void BFloat16ToFloat32Run(const void* source, void* target, int64_t count) {
  const auto* from = static_cast<const uint16_t*>(source);
  auto* to = static_cast<float*>(target);
  for (int64_t i = 0; i < count; i += 8) _mm256_storeu_ps(to + i, WidenBFloat16(Load8(from + i)));
}

ZC_AVX2 void Float32ToBFloat16Run(const void* source, void* target, int64_t count) {
  const auto* from = static_cast<const float*>(source);
  auto* to = static_cast<uint16_t*>(target);
  for (int64_t i = 0; i < count; i += 8) {
    Store8(to + i, RoundToBFloat16(_mm256_loadu_ps(from + i), 0xffff));
  }
}

ZC_AVX2 void Float16ToFloat32Run(const void* source, void* target, int64_t count) {
  const auto* from = static_cast<const uint16_t*>(source);
  auto* to = static_cast<float*>(target);
  for (int64_t i = 0; i < count; i += 8) _mm256_storeu_ps(to + i, _mm256_cvtph_ps(Load8(from + i)));
}

ZC_AVX2 void Float32ToFloat16Run(const void* source, void* target, int64_t count) {
  const auto* from = static_cast<const float*>(source);
  auto* to = static_cast<uint16_t*>(target);
  for (int64_t i = 0; i < count; i += 8) {
    Store8(to + i, RoundToFloat16(_mm256_loadu_ps(from + i)));
  }
}

ZC_AVX2 void BFloat16ToFloat16Run(const void* source, void* target, int64_t count) {
  const auto* from = static_cast<const uint16_t*>(source);
  auto* to = static_cast<uint16_t*>(target);
  for (int64_t i = 0; i < count; i += 8) {
    Store8(to + i, RoundToFloat16(WidenBFloat16(Load8(from + i))));
  }
}

ZC_AVX2 void Float16ToBFloat16Run(const void* source, void* target, int64_t count) {
  const auto* from = static_cast<const uint16_t*>(source);
  auto* to = static_cast<uint16_t*>(target);
  for (int64_t i = 0; i < count; i += 8) {
    Store8(to + i, RoundToBFloat16(_mm256_cvtph_ps(Load8(from + i)), 0x7fc0));
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
  const auto is = [from, to](DType a, DType b) { return from == a && to == b; };
  if (is(DType::kBFloat16, DType::kFloat32)) return &BFloat16ToFloat32Run;
  if (is(DType::kFloat32, DType::kBFloat16)) return &Float32ToBFloat16Run;
  if (is(DType::kFloat16, DType::kFloat32)) return &Float16ToFloat32Run;
  if (is(DType::kFloat32, DType::kFloat16)) return &Float32ToFloat16Run;
  if (is(DType::kBFloat16, DType::kFloat16)) return &BFloat16ToFloat16Run;
  if (is(DType::kFloat16, DType::kBFloat16)) return &Float16ToBFloat16Run;
  if (is(DType::kFloat32, DType::kFloat64)) return &Float32ToFloat64Run;
  if (is(DType::kFloat64, DType::kFloat32)) return &Float64ToFloat32Run;
  return nullptr;
}

#else

RunFunction VectorRun(DType, DType) { return nullptr; }

#endif

}  // namespace zerocast
