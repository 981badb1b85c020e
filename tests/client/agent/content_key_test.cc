#include "client/agent/content_key.h"

#include <sys/sysmacros.h>
#include <utime.h>

#include <filesystem>

#include "client/agent/placement.h"
#include "client/agent/round_reader.h"
#include "server/base/errors.h"
#include "tests/client/agent/load_fixture.h"
#include "tests/status_matchers.h"
#include "tests/temp_dir.h"

namespace zerocast {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class ContentKeyTest : public ::testing::Test {
 protected:
  void SetUp() override {
    WriteCheckpoint(dir_.path(), TestSeed());
    plan_ = MakePlan(dir_.path(), MakeLayout(2, 1));
    unknown_.num_bytes = -1;
  }
  std::vector<FileIdentity> Nothing() const {
    return std::vector<FileIdentity>(plan_->manifest->files.size(), unknown_);
  }
  std::string Key() {
    const auto files = IdentifyAllFiles(*plan_, Nothing(), dir_.path(), reader_.get());
    EXPECT_THAT(files, IsOk());
    return files.ok() ? ContentKey(*plan_, *files, Mounts::Read()) : "";
  }

  const TempDir dir_;
  const std::shared_ptr<FileReader> reader_ = MakePosixReader({});
  std::shared_ptr<const Plan> plan_;
  FileIdentity unknown_;
};

TEST_F(ContentKeyTest, IsTheSameForTheSameFiles) {
  EXPECT_EQ(Key().size(), 32);
  EXPECT_EQ(Key(), Key());
}

TEST_F(ContentKeyTest, DiffersForAnotherPlan) {
  const std::string key = Key();
  plan_ = MakePlan(dir_.path(), MakeLayout(1, 2));
  EXPECT_NE(Key(), key);
}

TEST_F(ContentKeyTest, DiffersOnceAFileWasTouched) {
  const std::string key = Key();
  const utimbuf long_ago = {1000, 1000};
  ASSERT_EQ(::utime(dir_.File("model-2.safetensors").c_str(), &long_ago), 0);
  EXPECT_NE(Key(), key);
}

TEST_F(ContentKeyTest, DiffersOnceAFileWasReplacedByACopyOfItsTime) {
  namespace fs = std::filesystem;
  const std::string key = Key();
  const fs::path path = dir_.File("model-1.safetensors"), copy = dir_.File("copy");
  fs::copy_file(path, copy);
  fs::last_write_time(copy, fs::last_write_time(path));
  fs::rename(copy, path);
  EXPECT_NE(Key(), key);
}

// Two images whose files have the same sizes, times and inodes, and other bytes.
TEST_F(ContentKeyTest, DiffersByDevice) {
  std::vector<FileIdentity> files = Nothing();
  files[0] = {10, 20, 30, 40};
  const std::string key = ContentKey(*plan_, files, {});
  files[0].device = 41;
  EXPECT_NE(ContentKey(*plan_, files, {}), key);
  files[0] = {10, 20, 31, 40};
  EXPECT_NE(ContentKey(*plan_, files, {}), key);
}

// A load whose rank 0 is on another node finds the shards of the first one.
TEST_F(ContentKeyTest, IsTheSameOnEveryNodeForAServersFiles) {
  const Mounts here = Mounts::Parse("36 35 0:40 / /models rw - nfs4 nas:/models rw");
  const Mounts there = Mounts::Parse("90 35 0:77 / /models rw - nfs4 nas:/models rw");
  const Mounts elsewhere = Mounts::Parse("90 35 0:40 / /models rw - nfs4 other:/models rw");
  std::vector<FileIdentity> files = Nothing();
  files[0] = {10, 20, 30, makedev(0, 40)};
  const std::string key = ContentKey(*plan_, files, here);
  EXPECT_NE(ContentKey(*plan_, files, elsewhere), key);
  files[0].device = makedev(0, 77);
  EXPECT_EQ(ContentKey(*plan_, files, there), key);
}

TEST_F(ContentKeyTest, TwoFilesAreNotMixedUp) {
  std::vector<FileIdentity> first = Nothing(), second = Nothing();
  first[0] = {10, 20, 30, 40};
  second[1] = first[0];
  EXPECT_NE(ContentKey(*plan_, first, {}), ContentKey(*plan_, second, {}));
}

TEST_F(ContentKeyTest, OnlyFilesThatFillTargetsCount) {
  EXPECT_THAT(FilesOfPlan(*plan_), ElementsAre(0, 1));
  Plan unfilled = *plan_;
  for (Target& target : unfilled.targets) target.boxes.clear();
  EXPECT_THAT(FilesOfPlan(unfilled), ElementsAre());
}

TEST_F(ContentKeyTest, AFileOfAnotherSizeIsNamed) {
  std::filesystem::resize_file(dir_.File("model-2.safetensors"), 100);
  const auto files = IdentifyAllFiles(*plan_, Nothing(), dir_.path(), reader_.get());
  EXPECT_THAT(files, StatusIs(absl::StatusCode::kAborted, HasSubstr("model-2.safetensors")));
  EXPECT_EQ(ReasonOf(files.status()), "CHECKPOINT_CHANGED");
}

}  // namespace
}  // namespace zerocast
