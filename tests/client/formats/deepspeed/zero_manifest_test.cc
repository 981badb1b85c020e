// Manifests of folders that real engines saved, and which kind of checkpoint a folder is.
#include "client/formats/deepspeed/zero_manifest.h"

#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "client/formats/checkpoint.h"
#include "server/base/errors.h"
#include "server/plan/plan.h"
#include "tests/client/formats/deepspeed/zero_bytes.h"
#include "tests/status_matchers.h"
#include "tests/temp_dir.h"

namespace zerocast {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

Layout Ranks(int32_t world_size, int32_t stage) {
  Layout layout;
  layout.world_size = world_size;
  layout.num_nodes = 1;
  layout.node_of_rank = PlaceRanks(world_size, 1);
  layout.zero_stage = stage;
  return layout;
}

TEST(ZeroManifest, PlansEveryRecordedFolder) {
  for (const auto& [name, others] : RecordedFolders()) {
    std::vector<std::string> all = {name};
    for (const std::string& other : others) all.push_back(name + other);
    for (const std::string& folder : all) {
      SCOPED_TRACE(folder);
      ZC_ASSERT_OK_AND_ASSIGN(Manifest read, ReadFolderManifest(DeepSpeedFolder(folder), {}));
      ASSERT_TRUE(read.engine.has_value());
      EXPECT_THAT(read.engine->states, ElementsAre("fp32", "exp_avg", "exp_avg_sq"));
      EXPECT_THAT(CheckManifestFiles(read, DeepSpeedFolder(folder), true), IsOk());
      for (const ManifestFile& file : read.files) EXPECT_NE(file.header_digest, 0u);
      const auto manifest = std::make_shared<const Manifest>(std::move(read));
      for (const int32_t stage : {0, 1, 2, 3}) {
        for (const int32_t world_size : {1, 3, 8}) {
          EXPECT_THAT(CompilePlan(manifest, nullptr, {}, Ranks(world_size, stage), nullptr),
                      IsOk());
        }
      }
    }
  }
}

TEST(ZeroManifest, UndoesTheOrderOfRoundRobin) {
  const auto places = [](const std::string& folder) {
    std::map<std::string, std::pair<int32_t, int32_t>> by_name;
    const auto manifest = ReadFolderManifest(DeepSpeedFolder(folder), {});
    if (!manifest.ok()) return by_name;
    for (const EngineWeight& weight : manifest->engine->weights) {
      by_name[weight.name] = {weight.group, weight.place};
    }
    return by_name;
  };
  const auto four = places("tiny-z2-w4");
  EXPECT_FALSE(four.empty());
  EXPECT_EQ(four, places("tiny-z2-w4-to-w3"));
  EXPECT_EQ(four, places("tiny-z2-w4-uni"));
}

TEST(ReadFolderManifest, NamesFilesFromTheFolderThatWasGiven) {
  ZC_ASSERT_OK_AND_ASSIGN(const Manifest own,
                          ReadFolderManifest(DeepSpeedFolder("keep_c1/global_step2"), {}));
  for (const ManifestFile& file : own.files) EXPECT_THAT(file.path, Not(HasSubstr("/")));
  EXPECT_THAT(CheckManifestFiles(own, DeepSpeedFolder("keep_c1/global_step2"), true), IsOk());
  CheckpointChoice choice;
  choice.tag = "global_step2";
  ZC_ASSERT_OK_AND_ASSIGN(const Manifest by_tag,
                          ReadFolderManifest(DeepSpeedFolder("keep_c1"), choice));
  EXPECT_THAT(by_tag.files[0].path, StartsWith("global_step2/"));
}

TEST(ReadFolderManifest, SaysWhichOfTwoKindsItTook) {
  TempDir dir;
  const std::filesystem::path folder = dir.File("both");
  std::filesystem::copy(DeepSpeedFolder("keep_c1"), folder,
                        std::filesystem::copy_options::recursive);
  ZC_ASSERT_OK_AND_ASSIGN(const Manifest alone, ReadFolderManifest(folder, {}));
  EXPECT_TRUE(alone.engine.has_value());
  EXPECT_THAT(alone.note, IsEmpty());
  std::ofstream(folder / "model.safetensors", std::ios::binary)
      << std::string("\x40\0\0\0\0\0\0\0", 8)
      << R"({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}   )"
      << std::string(4, '\0');
  ZC_ASSERT_OK_AND_ASSIGN(const Manifest hub, ReadFolderManifest(folder, {}));
  EXPECT_FALSE(hub.engine.has_value());
  EXPECT_THAT(hub.note, AllOf(HasSubstr("global_step2"), HasSubstr("--format deepspeed")));
  CheckpointChoice choice;
  choice.format = CheckpointFormat::kDeepSpeed;
  ZC_ASSERT_OK_AND_ASSIGN(const Manifest zero, ReadFolderManifest(folder, choice));
  EXPECT_TRUE(zero.engine.has_value());
  choice.variant = "fp16";
  EXPECT_THAT(ReadFolderManifest(folder, choice),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("")));
}

