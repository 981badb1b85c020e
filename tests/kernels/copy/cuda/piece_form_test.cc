#include <cstdint>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/copy/cuda/copy_batch.h"
#include "kernels/copy/cuda/copy_piece.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

// Never followed.
const char* const kSource = reinterpret_cast<const char*>(uintptr_t{1} << 20);
char* const kTarget = reinterpret_cast<char*>(uintptr_t{1} << 30);

CopyPiece PieceOf(const std::vector<BoxDim>& dims, DType from, DType to, int64_t source_shift = 0) {
  PlacedBox placed;
  placed.box.num_dims = static_cast<int32_t>(dims.size());
  for (size_t k = 0; k < dims.size(); ++k) placed.box.dims[k] = dims[k];
  placed.source = kSource + source_shift;
  placed.target = kTarget;
  return MakeCopyBatch({placed}, from, to).value().pieces[0];
}

CopyPiece PieceOf(const std::vector<BoxDim>& dims, int64_t source_shift = 0) {
  return PieceOf(dims, DType::kBFloat16, DType::kBFloat16, source_shift);
}

TEST(PieceForm, LongLinesAreRuns) {
  EXPECT_EQ(PieceOf({{5000, 1, 1}}).form, PieceForm::kRuns);
  EXPECT_EQ(PieceOf({{5000, 1, 1}}, 2).form, PieceForm::kRuns);
  EXPECT_EQ(PieceOf({{9, 4096, 8192}, {4096, 1, 1}}).form, PieceForm::kRuns);
}

TEST(PieceForm, ShortLinesGoByTheirWidestVectors) {
  const CopyPiece rows = PieceOf({{9, 512, 128}, {128, 1, 1}});
  EXPECT_EQ(rows.form, PieceForm::kVectors);
  EXPECT_EQ(rows.vector_elements, 8);
  EXPECT_EQ(rows.dims[1].extent, 16);
  EXPECT_EQ(rows.dims[1].source_stride, 8);
  EXPECT_EQ(rows.dims[1].target_stride, 8);
  EXPECT_EQ(PieceOf({{9, 516, 128}, {128, 1, 1}}).vector_elements, 4);
  EXPECT_EQ(PieceOf({{9, 512, 128}, {126, 1, 1}}).vector_elements, 2);
  EXPECT_EQ(PieceOf({{9, 512, 128}, {128, 1, 1}}, 8).vector_elements, 4);
  EXPECT_EQ(PieceOf({{9, 512, 128}, {128, 1, 1}}, 2).vector_elements, 1);
}

TEST(PieceForm, CastsHaveWholeVectorsOrNone) {
  const DType from = DType::kFloat32, to = DType::kBFloat16;
  EXPECT_EQ(PieceOf({{9, 256, 64}, {64, 1, 1}}, from, to).vector_elements, 4);
  EXPECT_EQ(PieceOf({{9, 258, 64}, {64, 1, 1}}, from, to).vector_elements, 1);
}

TEST(PieceForm, TranspositionsGoByTiles) {
  const CopyPiece matrix = PieceOf({{100, 1, 60}, {60, 100, 1}});
  EXPECT_EQ(matrix.form, PieceForm::kTiles);
  EXPECT_EQ(matrix.reads_dim, 0);
  const CopyPiece experts = PieceOf({{4, 6000, 6000}, {100, 1, 60}, {60, 100, 1}});
  EXPECT_EQ(experts.form, PieceForm::kTiles);
  EXPECT_EQ(experts.reads_dim, 1);
}

TEST(PieceForm, WhatIsNoPlaneOfContiguousLoopsGoesByElements) {
  EXPECT_EQ(PieceOf({{100, 1, 4}, {4, 100, 1}}).form, PieceForm::kVectors);
  EXPECT_EQ(PieceOf({{100, 2, 60}, {60, 200, 1}}).form, PieceForm::kVectors);
  EXPECT_EQ(PieceOf({{100, 1, 120}, {60, 100, 2}}).form, PieceForm::kVectors);
  EXPECT_EQ(PieceOf({{100, 3, 1}}).vector_elements, 1);
  EXPECT_EQ(PieceOf({}).form, PieceForm::kVectors);
}

}  // namespace
}  // namespace zerocast
