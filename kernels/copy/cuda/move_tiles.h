#ifndef ZEROCAST_KERNELS_COPY_CUDA_MOVE_TILES_H_
#define ZEROCAST_KERNELS_COPY_CUDA_MOVE_TILES_H_

// Pieces of form kTiles: transpositions, tile by tile through shared memory, with whole sectors
// read and written on both sides.  Internal to kernels/copy/cuda.
//
// Along a column of a tile the source is strided and the target contiguous, along a row the other
// way round.  Shared memory has words of as many elements of a column as fill 4 bytes (one, of 8
// bytes), column after column, with one word between columns.  So the words of a column lie in
// different banks, and those of a row, too.

#include <cstdint>
#include <type_traits>

#include "kernels/copy/cuda/copy_piece.h"
#include "kernels/copy/cuda/move_vectors.h"
#include "kernels/copy/cuda/warp.h"

namespace zerocast {

template <typename Source>
struct TileShape {
  using To = typename Source::To;
  using Word = std::conditional_t<sizeof(To) == 8, uint64_t, uint32_t>;
  // Elements of a word, and the bits of one.
  static constexpr int kPacked = sizeof(Word) / sizeof(To);
  static constexpr int kToBits = 8 * sizeof(To);
  // Words that a pass over the banks of shared memory covers.
  static constexpr int kBankWords = 128 / sizeof(Word);
  // A column is 128 bytes of the target; a row is at least 64 bytes of the source.
  static constexpr int kColumnWords = kBankWords;
  static constexpr int kRows = kColumnWords * kPacked;
  static constexpr int kColumns = Source::kLoadBytes <= 2 ? 64 : 32;
  // Elements of a load where the source is aligned.  Those of a byte are taken apart in registers.
  static constexpr int kLoadElements = Source::kVectorElements < 8 ? Source::kVectorElements : 8;
  static constexpr int kPitch = kColumnWords + 1;
  static constexpr int kNumWords = kColumns * kPitch;
};

// Where a tile lies: its first element on both sides, the steps from column to column and from row
// to row, and how much of it there is.
template <typename Source>
struct Tile {
  int64_t source;  // a place
  int64_t source_row_stride;
  typename Source::To* target;
  int64_t target_column_stride;
  int rows;
  int columns;
};

// Fewer than kCount columns from `column` on, where `slot` is, of the words that a lane with
// `first_word` has of each.
template <int kCount, typename Source>
ZC_HOST_DEVICE inline void LoadTileEdge(const Source& source, const Tile<Source>& tile,
                                        typename TileShape<Source>::Word* slot, int column,
                                        int first_word) {
  using Shape = TileShape<Source>;
  ZC_NO_UNROLL
  for (; column < tile.columns; ++column, slot += Shape::kPitch) {
    ZC_NO_UNROLL
    for (int word = first_word; word * Shape::kPacked < tile.rows; word += kCount) {
      typename Shape::Word packed = 0;
      ZC_UNROLL
      for (int p = 0; p < Shape::kPacked; ++p) {
        const int row = word * Shape::kPacked + p;
        if (row >= tile.rows) break;
        const auto one = source.template Convert<1>(
            source.template Load<1>(tile.source + column + row * tile.source_row_stride));
        packed |= static_cast<typename Shape::Word>(one.values[0]) << (p * Shape::kToBits);
      }
      slot[word] = packed;
    }
  }
}

// Lane `lane`'s part of the tile to `words`, by loads of kCount elements of a row.
template <int kCount, typename Source>
ZC_HOST_DEVICE inline void LoadTile(const Source& source, const Tile<Source>& tile,
                                    typename TileShape<Source>::Word* words, int lane) {
  using Shape = TileShape<Source>;
  using Word = typename Shape::Word;
  constexpr int kPacked = Shape::kPacked;
  // A warp's load covers 32 columns, kCount of them a lane, and kCount words of each.  Lanes that
  // go to shared memory together write kBankWords different words modulo kBankWords.
  constexpr int kSide = Shape::kBankWords / kCount;
  const int first_column = (lane % kSide + lane / Shape::kBankWords * kSide) * kCount;
  const int first_word = lane / kSide % kCount;
  constexpr int kWordSteps = Shape::kColumnWords / kCount;
  // Words that are loaded before the first is written; more where loads are single elements.
  constexpr int kMost = (kCount == 1 ? 2 : 1) * Source::kLoads / kPacked;
  constexpr int kGroup = kMost < 1 ? 1 : kMost < kWordSteps ? kMost : kWordSteps;
  ZC_NO_UNROLL
  for (int column = first_column; column < tile.columns; column += kWarpSize) {
    Word* const slot = words + column * Shape::kPitch;
    if (column + kCount > tile.columns) {  // the edge of the box, if it ends within a vector
      LoadTileEdge<kCount>(source, tile, slot, column, first_word);
      break;
    }
    ZC_NO_UNROLL
    for (int word = first_word; word * kPacked < tile.rows; word += kGroup * kCount) {
      typename Source::template Loaded<kCount> loaded[kGroup][kPacked] = {};
      ZC_UNROLL
      for (int g = 0; g < kGroup; ++g) {
        ZC_UNROLL
        for (int p = 0; p < kPacked; ++p) {
          const int row = (word + g * kCount) * kPacked + p;
          if (row < tile.rows) {
            loaded[g][p] =
                source.template Load<kCount>(tile.source + column + row * tile.source_row_stride);
          }
        }
      }
      ZC_UNROLL
      for (int g = 0; g < kGroup; ++g) {
        Word packed[kCount] = {};
        ZC_UNROLL
        for (int p = 0; p < kPacked; ++p) {
          const auto converted = source.template Convert<kCount>(loaded[g][p]);
          ZC_UNROLL
          for (int i = 0; i < kCount; ++i) {
            packed[i] |= static_cast<Word>(converted.values[i]) << (p * Shape::kToBits);
          }
        }
        ZC_UNROLL
        for (int i = 0; i < kCount; ++i) slot[i * Shape::kPitch + word + g * kCount] = packed[i];
      }
    }
  }
}

// Lane `lane`'s part of the tile from `words`, by vectors of a column; the target is aligned to
// them.
template <typename Source>
ZC_HOST_DEVICE inline void StoreTileVectors(const Tile<Source>& tile,
                                            const typename TileShape<Source>::Word* words,
                                            int lane) {
  using Shape = TileShape<Source>;
  using Word = typename Shape::Word;
  constexpr int kWords = kVectorBytes / sizeof(Word);
  constexpr int kElements = kWords * Shape::kPacked;
  constexpr int kLanes = Shape::kColumnWords / kWords;  // on one column
  const int word = lane % kLanes * kWords;
  const int row = word * Shape::kPacked;
  if (row >= tile.rows) return;
  const Word* slot = words + lane / kLanes * Shape::kPitch + word;
  typename Source::To* to = tile.target + lane / kLanes * tile.target_column_stride + row;
  constexpr int kStep = kWarpSize / kLanes;
  ZC_NO_UNROLL
  for (int column = lane / kLanes; column < tile.columns; column += kStep) {
    if (row + kElements <= tile.rows) {
      Vector<Word, kWords> vector;
      ZC_UNROLL
      for (int i = 0; i < kWords; ++i) vector.values[i] = slot[i];
      StoreVector(vector, reinterpret_cast<Word*>(to));
    } else {
      ZC_NO_UNROLL
      for (int i = 0; row + i < tile.rows; ++i) {
        to[i] = static_cast<typename Source::To>(slot[i / Shape::kPacked] >>
                                                 (i % Shape::kPacked * Shape::kToBits));
      }
    }
    slot += kStep * Shape::kPitch;
    to += kStep * tile.target_column_stride;
  }
}

// The same by single elements, neighbours side by side.
template <typename Source>
ZC_HOST_DEVICE inline void StoreTileSingly(const Tile<Source>& tile,
                                           const typename TileShape<Source>::Word* words,
                                           int lane) {
  using Shape = TileShape<Source>;
  ZC_NO_UNROLL
  for (int row = lane; row < tile.rows; row += kWarpSize) {
    const int shift = row % Shape::kPacked * Shape::kToBits;
    const typename Shape::Word* slot = words + row / Shape::kPacked;
    typename Source::To* to = tile.target + row;
    ZC_NO_UNROLL
    for (int column = 0; column < tile.columns; ++column) {
      *to = static_cast<typename Source::To>(*slot >> shift);
      slot += Shape::kPitch;
      to += tile.target_column_stride;
    }
  }
}

template <typename Source>
ZC_HOST_DEVICE inline void MoveTile(const Source& source, const Tile<Source>& tile,
                                    typename TileShape<Source>::Word* words, const Warp& warp) {
  constexpr int kCount = TileShape<Source>::kLoadElements;
  const bool loads_vectors = source.template MisalignmentAt<kCount>(tile.source) == 0 &&
                             tile.source_row_stride % kCount == 0;
  warp.Each([&](int lane) {
    if (loads_vectors) {
      LoadTile<kCount>(source, tile, words, lane);
    } else {
      LoadTile<1>(source, tile, words, lane);
    }
  });
  warp.Sync();
  constexpr int kElements = kVectorBytes / sizeof(typename Source::To);
  const bool stores_vectors =
      Misalignment<kElements>(tile.target) == 0 && tile.target_column_stride % kElements == 0;
  warp.Each([&](int lane) {
    if (stores_vectors) {
      StoreTileVectors(tile, words, lane);
    } else {
      StoreTileSingly(tile, words, lane);
    }
  });
  warp.Sync();  // before the next tile is written over this one
}

// The tiles of the piece that begin in [begin, end).  Elements are numbered plane by plane of the
// two loops, in a plane by strips of a tile's rows, in a strip tile by tile.
template <typename Source>
ZC_HOST_DEVICE inline void MoveTiles(const Source& source, const CopyPiece& piece,
                                     typename Source::To* target, int64_t begin, int64_t end,
                                     typename TileShape<Source>::Word* words, const Warp& warp) {
  using Shape = TileShape<Source>;
  const PieceDim& across = piece.dims[piece.reads_dim];   // a row goes along it
  const PieceDim& down = piece.dims[piece.num_dims - 1];  // and a column along this
  const int64_t plane_elements = across.extent * down.extent;
  // The numbers that are divided fit into 32 bits, and their division is shorter.
  int64_t plane = static_cast<uint32_t>(begin) / static_cast<uint32_t>(plane_elements);
  int64_t rest = begin - plane * plane_elements;
  int64_t row = static_cast<uint32_t>(rest) / static_cast<uint32_t>(across.extent) / Shape::kRows *
                Shape::kRows;
  rest -= row * across.extent;
  int64_t rows = down.extent - row < Shape::kRows ? down.extent - row : Shape::kRows;
  // The first tile that begins at or after `begin`: maybe the one behind the strip's last.
  int64_t column = static_cast<uint32_t>(rest + rows * Shape::kColumns - 1) /
                   static_cast<uint32_t>(rows * Shape::kColumns) * int64_t{Shape::kColumns};
  ZC_NO_UNROLL
  while (true) {
    // Where the plane begins.
    Place origin;
    auto outer = static_cast<uint32_t>(plane);
    ZC_NO_UNROLL
    for (int k = piece.num_dims - 2; k >= 0; --k) {
      if (k == piece.reads_dim) continue;
      const PieceDim& dim = piece.dims[k];
      const uint32_t before = Quotient(outer, dim.by_extent);
      const int64_t step = outer - before * static_cast<uint32_t>(dim.extent);
      origin.source += step * dim.source_stride;
      origin.target += step * dim.target_stride;
      outer = before;
    }
    ZC_NO_UNROLL
    for (; row < down.extent; row += Shape::kRows, column = 0) {
      rows = down.extent - row < Shape::kRows ? down.extent - row : Shape::kRows;
      ZC_NO_UNROLL
      for (; column < across.extent; column += Shape::kColumns) {
        if (plane * plane_elements + row * across.extent + column * rows >= end) return;
        const int64_t left = across.extent - column;
        Tile<Source> tile;
        tile.source = origin.source + row * down.source_stride + column;
        tile.source_row_stride = down.source_stride;
        tile.target = target + origin.target + row + column * across.target_stride;
        tile.target_column_stride = across.target_stride;
        tile.rows = static_cast<int>(rows);
        tile.columns = static_cast<int>(left < Shape::kColumns ? left : Shape::kColumns);
        MoveTile(source, tile, words, warp);
      }
    }
    row = 0;
    ++plane;
  }
}

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_COPY_CUDA_MOVE_TILES_H_
