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

// Two loops of which `reads` has the smaller source stride and `writes` the smaller target stride:
// a transposition.  Goes by tiles, so that each cache line is read once and written once: a tile is
// read along `reads`, transposed in the first-level cache and written along `writes`.
template <typename Op>
void CopyTransposed(const char* source, char* target, const Loop& reads, const Loop& writes) {
  using From = typename Op::From;
  using To = typename Op::To;
  constexpr int64_t kFrom = sizeof(From);
  constexpr int64_t kTo = sizeof(To);
  // Where a side is a few elements wide there is nothing to gain from tiles.
  constexpr int64_t kNarrow = 4;
  if (reads.extent < kNarrow || writes.extent < kNarrow) {
    const Loop& inner = reads.extent < writes.extent ? writes : reads;
    const Loop& outer = reads.extent < writes.extent ? reads : writes;
    for (int64_t i = 0; i < outer.extent; ++i) {
      CopyLine<Op>(source + i * outer.source_stride * kFrom, target + i * outer.target_stride * kTo,
                   inner);
    }
    return;
  }
  // Two tiles of it fit the first-level cache.
  constexpr int64_t kTile = kTo <= 4 ? 64 : 32;
  alignas(64) To read[kTile * kTile];
  alignas(64) To written[kTile * kTile];
  for (int64_t w = 0; w < writes.extent; w += kTile) {
    const int64_t num_w = std::min(kTile, writes.extent - w);
    for (int64_t r = 0; r < reads.extent; r += kTile) {
      const int64_t num_r = std::min(kTile, reads.extent - r);
      const char* from = source + (w * writes.source_stride + r * reads.source_stride) * kFrom;
      char* to = target + (w * writes.target_stride + r * reads.target_stride) * kTo;
      for (int64_t i = 0; i < num_w; ++i) {
        CopyLine<Op>(from + i * writes.source_stride * kFrom,
                     reinterpret_cast<char*>(read + i * kTile), {num_r, reads.source_stride, 1});
      }
      TransposeTile<To, kTile>(read, written, num_w, num_r);
      for (int64_t i = 0; i < num_r; ++i) {
        CopyLine<CopyOp<To>>(reinterpret_cast<const char*>(written + i * kTile),
                             to + i * reads.target_stride * kTo, {num_w, 1, writes.target_stride});
      }
    }
  }
}

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_COPY_ELEMENT_OPS_H_
