// Folders that real engines saved, against the tensors that DeepSpeed's own zero_to_fp32 made.
#include "client/formats/deepspeed/zero_checkpoint.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "tests/client/formats/deepspeed/zero_bytes.h"
#include "tests/server/conversion/golden.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;

// Every tensor of a checkpoint by each of its names, trained ones from the masters.
std::map<std::string, std::pair<std::vector<int64_t>, std::string>> Consolidated(
    const ZeroCheckpoint& checkpoint) {
  std::map<std::string, std::pair<std::vector<int64_t>, std::string>> tensors;
  for (const ZeroParameter& parameter : checkpoint.parameters) {
    const std::string bytes = parameter.is_trained ? StateBytes(checkpoint, parameter, 0)
                                                   : PieceBytes(checkpoint, parameter.stored);
    tensors[parameter.name] = {parameter.shape, bytes};
    for (const std::string& alias : parameter.aliases) tensors[alias] = {parameter.shape, bytes};
  }
  for (const ZeroBuffer& buffer : checkpoint.buffers) {
    tensors[buffer.name] = {
        buffer.shape, AsFloat32(PieceBytes(checkpoint, {{buffer.value, 0}}), buffer.value.dtype)};
  }
  return tensors;
}

TEST(ZeroCheckpoint, HoldsWhatDeepSpeedConsolidates) {
  int num_tensors = 0;
  for (const auto& [name, others] : RecordedFolders()) {
    SCOPED_TRACE(name);
    ZC_ASSERT_OK_AND_ASSIGN(const ZeroCheckpoint checkpoint,
                            ReadZeroCheckpoint(DeepSpeedFolder(name), ""));
    const auto tensors = Consolidated(checkpoint);
    const json expected = json::parse(ReadWholeFile(DeepSpeedFolder(name + ".fp32.json")));
    std::set<std::string> names;
    for (const json& wanted : expected) {
      SCOPED_TRACE(wanted["name"].get<std::string>());
      const auto found = tensors.find(wanted["name"]);
      ASSERT_NE(found, tensors.end());
      EXPECT_EQ(found->second.first, wanted["shape"].get<std::vector<int64_t>>());
      EXPECT_EQ(Sha256Hex(found->second.second), wanted["sha256"]);
      names.insert(wanted["name"]);
      ++num_tensors;
    }
    // DeepSpeed leaves frozen parameters out at stage 1; we have them from the state dict.
    for (const ZeroParameter& parameter : checkpoint.parameters) {
      if (checkpoint.stage == 1 && !parameter.is_trained) {
        EXPECT_EQ(names.count(parameter.name), 0u);
      } else {
        EXPECT_EQ(names.count(parameter.name), 1u) << parameter.name;
      }
      EXPECT_FALSE(parameter.is_absent());
    }
    EXPECT_EQ(checkpoint.module_names.size(), tensors.size());
  }
  EXPECT_GT(num_tensors, 130);
}

TEST(ZeroCheckpoint, HasTheSameStatesAtEveryWorldSizeAndInTheUniversalForm) {
  int num_states = 0;
  for (const auto& [name, others] : RecordedFolders()) {
    ZC_ASSERT_OK_AND_ASSIGN(const ZeroCheckpoint first,
                            ReadZeroCheckpoint(DeepSpeedFolder(name), ""));
    std::map<std::string, const ZeroParameter*> by_name;
    for (const ZeroParameter& parameter : first.parameters) by_name[parameter.name] = &parameter;
    for (const std::string& other : others) {
      SCOPED_TRACE(name + other);
      ZC_ASSERT_OK_AND_ASSIGN(const ZeroCheckpoint second,
                              ReadZeroCheckpoint(DeepSpeedFolder(name + other), ""));
      EXPECT_EQ(second.is_universal, other == "-uni");
      EXPECT_EQ(second.stage, first.stage);
      EXPECT_EQ(second.global_steps, first.global_steps);
      EXPECT_EQ(second.optimizer_step, first.optimizer_step);
      EXPECT_THAT(second.state_names, ElementsAre("fp32", "exp_avg", "exp_avg_sq"));
      ASSERT_EQ(second.parameters.size(), first.parameters.size());
      for (const ZeroParameter& parameter : second.parameters) {
        SCOPED_TRACE(parameter.name);
        ASSERT_EQ(by_name.count(parameter.name), 1u);
        const ZeroParameter& was = *by_name[parameter.name];
        EXPECT_EQ(parameter.is_trained, was.is_trained);
        EXPECT_EQ(parameter.group, was.group);
        EXPECT_EQ(parameter.dtype, was.dtype);
        EXPECT_EQ(parameter.shape, was.shape);
        EXPECT_EQ(parameter.aliases, was.aliases);
        EXPECT_EQ(Sha256Hex(PieceBytes(second, parameter.stored)),
                  Sha256Hex(PieceBytes(first, was.stored)));
        if (!parameter.is_trained) continue;
        for (size_t state = 0; state < 3; ++state) {
          EXPECT_EQ(Sha256Hex(StateBytes(second, parameter, state)),
                    Sha256Hex(StateBytes(first, was, state)))
              << second.state_names[state];
          ++num_states;
        }
      }
    }
  }
  EXPECT_GT(num_states, 500);
}

