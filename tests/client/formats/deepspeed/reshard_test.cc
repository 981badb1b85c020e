// Folders that real engines saved, written anew, against those that real engines made of them.
#include "client/formats/deepspeed/reshard.h"

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"
#include "server/base/errors.h"
#include "tests/client/formats/deepspeed/torch_difference.h"
#include "tests/client/formats/deepspeed/zero_bytes.h"
#include "tests/server/conversion/golden.h"
#include "tests/status_matchers.h"
#include "tests/temp_dir.h"

namespace zerocast {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// The files below a folder, relative to it.
std::vector<std::string> FilesOf(const std::string& folder) {
  std::vector<std::string> files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file()) {
      files.push_back(std::filesystem::relative(entry.path(), folder).string());
    }
  }
  std::sort(files.begin(), files.end());
  return files;
}

// Differences that no reader of the folder can see: attributes that engines give their flat tensors
// and never read back, and the order of a state's entries, which is a set's in DeepSpeed.
bool IsExplained(absl::string_view line) {
  return absl::EndsWith(line, " attributes") ||
         (absl::StrContains(line, ".state.") && absl::EndsWith(line, " order"));
}

// Every unexplained difference between two folders, file by file.
std::vector<std::string> Differences(const std::string& ours, const std::string& theirs,
                                     bool with_config) {
  std::vector<std::string> lines;
  EXPECT_EQ(FilesOf(ours), FilesOf(theirs));
  for (const std::string& file : FilesOf(ours)) {
    if (!absl::EndsWith(file, ".pt")) {
      EXPECT_EQ(ReadWholeFile(ours + "/" + file), ReadWholeFile(theirs + "/" + file));
      continue;
    }
    for (const std::string& line :
         TorchDifference::Between(ours + "/" + file, theirs + "/" + file)) {
      if (IsExplained(line) || (!with_config && absl::StartsWith(line, "ds_config."))) continue;
      lines.push_back(file + ": " + line);
    }
  }
  return lines;
}

// The names of states and stored values that differ, padding apart.
std::vector<std::string> DifferentValues(const std::string& ours, const std::string& theirs) {
  const auto one = ReadZeroCheckpoint(ours, ""), other = ReadZeroCheckpoint(theirs, "");
  if (!one.ok()) return {std::string(one.status().message())};
  if (!other.ok()) return {std::string(other.status().message())};
  if (one->parameters.size() != other->parameters.size()) return {"parameters"};
  if (one->state_names != other->state_names) return {"state_names"};
  std::vector<std::string> names;
  for (const ZeroParameter& parameter : one->parameters) {
    const auto was = std::find_if(other->parameters.begin(), other->parameters.end(),
                                  [&](const auto& p) { return p.name == parameter.name; });
    if (was == other->parameters.end() || was->shape != parameter.shape ||
        was->dtype != parameter.dtype || was->group != parameter.group ||
        was->aliases != parameter.aliases ||
        PieceBytes(*one, parameter.stored) != PieceBytes(*other, was->stored)) {
      names.push_back(parameter.name);
      continue;
    }
    for (size_t state = 0; parameter.is_trained && state < one->state_names.size(); ++state) {
      if (StateBytes(*one, parameter, state) == StateBytes(*other, *was, state)) continue;
      names.push_back(parameter.name + " " + one->state_names[state]);
    }
  }
  return names;
}

// Writes `checkpoint` for `world_size` ranks, or, 0, in the universal form.
absl::StatusOr<WrittenCheckpoint> Write(const ZeroCheckpoint& checkpoint, int64_t world_size,
                                        const std::string& out,
                                        const PieceCopier::Options& options = {}) {
  auto folder = OutputFolder::Create(out);
  if (!folder.ok()) return folder.status();
  auto written = world_size > 0 ? ReshardCheckpoint(checkpoint, world_size, *folder, options)
                                : WriteUniversalCheckpoint(checkpoint, *folder, options);
  if (!written.ok()) return written;
  if (const absl::Status done = folder->Commit(); !done.ok()) return done;
  return written;
}

