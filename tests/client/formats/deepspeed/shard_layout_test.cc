#include "client/formats/deepspeed/shard_layout.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/base/errors.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A checkpoint of parameters with these numbers of elements, by sub-group.
ZeroCheckpoint Checkpoint(int stage, int32_t world_size,
                          const std::vector<std::vector<int64_t>>& sub_groups,
                          const std::vector<int32_t>& groups) {
  ZeroCheckpoint checkpoint;
  checkpoint.stage = stage;
  checkpoint.world_size = world_size;
  checkpoint.num_sub_groups = static_cast<int32_t>(sub_groups.size());
  checkpoint.num_groups = groups.back() + 1;
  for (size_t k = 0; k < sub_groups.size(); ++k) {
    for (const int64_t elements : sub_groups[k]) {
      ZeroParameter parameter;
      parameter.num_elements = elements;
      parameter.dtype = DType::kBFloat16;
      parameter.is_trained = true;
      parameter.sub_group = static_cast<int32_t>(k);
      parameter.group = groups[k];
      checkpoint.parameters.push_back(parameter);
    }
  }
  return checkpoint;
}

// "parameters/begins/partition" of each flat tensor.
std::string Text(const ShardLayout& layout) {
  std::vector<std::string> flats;
  for (const FlatLayout& flat : layout.flats) {
    flats.push_back(absl::StrCat(absl::StrJoin(flat.parameters, ","), "/",
                                 absl::StrJoin(flat.begins, ","), "/", flat.partition));
  }
  return absl::StrJoin(flats, " ");
}

// "parameter:offset+num_elements@flat_offset" of each part.
std::string Parts(const ZeroCheckpoint& checkpoint, const ShardLayout& layout, size_t flat,
                  int64_t rank) {
  std::vector<std::string> parts;
  for (const FlatPart& part : PartsOf(checkpoint, layout, layout.flats[flat], rank)) {
    parts.push_back(absl::StrCat(part.parameter, ":", part.offset, "+", part.num_elements, "@",
                                 part.flat_offset));
  }
  return absl::StrJoin(parts, " ");
}

TEST(ShardLayout, MakesSubGroupsByThePartitionsOfTheWorldSize) {
  ZeroCheckpoint checkpoint = Checkpoint(3, 2, {{35}, {15}, {3, 3, 3}}, {0, 0, 1});
  checkpoint.settings.sub_group_size = 10;
  ZC_ASSERT_OK_AND_ASSIGN(ShardLayout layout, LayOutShards(checkpoint, 2));
  EXPECT_EQ(Text(layout), "0/0/18 1/0/8 2,3,4/0,2,4/6");
  // 12 + 5 are more than 10, so the first closes with its first parameter.
  ZC_ASSERT_OK_AND_ASSIGN(layout, LayOutShards(checkpoint, 3));
  EXPECT_EQ(Text(layout), "0/0/12 1/0/5 2,3,4/0,1,2/3");
  // 5 + 2 are not.
  ZC_ASSERT_OK_AND_ASSIGN(layout, LayOutShards(checkpoint, 8));
  EXPECT_EQ(Text(layout), "0,1/0,5/7 2,3,4/0,1,2/3");
  EXPECT_EQ(layout.flats[0].group, 0);
  EXPECT_EQ(layout.flats[1].group, 1);
  EXPECT_EQ(Parts(checkpoint, layout, 0, 0), "0:0+5@0 1:0+2@5");
  EXPECT_EQ(Parts(checkpoint, layout, 0, 7), "1:14+1@5");
  EXPECT_EQ(Parts(checkpoint, layout, 1, 2), "2:2+1@0 3:2+1@1 4:2+1@2");
  EXPECT_EQ(Parts(checkpoint, layout, 1, 3), "");
}

TEST(ShardLayout, CutsGroupsIntoEqualPartsOfAnEvenNumber) {
  const ZeroCheckpoint checkpoint = Checkpoint(1, 2, {{4}, {35, 15, 9}}, {0, 1});
  ZC_ASSERT_OK_AND_ASSIGN(const ShardLayout layout, LayOutShards(checkpoint, 3));
  EXPECT_EQ(Text(layout), "0/0/2 1,2,3/0,35,50/20");
  EXPECT_EQ(Parts(checkpoint, layout, 0, 2), "");
  EXPECT_EQ(EndPadding(layout.flats[0], 1), 0);
  EXPECT_EQ(EndPadding(layout.flats[0], 2), 2);
  EXPECT_EQ(Parts(checkpoint, layout, 1, 0), "1:0+20@0");
  EXPECT_EQ(Parts(checkpoint, layout, 1, 1), "1:20+15@0 2:0+5@15");
  EXPECT_EQ(Parts(checkpoint, layout, 1, 2), "2:5+10@0 3:0+9@10");
  EXPECT_EQ(EndPadding(layout.flats[1], 2), 1);
}

