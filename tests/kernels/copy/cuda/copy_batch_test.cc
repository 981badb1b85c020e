#include "kernels/copy/cuda/copy_batch.h"

#include <cstdint>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

alignas(16) char source_memory[64];
alignas(16) char target_memory[64];

uint64_t Distance(const void* from, const void* to) {
  return reinterpret_cast<uintptr_t>(to) - reinterpret_cast<uintptr_t>(from);
}

PlacedBox Line(int64_t extent) {
  PlacedBox placed;
  placed.box.num_dims = 1;
  placed.box.dims[0] = {extent, 1, 1};
  placed.source = source_memory;
  placed.target = target_memory;
  return placed;
}

TEST(MakeCopyBatch, CountsElementsBeforeEachPiece) {
  PlacedBox one = Line(1);
  one.box.num_dims = 0;
  ZC_ASSERT_OK_AND_ASSIGN(const CopyBatch batch, MakeCopyBatch({Line(5), one, Line(2)},
                                                               DType::kFloat32, DType::kBFloat16));
  EXPECT_THAT(batch.first_elements, ElementsAre(0, 5, 6, 8));
  EXPECT_EQ(batch.num_elements(), 8);
  EXPECT_EQ(batch.pieces.size(), 3u);
}

TEST(MakeCopyBatch, AddsOffsetsInElementsOfEachSide) {
  PlacedBox placed = Line(2);
  placed.box.source_offset = 3;
  placed.box.target_offset = 5;
  ZC_ASSERT_OK_AND_ASSIGN(const CopyBatch batch,
                          MakeCopyBatch({placed}, DType::kFloat32, DType::kBFloat16));
  EXPECT_EQ(batch.pieces[0].source, source_memory + 12);
  EXPECT_EQ(batch.pieces[0].target, target_memory + 10);
}

TEST(MakeCopyBatch, OfNothingIsEmpty) {
  ZC_ASSERT_OK_AND_ASSIGN(const CopyBatch batch, MakeCopyBatch({}, DType::kInt8, DType::kInt8));
  EXPECT_EQ(batch.num_elements(), 0);
}

TEST(MakeCopyBatch, RefusesACastThatDoesNotExist) {
  EXPECT_THAT(
      MakeCopyBatch({Line(1)}, DType::kFloat32, DType::kInt32),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("no cast from float32 to int32")));
}

TEST(MakeCopyBatch, RefusesAnAddressThatItsTypeCannotHave) {
  PlacedBox odd = Line(1);
  odd.source = source_memory + 2;
  EXPECT_THAT(
      MakeCopyBatch({Line(1), odd}, DType::kFloat32, DType::kFloat32),
      StatusIs(absl::StatusCode::kInvalidArgument,
               AllOf(HasSubstr("box 1"), HasSubstr("source is not aligned to the 4 bytes"))));
  PlacedBox null = Line(1);
  null.target = nullptr;
  EXPECT_THAT(MakeCopyBatch({null}, DType::kInt8, DType::kInt8),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("target is null")));
}

TEST(MakeCopyBatch, RefusesLoopsThatAreNone) {
  PlacedBox many = Line(1);
  many.box.num_dims = kMaxBoxDims + 1;
  EXPECT_THAT(MakeCopyBatch({many}, DType::kInt8, DType::kInt8),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("7 loops")));
  EXPECT_THAT(MakeCopyBatch({Line(0)}, DType::kInt8, DType::kInt8),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("extent 0")));
  EXPECT_THAT(
      MakeCopyBatch({Line(INT64_MAX)}, DType::kInt8, DType::kInt8),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("more elements than a device")));
}

TEST(MakeCopyBatch, CutsBoxesWhoseElements32BitsDoNotCount) {
  PlacedBox huge = Line(1);
  huge.box.num_dims = 2;
  huge.box.dims[0] = {3, 5000000000, 4000000001};
  huge.box.dims[1] = {4000000001, 1, 1};
  ZC_ASSERT_OK_AND_ASSIGN(const CopyBatch batch,
                          MakeCopyBatch({huge}, DType::kBFloat16, DType::kBFloat16));
  EXPECT_EQ(batch.num_elements(), 3 * 4000000001);
  ASSERT_EQ(batch.pieces.size(), 6u);
  EXPECT_EQ(batch.first_elements[1], 2000000000);
  EXPECT_EQ(Distance(source_memory, batch.pieces[1].source), uint64_t{4000000000});
  EXPECT_EQ(Distance(source_memory, batch.pieces[2].source), uint64_t{10000000000});
  EXPECT_EQ(Distance(target_memory, batch.pieces[5].target), uint64_t{20000000004});
}

}  // namespace
}  // namespace zerocast
