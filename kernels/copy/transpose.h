#ifndef ZEROCAST_KERNELS_COPY_TRANSPOSE_H_
#define ZEROCAST_KERNELS_COPY_TRANSPOSE_H_

// Transposition between buffers that fit the caches, and writing past the caches.  Internal to
// kernels/copy.

#include <algorithm>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

namespace zerocast {

#if defined(__x86_64__)
// to[c][r] = from[r][c] for an 8 x 8 block; strides in elements.
inline void Transpose8x8(const uint16_t* from, int64_t from_stride, uint16_t* to,
                         int64_t to_stride) {
  __m128i row[8];
  for (int i = 0; i < 8; ++i) {
    row[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i * from_stride));
  }
  __m128i pairs[8];  // pairs of rows i and i + 1, columns 0-3 and 4-7
  for (int i = 0; i < 8; i += 2) {
    pairs[i] = _mm_unpacklo_epi16(row[i], row[i + 1]);
    pairs[i + 1] = _mm_unpackhi_epi16(row[i], row[i + 1]);
  }
  __m128i quads[8];  // rows 0-3, then 4-7; two columns each
  for (int half = 0; half < 2; ++half) {
    const __m128i* p = pairs + 4 * half;
    quads[4 * half + 0] = _mm_unpacklo_epi32(p[0], p[2]);
    quads[4 * half + 1] = _mm_unpackhi_epi32(p[0], p[2]);
    quads[4 * half + 2] = _mm_unpacklo_epi32(p[1], p[3]);
    quads[4 * half + 3] = _mm_unpackhi_epi32(p[1], p[3]);
  }
  for (int i = 0; i < 4; ++i) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 2 * i * to_stride),
                     _mm_unpacklo_epi64(quads[i], quads[i + 4]));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + (2 * i + 1) * to_stride),
                     _mm_unpackhi_epi64(quads[i], quads[i + 4]));
  }
}
#endif

inline constexpr int64_t kStrip = 8;

// to[c][r] = from[r][c] for r < rows, c < columns <= kStrip; strides in elements.  Both buffers
// hold a multiple of kStrip rows and columns: those that are not asked for may be moved along.
template <typename T>
void TransposeStrip(const T* from, int64_t from_stride, T* to, int64_t to_stride, int64_t rows,
                    int64_t columns) {
#if defined(__x86_64__)
  if constexpr (sizeof(T) == 2) {
    for (int64_t r = 0; r < rows; r += kStrip) {
      Transpose8x8(from + r * from_stride, from_stride, to + r, to_stride);
    }
    return;
  }
#endif
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) to[c * to_stride + r] = from[r * from_stride + c];
  }
}

// From this size on a copy's target is more than a processor's second-level cache.
inline constexpr int64_t kLeastStreamedBytes = int64_t{1} << 20;

// As memcpy; whole lines of the cache are written without being read first, and are not kept. Other
// threads may read them after EndStream.
inline void StreamBytes(const char* source, char* target, int64_t num_bytes) {
#if defined(__x86_64__)
  constexpr int64_t kLine = 64;
  const auto past = static_cast<int64_t>(reinterpret_cast<uintptr_t>(target) % kLine);
  int64_t done = std::min(num_bytes, (kLine - past) % kLine);
  std::memcpy(target, source, static_cast<size_t>(done));
  for (; done + kLine <= num_bytes; done += kLine) {
    for (int64_t k = done; k < done + kLine; k += 16) {
      _mm_stream_si128(reinterpret_cast<__m128i*>(target + k),
                       _mm_loadu_si128(reinterpret_cast<const __m128i*>(source + k)));
    }
  }
  std::memcpy(target + done, source + done, static_cast<size_t>(num_bytes - done));
#else
  std::memcpy(target, source, static_cast<size_t>(num_bytes));
#endif
}

inline void EndStream() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_COPY_TRANSPOSE_H_
