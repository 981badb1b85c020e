#ifndef ZEROCAST_KERNELS_COPY_CUDA_MOVE_RUNS_H_
#define ZEROCAST_KERNELS_COPY_CUDA_MOVE_RUNS_H_

// Pieces of form kRuns: the innermost loop is contiguous on both sides and long enough for all
// lanes.  Internal to kernels/copy/cuda.

#include <cstdint>

#include "kernels/copy/cuda/copy_piece.h"
#include "kernels/copy/cuda/move_vectors.h"
#include "kernels/copy/cuda/warp.h"

namespace zerocast {

// Elements [0, count) behind `place` and `target`, one a lane and load.
template <typename Source>
ZC_HOST_DEVICE inline void MoveSingly(const Source& source, int64_t place,
                                      typename Source::To* target, int64_t count,
                                      const Warp& warp) {
  // Single elements are small: twice as many are under way.
  constexpr int kLoads = 2 * Source::kLoads;
  warp.Each([&](int lane) {
    int64_t i = lane;
    ZC_NO_UNROLL
    for (; i + (kLoads - 1) * kWarpSize < count; i += kLoads * kWarpSize) {
      typename Source::template Loaded<1> loaded[kLoads];
      ZC_UNROLL
      for (int j = 0; j < kLoads; ++j) {
        loaded[j] = source.template Load<1>(place + i + j * kWarpSize);
      }
      ZC_UNROLL
      for (int j = 0; j < kLoads; ++j) {
        StoreVector(source.template Convert<1>(loaded[j]), target + i + j * kWarpSize);
      }
    }
    ZC_NO_UNROLL
    for (; i < count; i += kWarpSize) {
      StoreVector(source.template Convert<1>(source.template Load<1>(place + i)), target + i);
    }
  });
}

// The same where kCount elements can be aligned on both sides together: vectors, and single
// elements at the edges.  The lanes go side by side, so that a warp's access is one block of
// memory.
template <int kCount, typename Source>
ZC_HOST_DEVICE inline void MoveAligned(const Source& source, int64_t place,
                                       typename Source::To* target, int64_t count,
                                       const Warp& warp) {
  const int to_alignment = (kCount - Misalignment<kCount>(target)) % kCount;
  const int64_t head = to_alignment < count ? to_alignment : count;
  const int64_t vectors_end = head + (count - head) / kCount * kCount;
  constexpr int kLoads = Source::kLoads;
  constexpr int64_t kStep = kWarpSize * kCount;
  warp.Each([&](int lane) {
    // Fewer than kCount elements at either end, and kCount is at most half of a warp.
    static_assert(2 * (kCount - 1) <= kWarpSize, "a lane has one element of the edges at most");
    const int64_t edge = lane < head ? lane : vectors_end + lane - head;
    if (edge < count) {
      StoreVector(source.template Convert<1>(source.template Load<1>(place + edge)), target + edge);
    }
    int64_t i = head + static_cast<int64_t>(lane) * kCount;
    if constexpr (kLoads > 1) {
      ZC_NO_UNROLL
      for (; i + (kLoads - 1) * kStep < vectors_end; i += kLoads * kStep) {
        typename Source::template Loaded<kCount> loaded[kLoads];
        ZC_UNROLL
        for (int j = 0; j < kLoads; ++j) {
          loaded[j] = source.template Load<kCount>(place + i + j * kStep);
        }
        ZC_UNROLL
        for (int j = 0; j < kLoads; ++j) {
          StoreVector(source.template Convert<kCount>(loaded[j]), target + i + j * kStep);
        }
      }
    }
    ZC_NO_UNROLL
    for (; i < vectors_end; i += kStep) {
      StoreVector(source.template Convert<kCount>(source.template Load<kCount>(place + i)),
                  target + i);
    }
  });
}

// Bits whose source and target cannot be aligned together: vectors are loaded as the source is
// aligned, put side by side in shared memory, and stored as aligned words of the target, each out
// of two words.  `staged` is shared memory of this warp, aligned to a vector, of
// kStagedVectors * 16 bytes.
inline constexpr int kStagedLoads = 4;
inline constexpr int kStagedVectors = kStagedLoads * kWarpSize;

template <typename T>
ZC_HOST_DEVICE inline void MoveShifted(const T* source, T* target, int64_t count, uint32_t* staged,
                                       const Warp& warp) {
  constexpr int kWordBytes = sizeof(uint32_t);
  constexpr int kVectorWords = kVectorBytes / kWordBytes;
  constexpr int kSectorBytes = 32;
  // From the first whole vector of the source on; what lies before it and fills no word, at the
  // end, goes singly.
  const auto begin = reinterpret_cast<uintptr_t>(source);
  const auto end = begin + count * sizeof(T);
  const uintptr_t from = (begin + kVectorBytes - 1) / kVectorBytes * kVectorBytes;
  const uintptr_t vectors_end = end / kVectorBytes * kVectorBytes;
  uintptr_t done = begin;  // all bytes before it are moved
  // The first sector of the target that comes out of these vectors as a whole.
  const auto to_begin = reinterpret_cast<uintptr_t>(target);
  uintptr_t to = to_begin + (from - begin);
  const uintptr_t skipped = (kSectorBytes - to % kSectorBytes) % kSectorBytes;
  if (from + skipped < vectors_end) {
    to += skipped;
    done = from + skipped;
    // done is where the word at `to` comes from; both go on in steps of whole words.
    const uintptr_t singles = done - begin;
    warp.Each([&](int lane) {
      ZC_NO_UNROLL
      for (uintptr_t i = lane; i < singles / sizeof(T); i += kWarpSize) target[i] = source[i];
    });
    while (true) {
      // Vectors from the one that holds `done` on.
      const uintptr_t first = done / kVectorBytes * kVectorBytes;
      const uintptr_t left = (vectors_end - first) / kVectorBytes;
      const int num_vectors = static_cast<int>(left < kStagedVectors ? left : kStagedVectors);
      const int shift = static_cast<int>(done - first);
      int num_words = (num_vectors * kVectorBytes - shift) / kWordBytes;
      if (left > kStagedVectors) num_words -= num_words % (kSectorBytes / kWordBytes);
      if (num_vectors < 2 || num_words < 1) break;
      warp.Each([&](int lane) {
        const auto* const vectors = reinterpret_cast<const uint32_t*>(
                                        reinterpret_cast<const char*>(source) + (first - begin)) +
                                    lane * kVectorWords;
        uint32_t* const slot = staged + lane * kVectorWords;
        constexpr int kStep = kWarpSize * kVectorWords;
        Vector<uint32_t, kVectorWords> loaded[kStagedLoads] = {};
        ZC_UNROLL
        for (int j = 0; j < kStagedLoads; ++j) {
          if (lane + j * kWarpSize < num_vectors) {
            loaded[j] = LoadVector<uint32_t, kVectorWords>(vectors + j * kStep);
          }
        }
        ZC_UNROLL
        for (int j = 0; j < kStagedLoads; ++j) StoreWords(loaded[j], slot + j * kStep);
      });
      warp.Sync();
      warp.Each([&](int lane) {
        auto* const words =
            reinterpret_cast<uint32_t*>(reinterpret_cast<char*>(target) + (to - to_begin));
        const uint32_t* const shifted = staged + shift / kWordBytes;
        const int bits = shift % kWordBytes * 8;
        ZC_NO_UNROLL
        for (int i = lane; i < num_words; i += kWarpSize) {
          const uint64_t two = shifted[i] | (bits == 0 ? 0 : uint64_t{shifted[i + 1]} << 32);
          words[i] = static_cast<uint32_t>(two >> bits);
        }
      });
      warp.Sync();  // before the next round writes over what is read here
      done += num_words * kWordBytes;
      to += num_words * kWordBytes;
    }
  }
  const int64_t moved = static_cast<int64_t>((done - begin) / sizeof(T));
  warp.Each([&](int lane) {
    ZC_NO_UNROLL
    for (int64_t i = moved + lane; i < count; i += kWarpSize) target[i] = source[i];
  });
}

// `count` contiguous elements.
template <typename Source>
ZC_HOST_DEVICE inline void MoveRun(const Source& source, int64_t place, typename Source::To* target,
                                   int64_t count, uint32_t* staged, const Warp& warp) {
  constexpr int kCount = Source::kVectorElements;
  if (Misalignment<kCount>(target) == source.template MisalignmentAt<kCount>(place)) {
    MoveAligned<kCount>(source, place, target, count, warp);
  } else if constexpr (Source::kShifts) {
    MoveShifted(source.At(place), target, count, staged, warp);
  } else {
    MoveSingly(source, place, target, count, warp);
  }
}

// A warp's part of a run begins at a whole number of these, so that it is aligned where the run is.
inline constexpr int64_t kRunUnitBytes = 128;

// The elements of the piece in the units that begin in [begin, end).
template <typename Source>
ZC_HOST_DEVICE inline void MoveRuns(const Source& source, const CopyPiece& piece,
                                    int64_t num_elements, typename Source::To* target,
                                    int64_t begin, int64_t end, uint32_t* staged,
                                    const Warp& warp) {
  constexpr int64_t kUnit = kRunUnitBytes / Source::kWiderBytes;
  const int64_t extent = piece.dims[piece.num_dims - 1].extent;
  int64_t i = (begin + kUnit - 1) / kUnit * kUnit;
  int64_t stop = (end + kUnit - 1) / kUnit * kUnit;
  if (stop > num_elements) stop = num_elements;
  if (i >= stop) return;
  const uint32_t runs_before =
      Quotient(static_cast<uint32_t>(i), piece.dims[piece.num_dims - 1].by_extent);
  int64_t left = (runs_before + 1) * extent - i;  // of the run
  ZC_NO_UNROLL
  while (i < stop) {
    const Place place = PlaceOf(piece, static_cast<uint32_t>(i));
    const int64_t count = left < stop - i ? left : stop - i;
    MoveRun(source, place.source, target + place.target, count, staged, warp);
    i += count;
    left = extent;
  }
}

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_COPY_CUDA_MOVE_RUNS_H_
