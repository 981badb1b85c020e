#ifndef ZEROCAST_KERNELS_COPY_CUDA_COPY_SEGMENT_H_
#define ZEROCAST_KERNELS_COPY_CUDA_COPY_SEGMENT_H_

// The work of one warp of the copy kernel, as functions of host and device: a loop over the lanes
// runs them on the CPU, which is how they are tested without a GPU.  Internal to kernels/copy/cuda.

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "kernels/copy/cast.h"
#include "kernels/copy/cuda/copy_piece.h"
#include "kernels/copy/dtype.h"

// Arrays stay in registers only where all their indices are constants.  Elsewhere repeated code
// gains nothing, for no load may pass the store before it.
#ifdef __CUDA_ARCH__
#define ZC_UNROLL _Pragma("unroll")
#define ZC_NO_UNROLL _Pragma("unroll 1")
#else
#define ZC_UNROLL
#define ZC_NO_UNROLL
#endif

namespace zerocast {

inline constexpr int kWarpSize = 32;
inline constexpr int kVectorBytes = 16;

// Elements of type kFrom become kTo; equal types are copied as bits.
template <DType kFrom, DType kTo>
struct ElementCast {
  using From = Bits<kFrom>;
  using To = Bits<kTo>;
  static constexpr int64_t kWiderBytes = sizeof(From) > sizeof(To) ? sizeof(From) : sizeof(To);
  // As many elements as fill the vector of the wider side.
  static constexpr int kVectorElements = static_cast<int>(kVectorBytes / kWiderBytes);
  // Vectors that a lane loads before the first store waits for one of them.  Fewer for casts, whose
  // code is repeated for each.
  static constexpr int kLoads = kFrom == kTo ? 4 : 2;
  // The next choice where source and target cannot both be aligned to kCount elements.  A cast
  // goes on with single ones, to keep its code small.
  template <int kCount>
  static constexpr int kNarrower = kFrom == kTo ? kCount / 2 : 1;

