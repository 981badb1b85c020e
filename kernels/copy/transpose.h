#ifndef ZEROCAST_KERNELS_COPY_TRANSPOSE_H_
#define ZEROCAST_KERNELS_COPY_TRANSPOSE_H_

// Transposition of a tile in the first-level cache.  Internal to kernels/copy.

#include <cstdint>

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

namespace zerocast {

// to[c][r] = from[r][c] for r < rows, c < columns; both have rows of kTile elements.
template <typename T, int64_t kTile>
void TransposeByElement(const T* from, T* to, int64_t rows, int64_t columns) {
  for (int64_t c = 0; c < columns; ++c) {
    for (int64_t r = 0; r < rows; ++r) to[c * kTile + r] = from[r * kTile + c];
  }
}

#if defined(__x86_64__)
// An 8 x 8 block of 2-byte elements; strides in elements.
inline void Transpose8x8(const uint16_t* from, uint16_t* to, int64_t stride) {
  __m128i row[8];
  for (int i = 0; i < 8; ++i) {
    row[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i * stride));
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
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 2 * i * stride),
                     _mm_unpacklo_epi64(quads[i], quads[i + 4]));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + (2 * i + 1) * stride),
                     _mm_unpackhi_epi64(quads[i], quads[i + 4]));
  }
}
#endif

// As TransposeByElement; `from` and `to` are whole tiles, of which all may be read and written.
template <typename T, int64_t kTile>
void TransposeTile(const T* from, T* to, int64_t rows, int64_t columns) {
#if defined(__x86_64__)
  if constexpr (sizeof(T) == 2) {
    static_assert(kTile % 8 == 0, "a tile is made of blocks");
    // The rows of the last blocks that lie outside are moved along and never looked at.
    for (int64_t r = 0; r < rows; r += 8) {
      for (int64_t c = 0; c < columns; c += 8) {
        Transpose8x8(from + r * kTile + c, to + c * kTile + r, kTile);
      }
    }
    return;
  }
#endif
  TransposeByElement<T, kTile>(from, to, rows, columns);
}

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_COPY_TRANSPOSE_H_
