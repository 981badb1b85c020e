// Folders whose pickles nobody's training wrote: refused by name, in little memory and time.
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/formats/deepspeed/consolidate.h"
#include "client/formats/deepspeed/shard_layout.h"
#include "client/formats/deepspeed/zero_checkpoint.h"
#include "client/formats/deepspeed/zero_manifest.h"
#include "client/formats/zip_archive.h"
#include "server/base/errors.h"
#include "tests/client/formats/deepspeed/zero_bytes.h"
#include "tests/client/formats/torch_bytes.h"
#include "tests/status_matchers.h"
#include "tests/temp_dir.h"

namespace zerocast {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Le;
using ::testing::SizeIs;

constexpr char kOptim[] = "zero_pp_rank_0_mp_rank_00_optim_states.pt";

std::string Item(const std::string& name, const std::string& value) {
  return PickledText(name) + value + "s";
}
// module.name(text).
std::string CallOf(const std::string& module, const std::string& name,
                   const std::string& argument) {
  return absl::StrCat("c", module, "\n", name, "\n", argument, "\x85R");
}

// The model and optimizer states of a stage 3 checkpoint of one rank, as pickles that each test
// changes; every tensor has four floats.
struct Pickles {
  std::string module = "}", param_shapes, world_size = PickledNumber(1), more;
  std::string stage = PickledNumber(3), flats = "](" + PickledTensor().Text() + "e";
  std::string model_file = "zero_pp_rank_0_mp_rank_00_model_states.pt";
  std::string flat_key = "fp32_flat_groups", base_key = "optimizer_state_dict";
  std::string Shapes(const std::string& items) const { return "](}" + items + "e"; }

  std::string Model() const {
    return "}" + Item("module", module) + Item("dp_world_size", world_size) +
           Item("param_shapes", param_shapes) + more;
  }
  std::string Optim() const {
    const std::string groups = "](}" + Item("params", "](K" + std::string(1, '\0') + "e") + "e";
    const std::string base = "}" + Item("state", "}") + Item("param_groups", groups);
    return "}" + Item("optimizer_state_dict", "}" + Item("zero_stage", stage) +
                                                  Item("partition_count", PickledNumber(1)) +
                                                  Item(flat_key, flats) + Item(base_key, base));
  }
};

class ZeroHostile : public ::testing::Test {
 protected:
  void Write(const Pickles& pickles) {
    const std::filesystem::path tag = std::filesystem::path(temp_.path()) / "t1";
    std::filesystem::create_directories(tag);
    std::ofstream(temp_.File("latest")) << "t1";
    std::ofstream(tag / pickles.model_file, std::ios::binary) << ZipOf(TorchParts(pickles.Model()));
    std::ofstream(tag / kOptim, std::ios::binary) << ZipOf(TorchParts(pickles.Optim()));
  }
  absl::Status Read() { return ReadZeroCheckpoint(temp_.path(), "").status(); }

  TempDir temp_;
};

Pickles Well() {
  Pickles pickles;
  pickles.param_shapes = pickles.Shapes(Item("w", PickledTuple({4})));
  return pickles;
}

TEST_F(ZeroHostile, TheFolderOfTheseTestsIsWell) {
  Write(Well());
  ZC_ASSERT_OK_AND_ASSIGN(const ZeroCheckpoint read, ReadZeroCheckpoint(temp_.path(), ""));
  EXPECT_EQ(read.parameters.size(), 1u);
}

TEST_F(ZeroHostile, WhatNobodyReadsMayBeMadeByAnything) {
  Pickles pickles = Well();
  pickles.more = Item("client", CallOf("my.module", "Thing", PickledText("x")));
  Write(pickles);
  EXPECT_THAT(Read(), IsOk());
}

TEST_F(ZeroHostile, ANumberIsNotWhatAnUnknownCallWouldMake) {
  Pickles pickles = Well();
  pickles.stage = CallOf("deepspeed.runtime.zero.config", "ZeroStageEnum", PickledNumber(3));
  Write(pickles);
  EXPECT_THAT(Read(), IsOk());
  pickles.stage = CallOf("my.module", "Thing", PickledNumber(3));
  Write(pickles);
  EXPECT_THAT(Read(), StatusIs(absl::StatusCode::kDataLoss,
                               HasSubstr("zero_stage is a call of my.module.Thing, expected")));
}

TEST_F(ZeroHostile, OneDictThatIsNamedAMillionTimesIsNotReadAMillionTimes) {
  Pickles pickles = Well();
  std::string shapes = "}";
  for (int k = 0; k < 200; ++k) shapes += Item(absl::StrCat("w", k), PickledTuple({4}));
  pickles.param_shapes = "](" + shapes + "q\x01";
  for (int k = 0; k < 1'000'000; ++k) pickles.param_shapes += "h\x01";
  pickles.param_shapes += "e";
  Write(pickles);
  EXPECT_THAT(Read(), StatusIs(absl::StatusCode::kDataLoss,
                               AllOf(HasSubstr("param_shapes is a list of 1000001"),
                                     HasSubstr("over and over"))));
}

TEST_F(ZeroHostile, ShapesAreShort) {
  Pickles pickles = Well();
  pickles.param_shapes = pickles.Shapes(Item("w", PickledTuple(std::vector<int64_t>(65, 1))));
  Write(pickles);
  EXPECT_THAT(Read(), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("up to 64 numbers")));
}

