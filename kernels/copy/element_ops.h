#ifndef ZEROCAST_KERNELS_COPY_ELEMENT_OPS_H_
#define ZEROCAST_KERNELS_COPY_ELEMENT_OPS_H_

// What happens to one element, and the loops around it that a box is made of.  Internal to
// kernels/copy.

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>

#include "kernels/copy/cast.h"
#include "kernels/copy/dtype.h"
#include "kernels/copy/runs.h"
#include "kernels/copy/transpose.h"

namespace zerocast {

template <typename T>
struct CopyOp {
  using From = T;
  using To = T;
  static T Apply(T bits) { return bits; }
  static void Run(const char* source, char* target, int64_t count) {
    std::memcpy(target, source, count * sizeof(T));
  }
};

// The answers for all 256 patterns of an 8-bit type.
template <DType kFrom, DType kTo>
constexpr std::array<Bits<kTo>, 256> CastTable() {
  std::array<Bits<kTo>, 256> table = {};
  for (int i = 0; i < 256; ++i) table[i] = CastElement<kFrom, kTo>(static_cast<Bits<kFrom>>(i));
  return table;
}

template <DType kFrom, DType kTo>
struct CastOp {
  using From = Bits<kFrom>;
  using To = Bits<kTo>;
  static To Apply(From bits) {
    if constexpr (sizeof(From) == 1) {
      static constexpr std::array<To, 256> kTable = CastTable<kFrom, kTo>();
      return kTable[bits];
    } else {
      return CastElement<kFrom, kTo>(bits);
    }
  }
  static void Run(const char* source, char* target, int64_t count) {
    static const RunFunction vector_run = VectorRun(kFrom, kTo);
    int64_t done = 0;
    if (vector_run != nullptr && count >= kRunStep) {
      done = count / kRunStep * kRunStep;
      vector_run(source, target, done);
    }
    for (; done < count; ++done) {
      From from;
      std::memcpy(&from, source + done * sizeof(From), sizeof(From));
      const To to = Apply(from);
      std::memcpy(target + done * sizeof(To), &to, sizeof(To));
    }
  }
};

// One loop of a box, strides in elements.
struct Loop {
  int64_t extent, source_stride, target_stride;
};

template <typename Op>
void CopyOne(const char* source, char* target) {
  typename Op::From from;
  std::memcpy(&from, source, sizeof(from));
  const typename Op::To to = Op::Apply(from);
  std::memcpy(target, &to, sizeof(to));
}

template <typename Op>
void CopyLine(const char* source, char* target, const Loop& loop) {
  if (loop.source_stride == 1 && loop.target_stride == 1) {
    Op::Run(source, target, loop.extent);
    return;
  }
  const int64_t source_step = loop.source_stride * static_cast<int64_t>(sizeof(typename Op::From));
  const int64_t target_step = loop.target_stride * static_cast<int64_t>(sizeof(typename Op::To));
  for (int64_t i = 0; i < loop.extent; ++i) {
    CopyOne<Op>(source + i * source_step, target + i * target_step);
  }
}

// One line after the other, the longer loop innermost.
template <typename Op>
void CopyLines(const char* source, char* target, const Loop& a, const Loop& b) {
  const Loop& inner = a.extent < b.extent ? b : a;
  const Loop& outer = a.extent < b.extent ? a : b;
  const int64_t source_step = outer.source_stride * static_cast<int64_t>(sizeof(typename Op::From));
  const int64_t target_step = outer.target_stride * static_cast<int64_t>(sizeof(typename Op::To));
  for (int64_t i = 0; i < outer.extent; ++i) {
    CopyLine<Op>(source + i * source_step, target + i * target_step, inner);
  }
}

// Two loops of which `reads` has the smaller source stride and `writes` the smaller target stride:
// a transposition.  Goes by tiles, which are read along `reads` into a buffer in the second-level
// cache and from there, by strips in the first, written along `writes`.  What counts in large
// planes is the number of times that a page is visited: a visit moves kRow or kColumn bytes.  What
// no cache can hold is written past them.
template <typename Op>
void CopyTransposed(const char* source, char* target, const Loop& reads, const Loop& writes) {
  using To = typename Op::To;
  constexpr int64_t kFromSize = sizeof(typename Op::From);
  constexpr int64_t kToSize = sizeof(To);
  // Where a side is a few elements wide there is nothing to gain from tiles.
  if (reads.extent < kStrip || writes.extent < kStrip) {
    CopyLines<Op>(source, target, reads, writes);
    return;
  }
  constexpr int64_t kColumn = 512 / kToSize;
  constexpr int64_t kRow = kToSize == 1 ? 512 : 1024 / kToSize;
  const bool streams =
      writes.target_stride == 1 && reads.extent * writes.extent * kToSize >= kLeastStreamedBytes;
  alignas(64) To tile[kRow * kColumn];  // at most 256 KiB
  alignas(64) To strip[kStrip * kRow];
  for (int64_t r = 0; r < reads.extent; r += kColumn) {
    const int64_t num_r = std::min(kColumn, reads.extent - r);
    const int64_t tile_stride = (num_r + kStrip - 1) / kStrip * kStrip;
    for (int64_t w = 0; w < writes.extent; w += kRow) {
      const int64_t num_w = std::min(kRow, writes.extent - w);
      const char* from = source + (w * writes.source_stride + r * reads.source_stride) * kFromSize;
      char* to = target + (w * writes.target_stride + r * reads.target_stride) * kToSize;
      for (int64_t i = 0; i < num_w; ++i) {
        CopyLine<Op>(from + i * writes.source_stride * kFromSize,
                     reinterpret_cast<char*>(tile + i * tile_stride),
                     {num_r, reads.source_stride, 1});
      }
      for (int64_t first = 0; first < num_r; first += kStrip) {
        const int64_t num_strip = std::min(kStrip, num_r - first);
        TransposeStrip(tile + first, tile_stride, strip, kRow, num_w, num_strip);
        for (int64_t i = 0; i < num_strip; ++i) {
          char* const row = to + (first + i) * reads.target_stride * kToSize;
          const char* const bytes = reinterpret_cast<const char*>(strip + i * kRow);
          if (streams) {
            StreamBytes(bytes, row, num_w * kToSize);
          } else {
            CopyLine<CopyOp<To>>(bytes, row, {num_w, 1, writes.target_stride});
          }
        }
      }
    }
  }
  if (streams) EndStream();
}

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_COPY_ELEMENT_OPS_H_
