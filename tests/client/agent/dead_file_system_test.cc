// A file system that does not answer ends a load by its deadline, and nothing else.

#include <filesystem>

#include "client/agent/file_work.h"
#include "server/base/errors.h"
#include "tests/client/agent/gate.h"
#include "tests/client/agent/held_file.h"
#include "tests/client/agent/load_table_fixture.h"
#include "tests/client/agent/stuck_calls.h"

namespace zerocast {
namespace {

using ::testing::_;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

constexpr absl::Duration kShort = absl::Milliseconds(300);

// A reader whose look at one file hangs, from the given one on.
class HangingReader : public FileReader {
 public:
  HangingReader(std::string path, int first) : path_(std::move(path)), first_(first) {}

  absl::StatusOr<std::unique_ptr<ReadableFile>> Open(const std::string& path) override {
    return files_->Open(path);
  }
  absl::StatusOr<FileIdentity> IdentityOf(const std::string& path) override {
    if (path == path_ && ++num_calls_ >= first_) gate.Wait();
    return files_->IdentityOf(path);
  }
  int64_t bytes_read() const override { return files_->bytes_read(); }

  Gate gate;

 private:
  const std::shared_ptr<FileReader> files_ = MakePosixReader({});
  const std::string path_;
  const int first_;
  std::atomic<int> num_calls_{0};
};

class DeadFileSystemTest : public LoadTableTest {
 protected:
  void SetUp() override {
    LoadTableTest::SetUp();
    layout_ = MakeLayout(1, 2);
    environment().file_timeout = kShort;
    WriteCheckpoint(healthy_.path(), 1);
  }
  LoadEnvironment& environment() { return *nodes_[0]->environment; }
  LoadTable* table() { return nodes_[0]->table.get(); }
  RecordingEvents* events() { return nodes_[0]->events.get(); }
  std::string File() const { return dir_.File("model-1.safetensors"); }

  PrepareCommand Impatient() {
    PrepareCommand command = Command(0);
    command.stage_timeout = kShort;
    return command;
  }
  std::shared_ptr<HangingReader> HangFrom(int call) {
    auto reader = std::make_shared<HangingReader>(File(), call);
    environment().reader = reader;
    return reader;
  }
  void ExpectStuck(int count) { zerocast::ExpectStuck(*environment().file_work, count); }
  // Another folder, read while the first one hangs.
  void ExpectUsable() {
    environment().file_timeout = absl::Seconds(20);
    table()->Inspect({"loads/healthy", 1}, {healthy_.path(), absl::Seconds(20)});
    EXPECT_THAT(events()->NextManifest(), IsOk());
  }

