// What a folder that training saves to holds, and whether each of it is whole.
#include "client/formats/deepspeed/find_checkpoints.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "client/formats/crc32.h"
#include "client/formats/zip_archive.h"
#include "server/base/errors.h"
#include "tests/client/formats/deepspeed/zero_bytes.h"
#include "tests/status_matchers.h"
#include "tests/temp_dir.h"

namespace zerocast {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
namespace fs = std::filesystem;

constexpr char kModel[] = "zero_pp_rank_1_mp_rank_00_model_states.pt";
constexpr char kOptim[] = "zero_pp_rank_1_mp_rank_00_optim_states.pt";

// The number in four bytes, the lowest first.
std::string LittleEndian(uint32_t number) {
  std::string bytes;
  for (int shift = 0; shift < 32; shift += 8) bytes.push_back(static_cast<char>(number >> shift));
  return bytes;
}

class FindCheckpoints : public ::testing::Test {
 protected:
  // A recorded tag under another name of the same training.
  std::string Add(const std::string& name, const std::string& tag) {
    std::string from;
    std::ifstream(DeepSpeedFolder(name) + "/latest") >> from;
    fs::copy(DeepSpeedFolder(name) + "/" + from, Path(tag), fs::copy_options::recursive);
    return Path(tag);
  }
  std::string Path(const std::string& tag) const { return folder_.path() + "/" + tag; }
  FoundZeroFolder Find(FindZeroOptions options = {}) {
    options.all_tags = options.tags.empty();
    const auto found = FindZeroCheckpoints(folder_.path(), options);
    EXPECT_THAT(found, IsOk());
    return found.ok() ? *found : FoundZeroFolder();
  }
  FoundZeroCheckpoint FindOne(const std::string& tag) {
    FindZeroOptions options;
    options.tags = {tag};
    const FoundZeroFolder found = Find(options);
    EXPECT_EQ(found.checkpoints.size(), 1u);
    return found.checkpoints.empty() ? FoundZeroCheckpoint() : found.checkpoints[0];
  }
  static std::string Read(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  static void Write(const std::string& path, const std::string& bytes) {
    std::ofstream(path, std::ios::binary) << bytes;
  }

  const TempDir folder_;
};

TEST_F(FindCheckpoints, SaysWhatThereIs) {
  Add("olmoe-z3-w2", "global_step10");
  Add("tiny-z2-w4", "global_step9");
  Add("mixtral-z3-w2-uni", "global_step3_universal");
  folder_.Write("latest", "global_step9\n");
  fs::create_directory(Path("logs"));
  const FoundZeroFolder found = Find();
  EXPECT_EQ(found.latest, "global_step9");
  std::vector<std::string> tags, digests;
  for (const FoundZeroCheckpoint& each : found.checkpoints) {
    tags.push_back(each.tag);
    digests.push_back(each.digest);
    EXPECT_THAT(each.problem, IsOk()) << each.tag;
    EXPECT_EQ(each.step, 3) << "as their files say, whatever the folder's name";
    EXPECT_EQ(each.digest.size(), 32u);
    EXPECT_FALSE(each.gone);
    EXPECT_GT(each.num_bytes, 1000);
    EXPECT_GT(each.mtime_ns, 0);
  }
  EXPECT_THAT(tags, ElementsAre("global_step3_universal", "global_step9", "global_step10"));
  EXPECT_NE(digests[1], digests[2]);
  EXPECT_EQ(found.checkpoints[1].world_size, 4);
  EXPECT_EQ(found.checkpoints[1].stage, 2);
  EXPECT_EQ(found.checkpoints[1].num_files, 5);
  EXPECT_EQ(found.checkpoints[2].world_size, 2);
  EXPECT_EQ(found.checkpoints[2].stage, 3);
  EXPECT_EQ(found.checkpoints[2].num_files, 4);
}

TEST_F(FindCheckpoints, LooksAtTheTagsThatAreAskedForAndTheOneThatLatestNames) {
  Add("olmoe-z3-w2", "global_step1");
  Add("olmoe-z3-w2", "global_step2");
  Add("olmoe-z3-w2", "global_step3");
  folder_.Write("latest", "global_step3");
  FindZeroOptions options;
  options.tags = {"global_step9", "global_step1"};
  const FoundZeroFolder found = Find(options);
  ASSERT_EQ(found.checkpoints.size(), 3u);
  EXPECT_EQ(found.checkpoints[0].tag, "global_step1");
  EXPECT_EQ(found.checkpoints[1].tag, "global_step3");
  const FoundZeroCheckpoint& none = found.checkpoints[2];
  EXPECT_TRUE(none.gone);
  EXPECT_EQ(none.step, 9);
  EXPECT_THAT(none.problem, StatusIs(absl::StatusCode::kNotFound, HasSubstr("global_step9")));
  EXPECT_EQ(ReasonOf(none.problem), "CHECKPOINT_NOT_FOUND");
}

TEST_F(FindCheckpoints, ATornOneIsNotComplete) {
  const std::string tag = Add("olmoe-z3-w2", "global_step3");
  const std::string bytes = Read(tag + "/" + kModel);
  Write(tag + "/" + kModel, bytes.substr(0, bytes.size() / 2));
  FoundZeroCheckpoint found = FindOne("global_step3");
  EXPECT_THAT(found.problem, StatusIs(absl::StatusCode::kDataLoss, HasSubstr(kModel)));
  EXPECT_EQ(found.digest, "");
  EXPECT_EQ(found.world_size, 2);
  EXPECT_EQ(found.step, 3);
  EXPECT_GT(found.num_files, 0);
  EXPECT_FALSE(found.gone);
  // As DeepSpeed begins: rank 0's file is there, the others are to come.
  fs::remove(tag + "/" + kModel);
  fs::remove(tag + "/" + kOptim);
  found = FindOne("global_step3");
  EXPECT_THAT(found.problem, StatusIs(absl::StatusCode::kNotFound, HasSubstr("; and 1 more")));
  EXPECT_FALSE(found.gone);
}

TEST_F(FindCheckpoints, AnEmptyFolderOfATagIsThereButNotComplete) {
  fs::create_directory(Path("global_step5"));
  const FoundZeroCheckpoint found = FindOne("global_step5");
  EXPECT_FALSE(found.gone);
  EXPECT_EQ(found.num_files, 0);
  EXPECT_THAT(found.problem, StatusIs(absl::StatusCode::kNotFound, HasSubstr("global_step5")));
  // It may be the one that is written next: not among those that a folder holds.
  EXPECT_THAT(Find().checkpoints, IsEmpty());
}

TEST_F(FindCheckpoints, TheDigestIsOfTheContent) {
  const std::string tag = Add("olmoe-z3-w2", "global_step3");
  const std::string digest = FindOne("global_step3").digest;
  // Not of names above, nor of times.
  const std::string other = Add("olmoe-z3-w2", "renamed");
  for (const auto& file : fs::directory_iterator(other)) {
    fs::last_write_time(file.path(), fs::file_time_type::clock::now() - std::chrono::hours(1));
  }
  EXPECT_EQ(FindOne("renamed").digest, digest);
  // A tensor's bytes are others, their number is the same.
  const std::string path = tag + "/" + kOptim;
  std::string bytes = Read(path);
  const auto archive = ZipArchive::Read(*InputFile::Open(path));
  ASSERT_THAT(archive, IsOk());
  const ZipEntry& entry = *std::max_element(
      archive->entries().begin(), archive->entries().end(),
      [](const ZipEntry& a, const ZipEntry& b) { return a.num_bytes < b.num_bytes; });
  ASSERT_THAT(entry.name, HasSubstr("/data/"));
  const auto begin = static_cast<size_t>(entry.data_begin);
  bytes[begin] = static_cast<char>(bytes[begin] ^ 1);
  const uint32_t crc = Crc32(bytes.substr(begin, static_cast<size_t>(entry.num_bytes)));
  const std::string before = LittleEndian(entry.crc32), after = LittleEndian(crc);
  int num_replaced = 0;  // in the directory and in the entry's descriptor or header
  for (size_t at = bytes.find(before); at != std::string::npos; at = bytes.find(before, at)) {
    bytes.replace(at, after.size(), after);
    ++num_replaced;
  }
  ASSERT_EQ(num_replaced, 2);
  Write(path, bytes);
  const FoundZeroCheckpoint changed = FindOne("global_step3");
  EXPECT_THAT(changed.problem, IsOk());
  EXPECT_NE(changed.digest, digest);
}

TEST_F(FindCheckpoints, AFolderOfATagIsRefused) {
  const std::string tag = Add("olmoe-z3-w2", "global_step3");
  EXPECT_THAT(FindZeroCheckpoints(tag, {}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("the tag global_step3")));
  EXPECT_THAT(FindZeroCheckpoints(Path("none"), {}),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("none")));
}

TEST_F(FindCheckpoints, AsksBeforeItOpensFilesBelow) {
  Add("mixtral-z3-w2-uni", "global_step3_universal");
  Add("olmoe-z3-w2", "global_step4");
  std::vector<std::string> asked;
  FindZeroOptions options;
  options.allow = [&](const std::string& folder) -> absl::Status {
    asked.push_back(folder.substr(folder_.path().size() + 1));
    return folder == Path("global_step4") ? absl::PermissionDeniedError("not there")
                                          : absl::OkStatus();
  };
  const FoundZeroFolder found = Find(options);
  ASSERT_EQ(found.checkpoints.size(), 2u);
  EXPECT_THAT(found.checkpoints[0].problem, IsOk());
  EXPECT_THAT(found.checkpoints[1].problem,
              StatusIs(absl::StatusCode::kPermissionDenied, "not there"));
  EXPECT_EQ(found.checkpoints[1].num_files, 0);
  ASSERT_GT(asked.size(), 3u);
  EXPECT_EQ(asked[0], "global_step3_universal");
  EXPECT_EQ(asked[1], "global_step3_universal/zero");
  EXPECT_THAT(asked[2], HasSubstr("global_step3_universal/zero/"));
}

TEST_F(FindCheckpoints, EndsWithTheObserversError) {
  Add("olmoe-z3-w2", "global_step1");
  Add("olmoe-z3-w2", "global_step2");
  int left = 30;
  FindZeroOptions options;
  options.all_tags = true;
  options.about_to = [&left](absl::string_view) -> absl::Status {
    return left-- > 0 ? absl::OkStatus() : absl::CancelledError("nobody waits");
  };
  EXPECT_THAT(FindZeroCheckpoints(folder_.path(), options),
              StatusIs(absl::StatusCode::kCancelled, "nobody waits"));
}

}  // namespace
}  // namespace zerocast
