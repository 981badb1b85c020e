#ifndef ZEROCAST_KERNELS_COPY_CUDA_SEGMENT_H_
#define ZEROCAST_KERNELS_COPY_CUDA_SEGMENT_H_

// The work of one warp of the copy kernel on a batch.  Internal to kernels/copy/cuda.

#include <cstdint>

#include "kernels/copy/cuda/copy_piece.h"
#include "kernels/copy/cuda/decode_source.h"
#include "kernels/copy/cuda/move_runs.h"
#include "kernels/copy/cuda/move_tiles.h"
#include "kernels/copy/cuda/move_vectors.h"
#include "kernels/copy/cuda/plain_source.h"
#include "kernels/copy/cuda/warp.h"

namespace zerocast {

// A batch in the device's memory.
template <typename Piece>
struct BatchView {
  const Piece* pieces;
  const int64_t* first_elements;
  int64_t num_pieces;
  int64_t num_elements;
};

constexpr int64_t InVectors(int64_t num_bytes) {
  return (num_bytes + kVectorBytes - 1) / kVectorBytes * kVectorBytes;
}

// Shared memory of one warp: a descriptor, and behind it a tile, or what is loaded to be stored
// shifted.
template <typename Source>
struct WarpMemory {
  using Word = typename TileShape<Source>::Word;
  static constexpr int64_t kStagedBytes = Source::kShifts ? kStagedVectors * kVectorBytes : 0;
  static constexpr int64_t kTileBytes = TileShape<Source>::kNumWords * sizeof(Word);
  static constexpr int64_t kDescriptorBytes = InVectors(sizeof(typename Source::Piece));
  static constexpr int kNumBytes = static_cast<int>(
      kDescriptorBytes + InVectors(kStagedBytes > kTileBytes ? kStagedBytes : kTileBytes));
};

ZC_HOST_DEVICE inline const CopyPiece& PieceIn(const CopyPiece& piece) { return piece; }
ZC_HOST_DEVICE inline const CopyPiece& PieceIn(const DecodePiece& piece) { return piece.piece; }

// 4 bytes of anything.
using AnyWord __attribute__((may_alias)) = uint32_t;

// Copies words [begin, end) of 4 bytes.
template <typename Piece>
ZC_HOST_DEVICE inline void CopyWords(const Piece& from, int begin, int end, Piece* to,
                                     const Warp& warp) {
  warp.Each([&](int lane) {
    ZC_NO_UNROLL
    for (int i = begin + lane; i < end; i += kWarpSize) {
      reinterpret_cast<AnyWord*>(to)[i] = reinterpret_cast<const AnyWord*>(&from)[i];
    }
  });
  warp.Sync();
}

// What of elements [begin, end) of the piece begins in them: vectors, units of runs, tiles.  The
// rest of what is begun there is moved, too, and nothing that begins before.
template <typename Source>
ZC_HOST_DEVICE inline void MovePiece(const typename Source::Piece& descriptor, int64_t num_elements,
                                     int64_t begin, int64_t end, void* memory, const Warp& warp) {
  using To = typename Source::To;
  const CopyPiece& piece = PieceIn(descriptor);
  const Source source(descriptor);
  To* const target = InGlobalMemory(static_cast<To*>(piece.target));
  if (piece.form == PieceForm::kRuns) {
    MoveRuns(source, piece, num_elements, target, begin, end, static_cast<uint32_t*>(memory), warp);
  } else if (piece.form == PieceForm::kTiles) {
    MoveTiles(source, piece, target, begin, end,
              static_cast<typename TileShape<Source>::Word*>(memory), warp);
  } else {
    MoveVectors(source, piece, target, begin, end, warp);
  }
}

// The last piece that begins at or before `element`; pieces are not empty.
ZC_HOST_DEVICE inline int64_t FindPiece(const int64_t* first_elements, int64_t num_pieces,
                                        int64_t element) {
  int64_t piece = 0;
  ZC_NO_UNROLL
  for (int64_t after = num_pieces; after - piece > 1;) {
    const int64_t middle = piece + (after - piece) / 2;
    if (first_elements[middle] <= element) {
      piece = middle;
    } else {
      after = middle;
    }
  }
  return piece;
}

// Calls move(descriptor, number of its elements, begin, end) for each piece's part of elements
// [begin, end) of the batch, with the descriptor in `shared`.
template <typename Piece, typename Move>
ZC_HOST_DEVICE inline void ForEachPiece(const BatchView<Piece>& batch, int64_t begin, int64_t end,
                                        Piece* shared, const Warp& warp, const Move& move) {
  constexpr int kFewWords = kFewDimsBytes<Piece> / sizeof(uint32_t);
  constexpr int kWords = sizeof(Piece) / sizeof(uint32_t);
  if (end > batch.num_elements) end = batch.num_elements;
  int64_t i = FindPiece(batch.first_elements, batch.num_pieces, begin);
  int64_t first = batch.first_elements[i];
  ZC_NO_UNROLL
  for (; begin < end; ++i) {
    const int64_t piece_end = batch.first_elements[i + 1];
    const int64_t stop = piece_end < end ? piece_end : end;
    CopyWords(batch.pieces[i], 0, kFewWords, shared, warp);
    if (PieceIn(*shared).num_dims > kFewDims) {
      CopyWords(batch.pieces[i], kFewWords, kWords, shared, warp);
    }
    move(*shared, piece_end - first, begin - first, stop - first);
    warp.Sync();  // before the next descriptor is written over this one
    begin = stop;
    first = piece_end;
  }
}

// A warp's work on elements [begin, end) of a batch of copies and casts.  `memory` is
// WarpMemory<PlainSource<kFrom, kTo>>::kNumBytes of shared memory, aligned to a vector.
template <DType kFrom, DType kTo>
ZC_HOST_DEVICE inline void MoveSegment(const BatchView<CopyPiece>& batch, int64_t begin,
                                       int64_t end, char* memory, const Warp& warp) {
  using Source = PlainSource<kFrom, kTo>;
  char* const rest = memory + WarpMemory<Source>::kDescriptorBytes;
  ForEachPiece(batch, begin, end, reinterpret_cast<CopyPiece*>(memory), warp,
               [&](const CopyPiece& piece, int64_t count, int64_t from, int64_t to) {
                 MovePiece<Source>(piece, count, from, to, rest, warp);
               });
}

// The same of quantised sources, with the memory of DecodeSource<kTo, 1>.
template <DType kTo>
ZC_HOST_DEVICE inline void DecodeSegment(const BatchView<DecodePiece>& batch, int64_t begin,
                                         int64_t end, char* memory, const Warp& warp) {
  char* const rest = memory + WarpMemory<DecodeSource<kTo, 1>>::kDescriptorBytes;
  ForEachPiece(batch, begin, end, reinterpret_cast<DecodePiece*>(memory), warp,
               [&](const DecodePiece& piece, int64_t count, int64_t from, int64_t to) {
                 if (PackedElements(piece.decoder.kind) == 2) {
                   MovePiece<DecodeSource<kTo, 2>>(piece, count, from, to, rest, warp);
                 } else {
                   MovePiece<DecodeSource<kTo, 1>>(piece, count, from, to, rest, warp);
                 }
               });
}

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_COPY_CUDA_SEGMENT_H_