TEST_F(ZeroHostile, SumsOfElementsAreChecked) {
  constexpr int64_t kMany = int64_t{1} << 62;
  for (const bool is_stage_3 : {true, false}) {
    Pickles pickles = Well();
    pickles.param_shapes =
        pickles.Shapes(Item("w", PickledTuple({kMany})) + Item("v", PickledTuple({kMany})) +
                       Item("u", PickledTuple({kMany})));
    if (!is_stage_3) {
      std::filesystem::remove_all(temp_.File("t1"));
      pickles.model_file = "mp_rank_00_model_states.pt";
      pickles.stage = PickledNumber(2);
      pickles.flat_key = "single_partition_of_fp32_groups";
      pickles.base_key = "base_optimizer_state";
    }
    Write(pickles);
    EXPECT_THAT(Read(), StatusIs(absl::StatusCode::kDataLoss,
                                 HasSubstr("param_shapes[0] have more than 2^63 elements")));
  }
}

TEST_F(ZeroHostile, AMillionMissingRanksAreAFewMessages) {
  Pickles pickles = Well();
  pickles.world_size = PickledNumber(1 << 20);
  Write(pickles);
  std::vector<absl::Status> problems;
  EXPECT_THAT(ReadZeroCheckpoint(temp_.path(), "", {}, &problems).status(),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("partition_count is 1")));
  EXPECT_THAT(problems, SizeIs(Le(40u)));
  EXPECT_THAT(problems, ::testing::Contains(StatusIs(
                            absl::StatusCode::kNotFound,
                            HasSubstr("1048559 more ranks' files are missing, from rank 17 on"))));
}

TEST_F(ZeroHostile, ManyViewsOfOneStorageAreEntriesOfTheirFile) {
  constexpr int64_t kViews = 20'000;
  std::string module = "}";
  for (int64_t k = 0; k < kViews; ++k) {
    PickledTensor view;
    view.storage_class = "torch\nByteStorage";
    view.storage_elements = PickledNumber(kViews);
    view.offset = k;
    view.shape = {kViews - k};
    module += Item(absl::StrCat("w", k), view.Text());
  }
  std::vector<ZipPart> parts =
      TorchParts("}" + Item("module", module) + Item("dp_world_size", PickledNumber(1)));
  for (ZipPart& part : parts) {
    if (part.name == "a/data/0") part.data = std::string(kViews, 'x');
  }
  const std::filesystem::path tag = std::filesystem::path(temp_.path()) / "t1";
  std::filesystem::create_directories(tag);
  std::ofstream(temp_.File("latest")) << "t1";
  std::ofstream(tag / "mp_rank_00_model_states.pt", std::ios::binary) << ZipOf(parts);
  ZC_ASSERT_OK_AND_ASSIGN(const Manifest manifest, ReadFolderManifest(temp_.path(), {}));
  EXPECT_THAT(manifest.files, SizeIs(kViews));
  EXPECT_THAT(manifest.tensors, SizeIs(kViews));
}

