#include "kernels/copy/cuda/piece_form.h"

#include <algorithm>

namespace zerocast {
namespace {

// A run that gives every lane a vector of 16 bytes is worth a warp's while.
constexpr int64_t kLeastRunBytes = 512;
// Below that, lines that are aligned are faster by vectors: more of them are under way at a time.
constexpr int64_t kLongLineBytes = 4096;
// Fewer rows or columns leave most of a tile empty.
constexpr int64_t kLeastTileExtent = 8;

// The largest power of two, at most `most`, that divides `number`.
int64_t PowerOfTwoIn(int64_t number, int64_t most) {
  int64_t power = most;
  while (power > 1 && number % power != 0) power /= 2;
  return power;
}

// The most elements of vectors that line up with all places of a piece with a contiguous innermost
// loop.
int64_t VectorElements(const PieceSides& sides, const CopyPiece& piece) {
  const auto target = static_cast<int64_t>(reinterpret_cast<uintptr_t>(piece.target) %
                                           (sides.target_bytes * sides.vector_elements));
  int64_t most = std::min(sides.vector_elements, sides.source_alignment);
  most = PowerOfTwoIn(target / sides.target_bytes, most);
  const int last = piece.num_dims - 1;
  most = PowerOfTwoIn(piece.dims[last].extent, most);
  for (int k = 0; k < last; ++k) {
    most = PowerOfTwoIn(piece.dims[k].source_stride, most);
    most = PowerOfTwoIn(piece.dims[k].target_stride, most);
  }
  return most == sides.vector_elements || sides.any_width ? most : 1;
}

// The loop along which a transposition reads, or -1 when the piece is none that goes by tiles.
int TileReads(const CopyPiece& piece) {
  const int last = piece.num_dims - 1;
  int reads = last;
  for (int k = 0; k < last; ++k) {
    if (piece.dims[k].source_stride < piece.dims[reads].source_stride) reads = k;
  }
  const bool is_tiled = reads != last && piece.dims[reads].source_stride == 1 &&
                        piece.dims[last].target_stride == 1 &&
                        piece.dims[reads].extent >= kLeastTileExtent &&
                        piece.dims[last].extent >= kLeastTileExtent;
  return is_tiled ? reads : -1;
}

void SetVectors(int64_t vector_elements, CopyPiece* piece) {
  piece->form = PieceForm::kVectors;
  piece->vector_elements = static_cast<uint8_t>(vector_elements);
  if (vector_elements == 1) return;
  PieceDim& inner = piece->dims[piece->num_dims - 1];
  inner.extent /= vector_elements;
  inner.source_stride = inner.target_stride = vector_elements;
}

void SetForm(const PieceSides& sides, CopyPiece* piece) {
  const int last = piece->num_dims - 1;
  if (last < 0) return SetVectors(1, piece);
  const PieceDim& inner = piece->dims[last];
  if (inner.source_stride == 1 && inner.target_stride == 1) {
    const int64_t vector_elements = VectorElements(sides, *piece);
    const int64_t line_bytes = inner.extent * sides.wider_bytes;
    const bool is_aligned = vector_elements == sides.vector_elements;
    if (line_bytes >= (is_aligned && last > 0 ? kLongLineBytes : kLeastRunBytes)) {
      piece->form = PieceForm::kRuns;
      return;
    }
    return SetVectors(vector_elements, piece);
  }
  const int reads = TileReads(*piece);
  if (reads < 0) return SetVectors(1, piece);
  piece->form = PieceForm::kTiles;
  piece->reads_dim = static_cast<uint8_t>(reads);
}

}  // namespace

void ChooseForm(const PieceSides& sides, CopyPiece* piece) {
  SetForm(sides, piece);
  for (int k = 0; k < piece->num_dims; ++k) {
    piece->dims[k].by_extent = MakeDivider(static_cast<uint32_t>(piece->dims[k].extent));
  }
}

}  // namespace zerocast