TEST(ReadFolderManifest, FailsInTheLibrarysWords) {
  TempDir dir;
  CheckpointChoice choice;
  choice.format = CheckpointFormat::kDeepSpeed;
  EXPECT_THAT(ReadFolderManifest(dir.path(), choice),
              StatusIs(absl::StatusCode::kNotFound,
                       HasSubstr("Can't find a valid checkpoint at " + dir.path())));
  const std::filesystem::path folder = dir.File("torn");
  std::filesystem::copy(DeepSpeedFolder("keep_c1"), folder,
                        std::filesystem::copy_options::recursive);
  std::filesystem::remove(folder / "global_step2/bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt");
  const auto torn = ReadFolderManifest(folder, {});
  EXPECT_THAT(
      torn,
      StatusIs(absl::StatusCode::kNotFound,
               AllOf(HasSubstr("[deepspeed] failed to resume from checkpoint " + folder.string()),
                     HasSubstr("rank_1"))));
  EXPECT_EQ(ReasonOf(torn.status()), "CHECKPOINT_NOT_FOUND");
}

TEST(CheckManifestFiles, SeesThatAFileWasWrittenAgain) {
  TempDir dir;
  const std::filesystem::path folder = dir.File("changed");
  std::filesystem::copy(DeepSpeedFolder("keep_c1"), folder,
                        std::filesystem::copy_options::recursive);
  ZC_ASSERT_OK_AND_ASSIGN(const Manifest manifest, ReadFolderManifest(folder, {}));
  const std::filesystem::path path = folder / manifest.files[0].path;
  const auto time = std::filesystem::last_write_time(path);
  EXPECT_THAT(CheckManifestFiles(manifest, folder, true), IsOk());
  std::filesystem::last_write_time(path, time + std::chrono::seconds(1));
  EXPECT_THAT(CheckManifestFiles(manifest, folder, true),
              StatusIs(absl::StatusCode::kAborted, HasSubstr(path.string())));
  EXPECT_THAT(CheckManifestFiles(manifest, folder, false), IsOk());
}

// Of the same size and time: the CRCs in a zip file's directory tell one from the other.
TEST(CheckManifestFiles, SeesOtherDataInAFileOfTheSameSize) {
  TempDir dir;
  const std::filesystem::path folder = dir.File("changed");
  std::filesystem::copy(DeepSpeedFolder("mixtral-z3-w2"), folder,
                        std::filesystem::copy_options::recursive);
  ZC_ASSERT_OK_AND_ASSIGN(const Manifest manifest, ReadFolderManifest(folder, {}));
  const std::filesystem::path tag = folder / "global_step3";
  const std::filesystem::path path = tag / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt";
  const std::filesystem::path other = tag / "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt";
  ASSERT_EQ(std::filesystem::file_size(path), std::filesystem::file_size(other));
  const auto time = std::filesystem::last_write_time(path);
  std::filesystem::copy(other, path, std::filesystem::copy_options::overwrite_existing);
  std::filesystem::last_write_time(path, time);
  for (const bool made_on_this_node : {true, false}) {
    EXPECT_THAT(CheckManifestFiles(manifest, folder, made_on_this_node),
                StatusIs(absl::StatusCode::kAborted, HasSubstr(path.string())));
  }
}

}  // namespace
}  // namespace zerocast