  const TempDir healthy_;
};

TEST_F(DeadFileSystemTest, AnInspectionIsEndedAndNamesTheCall) {
  auto held = std::make_unique<HeldFile>(File(), FAN_OPEN_PERM);
  if (!held->why_not().empty()) GTEST_SKIP() << held->why_not();
  table()->Inspect({kLoad, 1}, {dir_.path(), absl::Hours(1)});
  const auto manifest = events()->NextManifest();
  EXPECT_THAT(manifest,
              StatusIs(absl::StatusCode::kDeadlineExceeded, StartsWith("open " + File())));
  EXPECT_EQ(ReasonOf(manifest.status()), "DEADLINE_EXCEEDED");
  ExpectStuck(1);
  ExpectUsable();
  held.reset();
  ExpectStuck(0);
}

TEST_F(DeadFileSystemTest, AnInspectionIsEndedByTheTimeForAllOfIt) {
  environment().file_timeout = absl::Hours(1);
  auto held = std::make_unique<HeldFile>(File(), FAN_OPEN_PERM);
  if (!held->why_not().empty()) GTEST_SKIP() << held->why_not();
  table()->Inspect({kLoad, 1}, {dir_.path(), kShort});
  const auto manifest = events()->NextManifest();
  EXPECT_THAT(manifest,
              StatusIs(absl::StatusCode::kDeadlineExceeded, StartsWith("open " + File())));
  EXPECT_EQ(ReasonOf(manifest.status()), "DEADLINE_EXCEEDED");
  held.reset();
  ExpectStuck(0);
}

TEST_F(DeadFileSystemTest, CancelEndsAnInspectionThatHangs) {
  environment().file_timeout = absl::Hours(1);
  auto held = std::make_unique<HeldFile>(File(), FAN_OPEN_PERM);
  if (!held->why_not().empty()) GTEST_SKIP() << held->why_not();
  table()->Inspect({kLoad, 1}, {dir_.path(), absl::Hours(1)});
  ASSERT_TRUE(held->WaitForCall());  // one that is not made yet is not made at all
  table()->Cancel({kLoad, 1}, "test");
  table()->Shutdown(absl::Seconds(20));  // waits for the worker, not for the file system
  ExpectStuck(1);
  held.reset();
  ExpectStuck(0);
}

TEST_F(DeadFileSystemTest, APreparationIsEndedAndNamesTheCall) {
  const PrepareCommand command = Impatient();
  auto held = std::make_unique<HeldFile>(File(), FAN_OPEN_PERM);
  if (!held->why_not().empty()) GTEST_SKIP() << held->why_not();
  table()->Prepare({kLoad, 1}, command);
  EXPECT_THAT(events()->NextPlan(),
              StatusIs(absl::StatusCode::kDeadlineExceeded, StartsWith("open " + File())));
  EXPECT_THAT(table()->Held(), IsEmpty());
  ExpectUsable();
  held.reset();
  ExpectStuck(0);
}

TEST_F(DeadFileSystemTest, AReadIsEndedAndNamesTheCall) {
  table()->Prepare({kLoad, 1}, Impatient());
  ASSERT_THAT(events()->NextPlan(), IsOk());
  auto held = std::make_unique<HeldFile>(File(), FAN_ACCESS_PERM);
  if (!held->why_not().empty()) GTEST_SKIP() << held->why_not();
  table()->Start({kLoad, 1});
  const NodeResult result = events()->NextResult();
  EXPECT_THAT(result.status,
              StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("read " + File())));
  EXPECT_THAT(result.shards, IsEmpty());
  EXPECT_THAT(table()->Held(), IsEmpty());
  ExpectStuck(1);
  ExpectUsable();
  held.reset();
  ExpectStuck(0);
}

TEST_F(DeadFileSystemTest, TheFirstLookAtAFileIsEnded) {
  const auto reader = HangFrom(1);
  table()->Prepare({kLoad, 1}, Impatient());
  EXPECT_THAT(events()->NextPlan(),
              StatusIs(absl::StatusCode::kDeadlineExceeded, StartsWith("stat " + File())));
  reader->gate.Open();
  ExpectStuck(0);
}

TEST_F(DeadFileSystemTest, TheLastLookAtAFileIsEnded) {
  const auto reader = HangFrom(2);
  table()->Prepare({kLoad, 1}, Impatient());
  ASSERT_THAT(events()->NextPlan(), IsOk());
  table()->Start({kLoad, 1});
  EXPECT_THAT(events()->NextResult().status,
              StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("stat " + File())));
  reader->gate.Open();
  ExpectStuck(0);
}

TEST_F(DeadFileSystemTest, LoadsThatComeAgainLeaveNoMoreThreads) {
  const auto reader = HangFrom(1);
  for (int k = 1; k <= 2; ++k) {
    table()->Prepare({kLoad, k}, Impatient());
    EXPECT_THAT(events()->NextPlan(), StatusIs(absl::StatusCode::kDeadlineExceeded, _));
  }
  for (int k = 3; k <= 5; ++k) {
    table()->Prepare({kLoad, k}, Impatient());
    const auto plan = events()->NextPlan();
    EXPECT_THAT(plan, StatusIs(absl::StatusCode::kUnavailable, HasSubstr(dir_.path())));
    EXPECT_EQ(ReasonOf(plan.status()), "IO_ERROR");
  }
  ExpectStuck(2);
  ExpectUsable();
  reader->gate.Open();
  ExpectStuck(0);
}

TEST_F(DeadFileSystemTest, CancelEndsAPreparationThatHangs) {
  const auto reader = HangFrom(1);
  PrepareCommand command = Command(0);
  command.stage_timeout = absl::Hours(1);
  table()->Prepare({kLoad, 1}, command);
  table()->Cancel({kLoad, 1}, "test");
  table()->Shutdown(absl::Seconds(20));  // waits for the worker, not for the file system
  EXPECT_EQ(table()->counts().cancelled, 1);
  reader->gate.Open();
  ExpectStuck(0);
}

}  // namespace
}  // namespace zerocast