TEST(ZeroCheckpoint, SaysWhatTheFolderIs) {
  ZC_ASSERT_OK_AND_ASSIGN(const ZeroCheckpoint fp16,
                          ReadZeroCheckpoint(DeepSpeedFolder("tiny-z1-w2-fp16"), ""));
  EXPECT_EQ(fp16.tag, "global_step6");
  EXPECT_EQ(fp16.stage, 1);
  EXPECT_EQ(fp16.world_size, 2);
  EXPECT_EQ(fp16.global_steps, 6);
  EXPECT_EQ(fp16.skipped_steps, 1);
  EXPECT_EQ(fp16.optimizer_step, 5);  // those that were not skipped
  EXPECT_TRUE(fp16.settings.fp16);
  EXPECT_EQ(fp16.parameters[0].dtype, DType::kFloat16);

  ZC_ASSERT_OK_AND_ASSIGN(const ZeroCheckpoint c1,
                          ReadZeroCheckpoint(DeepSpeedFolder("keep_c1"), ""));
  EXPECT_EQ(c1.stage, 3);
  EXPECT_EQ(c1.settings.sub_group_size, 10);
  EXPECT_EQ(c1.num_sub_groups, 3);
  EXPECT_EQ(c1.num_groups, 2);
  EXPECT_TRUE(c1.has_bf16_prefix);
  EXPECT_THAT(c1.parameters[0].aliases, ElementsAre("head.weight"));
  EXPECT_THAT(c1.module_names,
              ElementsAre("buf", "embed.weight", "lin1.weight", "lin1.bias", "frozen.weight",
                          "norm.weight", "norm.bias", "head.weight"));
  EXPECT_EQ(c1.parameters.back().name, "frozen.weight");
  EXPECT_EQ(c1.parameters.back().group, -1);

  ZC_ASSERT_OK_AND_ASSIGN(const ZeroCheckpoint legacy,
                          ReadZeroCheckpoint(DeepSpeedFolder("c2"), ""));
  EXPECT_FALSE(legacy.storages[0].has_crc);
  EXPECT_FALSE(legacy.has_bf16_prefix);

  ZC_ASSERT_OK_AND_ASSIGN(const ZeroCheckpoint tiny,
                          ReadZeroCheckpoint(DeepSpeedFolder("tiny-z2-w4"), ""));
  EXPECT_TRUE(tiny.settings.round_robin_gradients);
  EXPECT_TRUE(tiny.settings.parameter_alignment);
  EXPECT_TRUE(tiny.storages[0].has_crc);
}

TEST(ZeroCheckpoint, TakesATagsOwnFolderAndATagByName) {
  const std::string folder = DeepSpeedFolder("keep_c1");
  ZC_ASSERT_OK_AND_ASSIGN(const ZeroCheckpoint own,
                          ReadZeroCheckpoint(folder + "/global_step2/", ""));
  EXPECT_EQ(own.folder, folder);
  EXPECT_EQ(own.tag, "global_step2");
  EXPECT_THAT(ReadZeroCheckpoint(folder, "global_step2"), IsOk());
}

}  // namespace
}  // namespace zerocast
