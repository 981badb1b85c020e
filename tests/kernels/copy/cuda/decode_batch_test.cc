#include "kernels/copy/cuda/decode_batch.h"

#include <cstdint>
#include <cstring>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/copy/cuda/mixed_batch.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

alignas(16) char source_memory[64];
alignas(16) char scale_memory[64];
alignas(16) char target_memory[256];

Decoder Mxfp4() { return {DecoderKind::kMxfp4, DType::kUInt8, DType::kUInt8, 1, 32, 1, 32, 1}; }

PlacedDecodeBox Line(int64_t extent) {
  PlacedDecodeBox placed;
  placed.box.num_dims = 1;
  placed.box.dims[0] = {extent, 1, 1};
  placed.decoder = Mxfp4();
  placed.source = {source_memory, 0, scale_memory, 0};
  placed.target = target_memory;
  return placed;
}

TEST(MakeDecodeBatch, SaysWhereElementsLie) {
  PlacedDecodeBox placed = Line(6);
  placed.box.source_offset = 70;
  placed.box.target_offset = 5;
  placed.source.stored_first = 64;
  placed.source.scales_first = 2;
  ZC_ASSERT_OK_AND_ASSIGN(const DecodeBatch batch,
                          MakeDecodeBatch({Line(5), placed}, DType::kBFloat16));
  EXPECT_THAT(batch.first_elements, ElementsAre(0, 5, 11));
  EXPECT_EQ(batch.num_elements(), 11);
  // Counted from a matrix near by, so that 32 bits do.
  EXPECT_EQ(batch.pieces[1].first_element, 6);
  EXPECT_EQ(batch.pieces[1].stored_first, 0);
  EXPECT_EQ(batch.pieces[1].scales_first, 0);
  EXPECT_EQ(batch.pieces[1].piece.target, target_memory + 10);
  EXPECT_EQ(batch.pieces[1].stored, source_memory);
  EXPECT_EQ(batch.pieces[1].scales, scale_memory);
}

TEST(MakeDecodeBatch, RefusesWhatHasNoBlocks) {
  PlacedDecodeBox plain = Line(4);
  plain.decoder = Decoder();
  EXPECT_THAT(MakeDecodeBatch({plain}, DType::kFloat32),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("no blocks")));
  PlacedDecodeBox empty = Line(4);
  empty.decoder.block_cols = 0;
  EXPECT_THAT(MakeDecodeBatch({Line(4), empty}, DType::kFloat32),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("box 1"), HasSubstr("no blocks"))));
}

TEST(MakeDecodeBatch, KeepsTwoElementsOfAByteTogether) {
  PlacedDecodeBox odd = Line(4);
  odd.decoder.cols = odd.decoder.block_cols = 5;
  odd.box.source_offset = 17;  // in the fourth matrix
  odd.source.stored_first = 16;
  odd.source.scales_first = 3;
  ZC_ASSERT_OK_AND_ASSIGN(const DecodeBatch batch, MakeDecodeBatch({odd}, DType::kFloat32));
  EXPECT_EQ(batch.pieces[0].first_element, 7);
  EXPECT_EQ(batch.pieces[0].stored_first, 6);
  EXPECT_EQ(batch.pieces[0].scales_first, 1);
}

TEST(MakeDecodeBatch, RefusesPlacesAndTypesThatCannotBe) {
  EXPECT_THAT(MakeDecodeBatch({Line(4)}, DType::kInt8),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("not decoded to int8")));
  PlacedDecodeBox before = Line(4);
  before.source.stored_first = 2;
  EXPECT_THAT(MakeDecodeBatch({before}, DType::kFloat32),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("reads element 0")));
  PlacedDecodeBox odd = Line(4);
  odd.source.stored_first = -1;
  EXPECT_THAT(MakeDecodeBatch({odd}, DType::kFloat32),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("within a byte")));
  PlacedDecodeBox target = Line(4);
  target.target = target_memory + 2;
  EXPECT_THAT(MakeDecodeBatch({target}, DType::kFloat32),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("target is not aligned")));
  PlacedDecodeBox scales = Line(4);
  scales.source.scales = nullptr;
  EXPECT_THAT(MakeDecodeBatch({scales}, DType::kFloat32),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("array of scales is null")));
}

MixedBox Plain(DType from, DType to) {
  MixedBox mixed;
  mixed.box.num_dims = 1;
  mixed.box.dims[0] = {4, 1, 1};
  mixed.source = source_memory;
  mixed.source_dtype = from;
  mixed.target = target_memory;
  mixed.target_dtype = to;
  return mixed;
}

TEST(MixedBatch, IsAGroupForEachPairOfTypes) {
  MixedBox decoded = Plain(DType::kInvalid, DType::kBFloat16);
  decoded.decoder = Mxfp4();
  decoded.scales = scale_memory;
  ZC_ASSERT_OK_AND_ASSIGN(
      const MixedBatch batch,
      MixedBatch::Make({Plain(DType::kBFloat16, DType::kBFloat16), decoded,
                        Plain(DType::kFloat32, DType::kBFloat16),
                        Plain(DType::kFloat16, DType::kFloat16),  // bits of the same size
                        Plain(DType::kFloat32, DType::kBFloat16)}));
  EXPECT_EQ(batch.num_launches(), 3);
  ASSERT_THAT(batch.copies(), SizeIs(2));
  EXPECT_THAT(batch.copies()[0].pieces, SizeIs(2));
  EXPECT_THAT(batch.copies()[1].pieces, SizeIs(2));
  ASSERT_THAT(batch.decodes(), SizeIs(1));
  EXPECT_THAT(batch.decodes()[0].pieces, SizeIs(1));

  std::vector<int64_t> descriptors(batch.num_descriptor_bytes() / 8);
  ASSERT_EQ(batch.num_descriptor_bytes() % 8, 0);
  batch.WriteDescriptors(reinterpret_cast<std::byte*>(descriptors.data()));
  const std::vector<CopyPiece>& first = batch.copies()[0].pieces;
  EXPECT_EQ(std::memcmp(descriptors.data(), first.data(), 2 * sizeof(CopyPiece)), 0);
  EXPECT_THAT(std::vector<int64_t>(descriptors.end() - 2, descriptors.end()), ElementsAre(0, 4));
}

TEST(MixedBatch, OfNothingLaunchesNothing) {
  ZC_ASSERT_OK_AND_ASSIGN(const MixedBatch batch, MixedBatch::Make({}));
  EXPECT_EQ(batch.num_launches(), 0);
  EXPECT_EQ(batch.num_descriptor_bytes(), 0);
}

TEST(MixedBatch, RefusesWhatItsGroupsRefuse) {
  EXPECT_THAT(MixedBatch::Make({Plain(DType::kFloat32, DType::kInt8)}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("no cast from")));
  EXPECT_THAT(MixedBatch::Make({Plain(DType::kInvalid, DType::kInvalid)}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("no cast from")));
}

}  // namespace
}  // namespace zerocast