TEST(ShardLayout, AlignsEachParameterButTheLast) {
  ZeroCheckpoint checkpoint = Checkpoint(2, 2, {{1, 35, 16, 15}}, {0});
  checkpoint.settings.parameter_alignment = true;
  ZC_ASSERT_OK_AND_ASSIGN(const ShardLayout layout, LayOutShards(checkpoint, 4));
  EXPECT_EQ(Text(layout), "0,1,2,3/0,8,48,64/20");
  EXPECT_THAT(layout.flats[0].paddings, ElementsAre(7, 5, 0, 0));
  EXPECT_EQ(layout.flats[0].used, 79);
  EXPECT_EQ(Parts(checkpoint, layout, 0, 0), "0:0+1@0 1:0+12@8");
  EXPECT_EQ(Parts(checkpoint, layout, 0, 2), "1:32+3@0 2:0+12@8");
  EXPECT_EQ(Parts(checkpoint, layout, 0, 3), "2:12+4@0 3:0+15@4");
  // Of 4 bytes an element 4, of 1 byte 16.
  for (ZeroParameter& parameter : checkpoint.parameters) parameter.dtype = DType::kFloat32;
  ZC_ASSERT_OK_AND_ASSIGN(const ShardLayout wide, LayOutShards(checkpoint, 1));
  EXPECT_THAT(wide.flats[0].paddings, ElementsAre(3, 1, 0, 0));
}

TEST(ShardLayout, UndoesRoundRobinAndDoesItAgain) {
  // Given 0 1 2 3 4 5 6, saved on 3 ranks as 0 3 6 1 4 2 5, with so many elements as their number.
  ZeroCheckpoint checkpoint = Checkpoint(2, 3, {{10, 13, 16, 11, 14, 12, 15}}, {0});
  checkpoint.settings.round_robin_gradients = true;
  const auto elements = [&](const std::vector<int32_t>& parameters) {
    std::vector<int64_t> numbers;
    for (const int32_t parameter : parameters) {
      numbers.push_back(checkpoint.parameters[static_cast<size_t>(parameter)].num_elements - 10);
    }
    return numbers;
  };
  ZC_ASSERT_OK_AND_ASSIGN(ShardLayout layout, LayOutShards(checkpoint, 3));
  EXPECT_THAT(elements(layout.flats[0].parameters), ElementsAre(0, 3, 6, 1, 4, 2, 5));
  ZC_ASSERT_OK_AND_ASSIGN(layout, LayOutShards(checkpoint, 2));
  EXPECT_THAT(elements(layout.flats[0].parameters), ElementsAre(0, 2, 4, 6, 1, 3, 5));
  EXPECT_THAT(elements(layout.flats[0].given), ElementsAre(0, 1, 2, 3, 4, 5, 6));
  ZC_ASSERT_OK_AND_ASSIGN(layout, LayOutShards(checkpoint, 9));
  EXPECT_THAT(elements(layout.flats[0].parameters), ElementsAre(0, 1, 2, 3, 4, 5, 6));
}

TEST(ShardLayout, RefusesWhatTheConfigDoesNotGive) {
  ZeroCheckpoint checkpoint = Checkpoint(3, 2, {{35}, {15}}, {0, 0});
  EXPECT_THAT(LayOutShards(checkpoint, 3), StatusIs(absl::StatusCode::kFailedPrecondition,
                                                    HasSubstr("its 2 flat tensors a rank")));
  checkpoint.settings.sub_group_size = 18;
  EXPECT_THAT(LayOutShards(checkpoint, 3), IsOk());
  for (const int64_t world_size : {int64_t{0}, int64_t{-1}, kMaxWorldSize + 1}) {
    EXPECT_THAT(LayOutShards(checkpoint, world_size),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("a world size is 1 to")));
  }
  checkpoint.stage = 0;
  const auto whole = LayOutShards(checkpoint, 3);
  EXPECT_THAT(whole, StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("without ZeRO")));
  EXPECT_EQ(ReasonOf(whole.status()), "UNSUPPORTED");
}

}  // namespace
}  // namespace zerocast