TEST_F(ZeroHostile, ANameWhoseWeightWasLeftOutIsAWeight) {
  Pickles pickles = Well();
  pickles.model_file = "mp_rank_00_model_states.pt";
  pickles.stage = PickledNumber(1);
  pickles.flat_key = "single_partition_of_fp32_groups";
  pickles.base_key = "base_optimizer_state";
  pickles.module = "}" + Item("w", PickledTensor().Text()) + Item("head", PickledTensor().Text());
  pickles.more = Item("shared_params", "}" + Item("head", PickledText("embed")));
  Write(pickles);
  ZC_ASSERT_OK_AND_ASSIGN(const ZeroCheckpoint read, ReadZeroCheckpoint(temp_.path(), ""));
  ASSERT_EQ(read.parameters.size(), 2u);
  EXPECT_EQ(read.parameters[1].name, "head");
  EXPECT_FALSE(read.parameters[1].is_trained);
  EXPECT_EQ(read.parameters[1].stored.size(), 1u);
}

TEST_F(ZeroHostile, AWeightThatCannotBeReadIsNotLeftOut) {
  const std::string other = CallOf("my.module", "Thing", PickledText("x"));
  const std::string quantised = CallOf("torch._utils", "_rebuild_qtensor", PickledText("x"));
  const struct {
    std::string module, buffers;
    const char* says;
  } cases[] = {{Item("w", other), "]", "made by the name my.module.Thing"},
               {Item("b", other), "](" + PickledText("b") + "e", "tensor module[b]"},
               {Item("x", quantised), "]", "_rebuild_qtensor"}};
  for (const auto& each : cases) {
    Pickles pickles = Well();
    pickles.module = "}" + each.module;
    pickles.more = Item("buffer_names", each.buffers);
    Write(pickles);
    EXPECT_THAT(Read(), StatusIs(absl::StatusCode::kUnimplemented, HasSubstr(each.says)));
  }
  Pickles pickles = Well();
  pickles.module = "}" + Item("a._extra_state", other) + Item("b", "N") + Item("c", "}");
  Write(pickles);
  ZC_ASSERT_OK_AND_ASSIGN(const ZeroCheckpoint read, ReadZeroCheckpoint(temp_.path(), ""));
  EXPECT_THAT(read.other_values, ::testing::ElementsAre("a._extra_state", "b", "c"));
}

TEST_F(ZeroHostile, OptimizerStatesWantParamShapes) {
  Pickles pickles = Well();
  pickles.param_shapes = "N";
  pickles.module = "}" + Item("w", PickledTensor().Text());
  Write(pickles);
  EXPECT_THAT(Read(), StatusIs(absl::StatusCode::kDataLoss,
                               AllOf(HasSubstr("it has no param_shapes"), HasSubstr(kOptim))));
  // Without an optimizer the engine lists none, and nothing is trained.
  std::filesystem::remove(std::filesystem::path(temp_.path()) / "t1" / kOptim);
  ZC_ASSERT_OK_AND_ASSIGN(const ZeroCheckpoint read, ReadZeroCheckpoint(temp_.path(), ""));
  EXPECT_EQ(read.stage, 3);
  ASSERT_EQ(read.parameters.size(), 1u);
  EXPECT_FALSE(read.parameters[0].is_trained);
  EXPECT_THAT(LayOutShards(read, 2), IsOk());
}

TEST_F(ZeroHostile, ACheckpointWithoutWeightsIsNoModel) {
  const std::filesystem::path tag = std::filesystem::path(temp_.path()) / "t1";
  std::filesystem::create_directories(tag);
  std::ofstream(temp_.File("latest")) << "t1";
  std::ofstream(tag / "mp_rank_00_model_states.pt", std::ios::binary)
      << ZipOf(TorchParts("}" + Item("module", "}") + Item("dp_world_size", PickledNumber(1))));
  ZC_ASSERT_OK_AND_ASSIGN(const ZeroCheckpoint read, ReadZeroCheckpoint(temp_.path(), ""));
  EXPECT_THAT(Consolidate(read, ModelDtype::kDefault, false),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("no weight at all")));
}

