// The agent's looks at folders of DeepSpeed checkpoints: where it may look, and when it gives up.
#include "client/agent/folder_looks.h"

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>

#include "server/base/errors.h"
#include "tests/client/agent/held_file.h"
#include "tests/client/agent/recording_events.h"
#include "tests/client/agent/stuck_calls.h"
#include "tests/status_matchers.h"
#include "tests/temp_dir.h"

namespace zerocast {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;
namespace fs = std::filesystem;

constexpr absl::Duration kShort = absl::Milliseconds(300);

class FolderLooksTest : public ::testing::Test {
 protected:
  void SetUp() override {
    environment_->events = events_;
    fs::create_directory(Run());
    fs::copy(std::string(std::getenv("ZC_DEEPSPEED_FOLDERS")) + "/olmoe-z3-w2/global_step3", Tag(),
             fs::copy_options::recursive);
    dir_.Write("run/latest", "global_step3");
  }
  std::string Run() const { return dir_.File("run"); }
  std::string Tag() const { return dir_.File("run/global_step3"); }
  absl::StatusOr<FoundZeroFolder> Look(const LookCommand& command) {
    looks_->Look("l", command);
    auto [look, folder] = events_->NextLook();
    EXPECT_EQ(look, "l");
    return folder;
  }

  const TempDir dir_;
  const std::shared_ptr<RecordingEvents> events_ = std::make_shared<RecordingEvents>();
  const std::shared_ptr<LoadEnvironment> environment_ = std::make_shared<LoadEnvironment>();
  std::unique_ptr<FolderLooks> looks_ = std::make_unique<FolderLooks>(environment_);
};

TEST_F(FolderLooksTest, SaysWhatItFinds) {
  ZC_ASSERT_OK_AND_ASSIGN(const FoundZeroFolder found, Look({Run(), {}, true}));
  EXPECT_EQ(found.latest, "global_step3");
  ASSERT_EQ(found.checkpoints.size(), 1u);
  EXPECT_THAT(found.checkpoints[0].problem, IsOk());
  EXPECT_EQ(found.checkpoints[0].world_size, 2);
  const auto none = Look({dir_.File("none"), {}, true});
  EXPECT_THAT(none, StatusIs(absl::StatusCode::kNotFound, HasSubstr("none")));
  EXPECT_EQ(ReasonOf(none.status()), "CHECKPOINT_NOT_FOUND");
}

TEST_F(FolderLooksTest, LooksOnlyBelowTheRoots) {
  environment_->roots = {fs::canonical(Run()).string()};
  EXPECT_THAT(Look({Run(), {}, true}), IsOk());
  EXPECT_THAT(Look({dir_.path(), {}, true}),
              StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr("--root")));
  // A tag that lies elsewhere, and a file of one.
  fs::create_directory(dir_.File("elsewhere"));
  fs::rename(Tag(), dir_.File("elsewhere/tag"));
  fs::create_symlink(dir_.File("elsewhere/tag"), Tag());
  EXPECT_THAT(Look({Run(), {"global_step3"}}),
              StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr("elsewhere/tag")));
  fs::remove(Tag());
  fs::create_directory(Tag());
  for (const auto& file : fs::directory_iterator(dir_.File("elsewhere/tag"))) {
    fs::create_symlink(file.path(), Tag() + "/" + file.path().filename().string());
  }
  ZC_ASSERT_OK_AND_ASSIGN(const FoundZeroFolder found, Look({Run(), {"global_step3"}}));
  ASSERT_EQ(found.checkpoints.size(), 1u);
  EXPECT_THAT(found.checkpoints[0].problem,
              StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr("elsewhere/tag/")));
}

TEST_F(FolderLooksTest, AFileSystemThatDoesNotAnswerEndsOneLookByItsTime) {
  const std::string file = Tag() + "/zero_pp_rank_1_mp_rank_00_model_states.pt";
  auto held = std::make_unique<HeldFile>(file, FAN_OPEN_PERM);
  if (!held->why_not().empty()) GTEST_SKIP() << held->why_not();
  EXPECT_THAT(Look({Run(), {}, true, kShort}),
              StatusIs(absl::StatusCode::kDeadlineExceeded, StartsWith("open " + file)));
  environment_->file_timeout = kShort;
  EXPECT_THAT(Look({Run(), {}, true}),
              StatusIs(absl::StatusCode::kDeadlineExceeded, StartsWith("open " + file)));
  ExpectStuck(*environment_->file_work, 2);
  held.reset();
  ExpectStuck(*environment_->file_work, 0);
}

TEST_F(FolderLooksTest, ShutdownEndsALookThatHangs) {
  const std::string file = Tag() + "/zero_pp_rank_1_mp_rank_00_model_states.pt";
  auto held = std::make_unique<HeldFile>(file, FAN_OPEN_PERM);
  if (!held->why_not().empty()) GTEST_SKIP() << held->why_not();
  looks_->Look("l", {Run(), {}, true});
  ASSERT_TRUE(held->WaitForCall());
  looks_->Shutdown(absl::Seconds(20));
  EXPECT_THAT(events_->NextLook().second, StatusIs(absl::StatusCode::kCancelled, HasSubstr("")));
  // What comes later is dropped.
  looks_->Look("late", {Run(), {}, true});
  held.reset();
  ExpectStuck(*environment_->file_work, 0);
}

TEST_F(FolderLooksTest, ThereIsALimit) {
  const std::string file = Tag() + "/zero_pp_rank_1_mp_rank_00_model_states.pt";
  auto held = std::make_unique<HeldFile>(file, FAN_OPEN_PERM);
  if (!held->why_not().empty()) GTEST_SKIP() << held->why_not();
  for (int k = 0; k < FolderLooks::kMaxLooks; ++k) {
    looks_->Look("l", {Run(), {}, true, absl::Seconds(20)});
  }
  looks_->Look("one more", {Run(), {}, true});
  auto [look, folder] = events_->NextLook();
  EXPECT_EQ(look, "one more");
  EXPECT_THAT(folder, StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("already looks")));
  held.reset();
  for (int k = 0; k < FolderLooks::kMaxLooks; ++k) EXPECT_THAT(events_->NextLook().second, IsOk());
}

}  // namespace
}  // namespace zerocast