  ZC_HOST_DEVICE static To Apply(From bits) {
    if constexpr (kFrom == kTo) {
      return bits;
    } else {
      return CastElement<kFrom, kTo>(bits);
    }
  }
};

// `pointer`, known to the compiler to be of global memory: for an address that was read from memory
// it would else make instructions that look for the kind of memory first.
template <typename T>
ZC_HOST_DEVICE inline T* InGlobalMemory(T* pointer) {
#ifdef __CUDA_ARCH__
  __builtin_assume(__isGlobal(pointer));
#endif
  return pointer;
}

// kCount elements that are read or written by one instruction.  A device faults where an address
// does not have their alignment; the host ends the process there, too.
template <typename T, int kCount>
struct alignas(sizeof(T) * kCount) Vector {
  T values[kCount];
};

template <typename T, int kCount>
ZC_HOST_DEVICE inline Vector<T, kCount> LoadVector(const T* from) {
#ifdef __CUDA_ARCH__
  return *reinterpret_cast<const Vector<T, kCount>*>(from);
#else
  if (reinterpret_cast<uintptr_t>(from) % sizeof(Vector<T, kCount>) != 0) std::abort();
  Vector<T, kCount> vector;
  std::memcpy(&vector, from, sizeof(vector));
  return vector;
#endif
}

template <typename T, int kCount>
ZC_HOST_DEVICE inline void StoreVector(const Vector<T, kCount>& vector, T* to) {
#ifdef __CUDA_ARCH__
  *reinterpret_cast<Vector<T, kCount>*>(to) = vector;
#else
  if (reinterpret_cast<uintptr_t>(to) % sizeof(vector) != 0) std::abort();
  std::memcpy(to, &vector, sizeof(vector));
#endif
}

template <typename Cast, int kCount>
ZC_HOST_DEVICE inline Vector<typename Cast::To, kCount> CastVector(
    const Vector<typename Cast::From, kCount>& from) {
  Vector<typename Cast::To, kCount> to;
  ZC_UNROLL
  for (int i = 0; i < kCount; ++i) to.values[i] = Cast::Apply(from.values[i]);
  return to;
}

// The number of elements by which `pointer` lies behind an address that is aligned to kCount of
// them.
template <int kCount, typename T>
ZC_HOST_DEVICE inline int64_t Misalignment(const T* pointer) {
  return static_cast<int64_t>(reinterpret_cast<uintptr_t>(pointer) / sizeof(T) % kCount);
}

// Lane `lane`'s part of `count` contiguous elements.  The lanes go side by side, so that a warp's
// access is one block of memory.  Vectors of kCount elements where source and target can be aligned
// together, else narrower ones; single elements at the edges.
template <typename Cast, int kCount = Cast::kVectorElements>
ZC_HOST_DEVICE inline void CopyRun(const typename Cast::From* source, typename Cast::To* target,
                                   int64_t count, int lane) {
  if constexpr (kCount == 1) {
    ZC_NO_UNROLL
    for (int64_t i = lane; i < count; i += kWarpSize) target[i] = Cast::Apply(source[i]);
  } else {
    const int64_t misalignment = Misalignment<kCount>(target);
    if (misalignment != Misalignment<kCount>(source)) {
      CopyRun<Cast, Cast::template kNarrower<kCount>>(source, target, count, lane);
      return;
    }
    const int64_t to_alignment = (kCount - misalignment) % kCount;
    const int64_t head = to_alignment < count ? to_alignment : count;
    const int64_t vectors_end = head + (count - head) / kCount * kCount;

    // Fewer than kCount elements at either end, and kCount is at most half of a warp.
    static_assert(2 * (kCount - 1) <= kWarpSize, "a lane has one element of the edges at most");
    const int64_t edge = lane < head ? lane : vectors_end + lane - head;
    if (edge < count) target[edge] = Cast::Apply(source[edge]);

    constexpr int kLoads = Cast::kLoads;
    constexpr int64_t kStep = kWarpSize * kCount;
    int64_t i = head + static_cast<int64_t>(lane) * kCount;
    ZC_NO_UNROLL
    for (; i + (kLoads - 1) * kStep < vectors_end; i += kLoads * kStep) {
      Vector<typename Cast::From, kCount> loaded[kLoads];
      ZC_UNROLL
      for (int j = 0; j < kLoads; ++j) {
        loaded[j] = LoadVector<typename Cast::From, kCount>(source + i + j * kStep);
      }
      ZC_UNROLL
      for (int j = 0; j < kLoads; ++j) {
        StoreVector(CastVector<Cast, kCount>(loaded[j]), target + i + j * kStep);
      }
    }
    ZC_NO_UNROLL
    for (; i < vectors_end; i += kStep) {
      StoreVector(CastVector<Cast, kCount>(LoadVector<typename Cast::From, kCount>(source + i)),
                  target + i);
    }
  }
}

// Where an element of a piece lies, counted in elements from its first one.
struct Place {
  int64_t source = 0;
  int64_t target = 0;
};

// The place of element `index`, in the order of the loops.  64-bit divisions are slow on a GPU:
// they are made only where 32 bits do not hold the numbers.
ZC_HOST_DEVICE inline Place PlaceOf(const CopyPiece& piece, int64_t index) {
  Place place;
  uint64_t rest = static_cast<uint64_t>(index);
  ZC_NO_UNROLL
  for (int64_t k = piece.num_dims - 1; k > 0; --k) {
    const BoxDim& dim = piece.dims[k];
    const uint64_t extent = static_cast<uint64_t>(dim.extent);
    uint64_t steps_before;  // of the loops outside this one
    if (((rest | extent) >> 32) == 0) {
      steps_before = static_cast<uint32_t>(rest) / static_cast<uint32_t>(extent);
    } else {
      steps_before = rest / extent;
    }
    const int64_t step = static_cast<int64_t>(rest - steps_before * extent);
    place.source += step * dim.source_stride;
    place.target += step * dim.target_stride;
    rest = steps_before;
  }
  if (piece.num_dims > 0) {
    place.source += static_cast<int64_t>(rest) * piece.dims[0].source_stride;
    place.target += static_cast<int64_t>(rest) * piece.dims[0].target_stride;
  }
  return place;
}

// Lane `lane`'s part of elements [begin, end) of `piece`.
template <typename Cast>
ZC_HOST_DEVICE inline void CopySegment(const CopyPiece& piece, int64_t begin, int64_t end,
                                       int lane) {
  using From = typename Cast::From;
  using To = typename Cast::To;
  const From* const source = InGlobalMemory(static_cast<const From*>(piece.source));
  To* const target = InGlobalMemory(static_cast<To*>(piece.target));
  // A run that gives every lane a vector is worth the whole warp.
  constexpr int64_t kLeastRun = kWarpSize * Cast::kVectorElements;
  if (piece.num_dims > 0) {
    const BoxDim& inner = piece.dims[piece.num_dims - 1];
    if (inner.source_stride == 1 && inner.target_stride == 1 && inner.extent >= kLeastRun) {
      for (int64_t i = begin; i < end;) {
        const Place place = PlaceOf(piece, i);
        const int64_t left_of_run = inner.extent - i % inner.extent;
        const int64_t count = left_of_run < end - i ? left_of_run : end - i;
        CopyRun<Cast>(source + place.source, target + place.target, count, lane);
        i += count;
      }
      return;
    }
  }
  ZC_NO_UNROLL
  for (int64_t i = begin + lane; i < end; i += kWarpSize) {
    const Place place = PlaceOf(piece, i);
    target[place.target] = Cast::Apply(source[place.source]);
  }
}

// The elements of a batch, piece after piece, are cut into segments of equal size (the last one may
// be shorter), so that warps get equal work however uneven the pieces are.  Of a few KiB: the
// search for a segment's first piece is small beside it, and a batch of some MiB still fills a GPU.
template <typename Cast>
inline constexpr int64_t kSegmentElements = 8192 / Cast::kWiderBytes;

// Lane `lane`'s part of segment `segment`.  first_elements as in CopyBatch.
template <typename Cast>
ZC_HOST_DEVICE inline void CopyBatchSegment(const CopyPiece* pieces, const int64_t* first_elements,
                                            int64_t num_pieces, int64_t segment, int lane) {
  const int64_t begin = segment * kSegmentElements<Cast>;
  const int64_t num_elements = first_elements[num_pieces];
  const int64_t rest = num_elements - begin;
  const int64_t end = begin + (rest < kSegmentElements<Cast> ? rest : kSegmentElements<Cast>);
  // The last piece that begins at or before `begin`; pieces are not empty.
  int64_t piece = 0;
  for (int64_t after = num_pieces; after - piece > 1;) {
    const int64_t middle = piece + (after - piece) / 2;
    if (first_elements[middle] <= begin) {
      piece = middle;
    } else {
      after = middle;
    }
  }
  for (int64_t i = begin; i < end; ++piece) {
    const int64_t first = first_elements[piece];
    const int64_t piece_end = first_elements[piece + 1];
    const int64_t stop = piece_end < end ? piece_end : end;
    CopySegment<Cast>(pieces[piece], i - first, stop - first, lane);
    i = stop;
  }
}

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_COPY_CUDA_COPY_SEGMENT_H_
