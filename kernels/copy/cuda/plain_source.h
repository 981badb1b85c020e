#ifndef ZEROCAST_KERNELS_COPY_CUDA_PLAIN_SOURCE_H_
#define ZEROCAST_KERNELS_COPY_CUDA_PLAIN_SOURCE_H_

// The source of a piece whose elements are what they are.  Internal to kernels/copy/cuda.
//
// A source is what the movers (move_runs.h, move_tiles.h, move_vectors.h) are templates of:
//   To, kWiderBytes, kLoadBytes, kVectorElements, kLoads, kAnyWidth, kShifts,
//   MisalignmentAt, Load, Convert: as below; At, where kShifts
// Loading and converting are two steps, so that a lane has several loads under way.

#include <cstdint>

#include "kernels/copy/cast.h"
#include "kernels/copy/cuda/copy_piece.h"
#include "kernels/copy/cuda/warp.h"
#include "kernels/copy/dtype.h"

namespace zerocast {

// Elements of type kFrom become kTo; equal types are copied as bits.
template <DType kFrom, DType kTo>
class PlainSource {
 public:
  using Piece = CopyPiece;
  using From = Bits<kFrom>;
  using To = Bits<kTo>;
  // Of an element, on the side where it has more.
  static constexpr int kWiderBytes = sizeof(From) > sizeof(To) ? sizeof(From) : sizeof(To);
  // Of an element where it is read, rounded up.
  static constexpr int kLoadBytes = sizeof(From);
  // As many elements as fill the vector of the wider side.
  static constexpr int kVectorElements = kVectorBytes / kWiderBytes;
  // Vectors that a lane loads before it stores the first.  Integers are cast rarely: the code of
  // one is enough.
  static constexpr int kLoads = kFrom != kTo && IsInteger(kFrom) ? 1 : 4;
  // Whether vectors of all powers of two are worth their code: a cast has full ones and single
  // elements.
  static constexpr bool kAnyWidth = kFrom == kTo;
  // Whether runs that cannot be aligned on both sides are bits that go by MoveShifted.
  static constexpr bool kShifts = kFrom == kTo;

  template <int kCount>
  using Loaded = Vector<From, kCount>;

  ZC_HOST_DEVICE explicit PlainSource(const CopyPiece& piece)
      : first_(InGlobalMemory(static_cast<const From*>(piece.source))) {}

  // How many elements `place`, counted from the piece's first element, lies behind one that Load of
  // kCount elements can be asked for; -1: no place can.
  template <int kCount>
  ZC_HOST_DEVICE int MisalignmentAt(int64_t place) const {
    return Misalignment<kCount>(first_ + place);
  }

  // kCount contiguous elements from `place` on.
  template <int kCount>
  ZC_HOST_DEVICE Loaded<kCount> Load(int64_t place) const {
    return LoadVector<From, kCount>(first_ + place);
  }

  template <int kCount>
  ZC_HOST_DEVICE Vector<To, kCount> Convert(const Loaded<kCount>& loaded) const {
    if constexpr (kFrom == kTo) {
      return loaded;
    } else {
      Vector<To, kCount> converted;
      ZC_UNROLL
      for (int i = 0; i < kCount; ++i) {
        converted.values[i] = CastElement<kFrom, kTo>(loaded.values[i]);
      }
      return converted;
    }
  }

  // Element `place`, where it lies.
  ZC_HOST_DEVICE const From* At(int64_t place) const { return first_ + place; }

 private:
  const From* first_;
};

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_COPY_CUDA_PLAIN_SOURCE_H_