// A recorded folder's file with one more value in its object.
void AddToFile(const std::string& path, const std::string& value, const std::string& key = "more") {
  ZC_ASSERT_OK_AND_ASSIGN(const InputFile file, InputFile::Open(path));
  ZC_ASSERT_OK_AND_ASSIGN(const ZipArchive archive, ZipArchive::Read(file));
  std::vector<ZipPart> parts;
  for (const ZipEntry& entry : archive.entries()) {
    ZC_ASSERT_OK_AND_ASSIGN(std::string bytes, ReadZipEntry(file, entry, 1 << 20));
    if (absl::EndsWith(entry.name, "/data.pkl")) {
      bytes.pop_back();  // the end
      // An object that is no dict becomes the second of a pair.
      bytes +=
          bytes.back() == 'u' || bytes.back() == 's' ? Item(key, value) + "." : value + "\x86.";
    }
    parts.push_back(Entry(entry.name, bytes));
  }
  std::ofstream(path, std::ios::binary) << ZipOf(parts);
}

TEST(ZeroOld, AUniversalFolderNeedNotSayHowManyRanksSavedIt) {
  TempDir temp;
  const std::filesystem::path copy = temp.File("run");
  std::filesystem::copy(DeepSpeedFolder("tiny-z2-w4-uni"), copy,
                        std::filesystem::copy_options::recursive);
  AddToFile(copy / "global_step3_universal/mp_rank_00_model_states.pt", "N");
  ZC_ASSERT_OK_AND_ASSIGN(const ZeroCheckpoint said, ReadZeroCheckpoint(copy, ""));
  EXPECT_EQ(said.world_size, 4);
  AddToFile(copy / "global_step3_universal/mp_rank_00_model_states.pt", "N", "dp_world_size");
  ZC_ASSERT_OK_AND_ASSIGN(const ZeroCheckpoint old, ReadZeroCheckpoint(copy, ""));
  EXPECT_EQ(old.world_size, 4);
}

struct Harmful {
  const char *module, *name;
};

class ZeroHarmful : public ::testing::TestWithParam<Harmful> {};

TEST_P(ZeroHarmful, IsRefusedWhereverItStands) {
  const std::vector<std::pair<std::string, std::string>> files = {
      {"keep_c1", "global_step2/zero_pp_rank_0_mp_rank_00_model_states.pt"},
      {"keep_c1", "global_step2/zero_pp_rank_1_mp_rank_00_model_states.pt"},
      {"keep_c1", "global_step2/bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt"},
      {"tiny-z2-w4", "global_step3/mp_rank_00_model_states.pt"},
      {"tiny-z2-w4-uni", "global_step3_universal/zero/optimizer_state.pt"},
      {"tiny-z2-w4-uni", "global_step3_universal/zero/embed.weight/fp32.pt"},
      {"tiny-z2-w4-uni", "global_step3_universal/zero/lin1.weight/step.pt"}};
  for (const auto& [folder, file] : files) {
    SCOPED_TRACE(file);
    TempDir temp;
    const std::filesystem::path copy = temp.File("run");
    std::filesystem::copy(DeepSpeedFolder(folder), copy, std::filesystem::copy_options::recursive);
    ASSERT_TRUE(std::filesystem::exists(copy / file));
    AddToFile(copy / file,
              CallOf(GetParam().module, GetParam().name, PickledText("touch " + temp.File("ran"))));
    const absl::Status read = ReadZeroCheckpoint(copy, "").status();
    EXPECT_THAT(read,
                StatusIs(absl::StatusCode::kDataLoss,
                         AllOf(HasSubstr(file), HasSubstr("nothing of it was run"),
                               HasSubstr(absl::StrCat(GetParam().module, ".", GetParam().name)))));
    EXPECT_EQ(ReasonOf(read), "CHECKPOINT_CORRUPT");
    EXPECT_FALSE(std::filesystem::exists(temp.File("ran")));
  }
}

INSTANTIATE_TEST_SUITE_P(Names, ZeroHarmful,
                         ::testing::Values(Harmful{"os", "system"}, Harmful{"posix", "system"},
                                           Harmful{"builtins", "eval"},
                                           Harmful{"__builtin__", "exec"},
                                           Harmful{"builtins", "__import__"},
                                           Harmful{"subprocess", "Popen"},
                                           Harmful{"importlib._bootstrap", "_exec"}));

}  // namespace
}  // namespace zerocast