class ReshardTest : public ::testing::Test {
 protected:
  // Reads `from` and writes it for `world_size` ranks, or, 0, in the universal form, into `name`.
  std::string Rewrite(const std::string& from, int64_t world_size, const std::string& name) {
    std::string out = temp_.File(name);
    const auto checkpoint = ReadZeroCheckpoint(from, "");
    EXPECT_THAT(checkpoint, IsOk());
    if (!checkpoint.ok()) return out;
    PieceCopier::Options options;
    options.num_threads = 3;
    const auto written = Write(*checkpoint, world_size, out, options);
    EXPECT_THAT(written, IsOk());
    if (written.ok()) {
      EXPECT_EQ(written->num_files, static_cast<int64_t>(FilesOf(out).size()));
      EXPECT_GE(written->num_bytes, BytesToWrite(*checkpoint) * 9 / 10);
    }
    return out;
  }

  TempDir temp_;
};

TEST_F(ReshardTest, MakesWhatAnEngineOfThatManyRanksSaves) {
  int num_folders = 0;
  for (const auto& [name, others] : RecordedFolders()) {
    for (const std::string& other : others) {
      int64_t world_size = 0;
      if (!absl::SimpleAtoi(absl::StripPrefix(other, "-to-w"), &world_size)) continue;
      SCOPED_TRACE(name + other);
      const std::string out = Rewrite(DeepSpeedFolder(name), world_size, name + other);
      // The config is that of the first engine, not of the one that saved the recorded folder.
      EXPECT_THAT(Differences(out, DeepSpeedFolder(name + other), false), IsEmpty());
      EXPECT_THAT(DifferentValues(out, DeepSpeedFolder(name + other)), IsEmpty());
      ++num_folders;
    }
  }
  EXPECT_EQ(num_folders, 9);
}

TEST_F(ReshardTest, GivesTheFirstFolderBack) {
  for (const auto& [name, others] : RecordedFolders()) {
    ZC_ASSERT_OK_AND_ASSIGN(const ZeroCheckpoint checkpoint,
                            ReadZeroCheckpoint(DeepSpeedFolder(name), ""));
    // An engine leaves what it finds in memory in the padding of masters and of fragments.
    std::vector<std::string> expected;
    if (name == "keep_c1") {
      expected = {
          "global_step2/bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt: "
          "optimizer_state_dict.fp32_flat_groups.0 bytes",
          "global_step2/zero_pp_rank_1_mp_rank_00_model_states.pt: "
          "frozen_param_fragments.frozen.weight bytes"};
    }
    for (const int64_t between : {0, 1, 5, 9}) {
      SCOPED_TRACE(name + " by " + std::to_string(between));
      const std::string there =
          Rewrite(DeepSpeedFolder(name), between, name + std::to_string(between));
      EXPECT_THAT(DifferentValues(there, DeepSpeedFolder(name)), IsEmpty());
      const std::string back =
          Rewrite(there, checkpoint.world_size, name + std::to_string(between) + "-back");
      EXPECT_EQ(Differences(back, DeepSpeedFolder(name), true), expected);
      EXPECT_THAT(DifferentValues(back, DeepSpeedFolder(name)), IsEmpty());
    }
  }
}

TEST_F(ReshardTest, MakesTheUniversalFormThatDeepSpeedMakes) {
  for (const std::string name : {"mixtral-z3-w2", "tiny-z2-w4"}) {
    SCOPED_TRACE(name);
    const std::string out = Rewrite(DeepSpeedFolder(name), 0, name);
    // Recorded with a `latest`, which ds_to_universal does not write.
    const std::string theirs = temp_.File(name + "-uni");
    std::filesystem::copy(DeepSpeedFolder(name + "-uni"), theirs,
                          std::filesystem::copy_options::recursive);
    std::filesystem::remove(theirs + "/latest");
    EXPECT_THAT(Differences(out, theirs, true), IsEmpty());
  }
}

TEST_F(ReshardTest, TakesTheUniversalFormThatDeepSpeedMade) {
  for (const std::string name : {"mixtral-z3-w2", "tiny-z2-w4"}) {
    const std::string out = Rewrite(DeepSpeedFolder(name + "-uni"), 3, name);
    EXPECT_THAT(Differences(out, DeepSpeedFolder(name + "-to-w3"), false), IsEmpty());
  }
}

TEST_F(ReshardTest, LeavesNothingOfAFolderThatFails) {
  ZC_ASSERT_OK_AND_ASSIGN(const ZeroCheckpoint checkpoint,
                          ReadZeroCheckpoint(DeepSpeedFolder("mixtral-z3-w2"), ""));
  std::atomic<int> left{40};
  PieceCopier::Options options;
  options.keep_going = [&] {
    return left-- > 0 ? absl::OkStatus() : absl::CancelledError("Ctrl-C");
  };
  for (const bool universal : {false, true}) {
    left = 40;
    const auto written = Write(checkpoint, universal ? 0 : 3, temp_.File("out"), options);
    EXPECT_THAT(written, StatusIs(absl::StatusCode::kCancelled, HasSubstr("Ctrl-C")));
    EXPECT_THAT(FilesOf(temp_.path()), IsEmpty());
  }
  ZC_ASSERT_OK_AND_ASSIGN(const ZeroCheckpoint other,
                          ReadZeroCheckpoint(DeepSpeedFolder("c2"), ""));
  temp_.Write("out", "mine");
  EXPECT_THAT(Write(other, 3, temp_.File("out")),
              StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr(temp_.File("out"))));
  EXPECT_THAT(FilesOf(temp_.path()), ElementsAre("out"));
}

TEST_F(ReshardTest, NamesDamagedBytes) {
  const std::string folder = temp_.File("copy");
  std::filesystem::copy(DeepSpeedFolder("tiny-z2-w4"), folder,
                        std::filesystem::copy_options::recursive);
  ZC_ASSERT_OK_AND_ASSIGN(const ZeroCheckpoint checkpoint, ReadZeroCheckpoint(folder, ""));
  // A buffer: only kept, never read as a parameter.
  const ZeroStorage& storage =
      checkpoint.storages[static_cast<size_t>(checkpoint.buffers[0].value.storage)];
  const std::string path = folder + "/" + checkpoint.files[static_cast<size_t>(storage.file)].path;
  std::string bytes = ReadWholeFile(path);
  bytes[static_cast<size_t>(storage.file_begin)] ^= 1;
  std::ofstream(path, std::ios::binary) << bytes;
  ZC_ASSERT_OK_AND_ASSIGN(const ZeroCheckpoint damaged, ReadZeroCheckpoint(folder, ""));
  for (const bool universal : {false, true}) {
    const auto written = Write(damaged, universal ? 0 : 3, temp_.File("out"));
    EXPECT_THAT(written, StatusIs(absl::StatusCode::kDataLoss, HasSubstr(path)));
    EXPECT_FALSE(std::filesystem::exists(temp_.File("out")));
  }
}

TEST_F(ReshardTest, RefusesWhatItCannotCut) {
  ZC_ASSERT_OK_AND_ASSIGN(ZeroCheckpoint checkpoint,
                          ReadZeroCheckpoint(DeepSpeedFolder("olmoe-z3-w2"), ""));
  ZeroCheckpoint other = checkpoint;
  other.other_states = {"row_norms"};
  for (const bool universal : {false, true}) {
    const auto written = Write(other, universal ? 0 : 3, temp_.File("out"));
    EXPECT_THAT(written, StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("row_norms")));
    EXPECT_EQ(ReasonOf(written.status()), "UNSUPPORTED");
  }
  // Sub-groups that the config does not give.
  other = checkpoint;
  other.settings.sub_group_size = 3000;
  EXPECT_THAT(Write(other, 3, temp_.File("out")),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("sub_group_size 3000")));
  other = checkpoint;
  for (const std::string name : {"a/b", "..", "", "optimizer_state.pt"}) {
    other.parameters[0].name = name;
    EXPECT_THAT(Write(other, 0, temp_.File("out")),
                StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("\"" + name + "\"")));
  }
  ZC_ASSERT_OK_AND_ASSIGN(const ZeroCheckpoint universal,
                          ReadZeroCheckpoint(DeepSpeedFolder("mixtral-z3-w2-uni"), ""));
  EXPECT_THAT(Write(universal, 0, temp_.File("out")),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("already")));
  EXPECT_THAT(FilesOf(temp_.path()), IsEmpty());
}

}  // namespace
}  // namespace zerocast
