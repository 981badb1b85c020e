// What goes wrong on the way of the bytes is found: by the status, or by the digests.  What goes
// wrong in reading: load_reads_test.cc.

#include <unistd.h>

#include <filesystem>

#include "client/agent/digest.h"
#include "client/verify/verify.h"
#include "server/base/errors.h"
#include "tests/client/agent/load_fixture.h"
#include "tests/client/agent/stuck_calls.h"
#include "tests/status_matchers.h"
#include "tests/temp_dir.h"

namespace zerocast {
namespace {

using ::testing::AnyOfArray;
using ::testing::Each;
using ::testing::HasSubstr;

class LoadFaultsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    WriteCheckpoint(dir_.path(), TestSeed());
    layout_ = MakeLayout(2, 2);
    layout_.round_bytes = 700;
    Plan();
  }
  void Plan() {
    plan_ = MakePlan(dir_.path(), layout_);
    options_.plan = plan_;
    options_.folder = dir_.path();
  }
  // Partitions whose digest is not the one computed independently from the files.
  int NumWrongDigests(const ClusterRun& run) {
    const auto expected = ExpectedDigests(*plan_, dir_.path());
    int wrong = 0;
    for (size_t rank = 0; rank < run.arenas.size(); ++rank) {
      const auto digests = PartitionDigests(*plan_, run.arenas[rank].data());
      for (size_t t = 0; t < digests.size(); ++t) wrong += digests[t] != expected[rank][t];
    }
    return wrong;
  }
  // The independent witness's word on what the ranks hold.
  absl::Status Verify(const ClusterRun& run) {
    VerifyOptions options;
    options.checkpoint_path = dir_.path();
    options.model_spec_json = CheckpointSpecJson();
    options.dtype = "stored";
    options.world_size = layout_.world_size;
    options.zero_stage = layout_.zero_stage;
    std::vector<DigestToVerify> given;
    for (size_t rank = 0; rank < run.arenas.size(); ++rank) {
      const auto digests = PartitionDigests(*plan_, run.arenas[rank].data());
      for (size_t t = 0; t < digests.size(); ++t) {
        given.push_back({static_cast<int32_t>(rank), plan_->targets[t].name, digests[t]});
      }
    }
    return VerifyPartitions(options, given).status();
  }
  // The witness refuses what the ranks hold, naming target and rank of a partition that is wrong.
  void ExpectWitnessRefuses(const ClusterRun& run) {
    const auto expected = ExpectedDigests(*plan_, dir_.path());
    std::vector<::testing::Matcher<const std::string&>> wrong;
    for (size_t rank = 0; rank < run.arenas.size(); ++rank) {
      const auto digests = PartitionDigests(*plan_, run.arenas[rank].data());
      for (size_t t = 0; t < digests.size(); ++t) {
        if (digests[t] == expected[rank][t]) continue;
        wrong.push_back(HasSubstr("target " + plan_->targets[t].name + " of rank " +
                                  std::to_string(rank) + ":"));
      }
    }
    ASSERT_FALSE(wrong.empty());
    const absl::Status status = Verify(run);
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kDataLoss, AnyOfArray(wrong)));
    EXPECT_EQ(ReasonOf(status), "DIGEST_MISMATCH");
  }
  const TempDir dir_;
  Layout layout_;
  std::shared_ptr<const zerocast::Plan> plan_;
  ClusterOptions options_;
};

TEST_F(LoadFaultsTest, WithoutAFaultEveryDigestIsRight) {
  const ClusterRun run = RunCluster(std::move(options_));
  EXPECT_THAT(run.statuses, Each(IsOk()));
  EXPECT_EQ(NumWrongDigests(run), 0);
  EXPECT_THAT(Verify(run), IsOk());
}

TEST_F(LoadFaultsTest, AByteFlippedInTheFileBufferIsFound) {
  options_.hooks.resize(2);
  options_.hooks[1].after_read = [](int64_t round, absl::Span<char> data) {
    if (round == 1) data[data.size() / 2] ^= 0x10;
  };
  const ClusterRun run = RunCluster(std::move(options_));
  EXPECT_THAT(run.statuses, Each(IsOk()));
  EXPECT_EQ(NumWrongDigests(run), 1);
  ExpectWitnessRefuses(run);
}

TEST_F(LoadFaultsTest, AByteFlippedInAMessageIsFound) {
  options_.hooks.resize(2);
  bool flipped = false;
  options_.hooks[0].before_unpack = [&flipped](int64_t, int32_t, absl::Span<char> message) {
    if (!flipped) message[message.size() / 2] ^= 0x10;
    flipped = true;
  };
  const ClusterRun run = RunCluster(std::move(options_));
  EXPECT_THAT(run.statuses, Each(IsOk()));
  EXPECT_TRUE(flipped);
  EXPECT_GE(NumWrongDigests(run), 1);
  ExpectWitnessRefuses(run);
}

TEST_F(LoadFaultsTest, BytesFlippedInABroadcastAreFound) {
  layout_.move_mode = MoveMode::kBroadcast;
  Plan();
  options_.hooks.resize(2);
  // All of them: a node keeps only a part of what a broadcast brings.
  options_.hooks[1].before_unpack = [](int64_t, int32_t, absl::Span<char> message) {
    for (char& byte : message) byte ^= 0x10;
  };
  const ClusterRun run = RunCluster(std::move(options_));
  EXPECT_THAT(run.statuses, Each(IsOk()));
  EXPECT_GE(NumWrongDigests(run), 1);
}

TEST_F(LoadFaultsTest, AByteFlippedInAnArenaIsFound) {
  const ClusterRun run = RunCluster(std::move(options_));
  ASSERT_EQ(NumWrongDigests(run), 0);
  ASSERT_THAT(Verify(run), IsOk());
  const Target& target = plan_->targets[1];
  run.arenas[2].data()[target.arena_offset + 5] ^= 0x10;
  EXPECT_EQ(NumWrongDigests(run), 1);
  ExpectWitnessRefuses(run);
  EXPECT_THAT(Verify(run), StatusIs(absl::StatusCode::kDataLoss,
                                    HasSubstr("target " + target.name + " of rank 2")));
}

TEST_F(LoadFaultsTest, AFileCutBeforeTheLoadIsNamed) {
  ASSERT_EQ(::truncate(dir_.File("model-2.safetensors").c_str(), 1000), 0);
  const ClusterRun run = RunCluster(std::move(options_));
  for (const absl::Status& status : run.statuses) {
    if (ReasonOf(status) == "EXCHANGE_FAILED") continue;  // the node that reads the other file
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kAborted, HasSubstr("model-2.safetensors")));
    EXPECT_EQ(ReasonOf(status), "CHECKPOINT_CHANGED");
  }
}

TEST_F(LoadFaultsTest, AReadThatHangsEndsByTheDeadlineAndIsNamed) {
  layout_ = MakeLayout(1, 1);
  Plan();
  PosixReaderOptions faulty;
  // Held by the reader's own thread, which outlives the load.
  auto held = std::make_shared<std::atomic<bool>>(true);
  faulty.result_of_read = [held](const ReadCall& call, int64_t result) {
    while (*held && call.path.find("model-2") != std::string::npos) ::usleep(1000);
    return result;
  };
  options_.readers = {MakePosixReader(faulty)};
  options_.stage_timeout = absl::Milliseconds(500);
  const auto work = std::make_shared<FileWork>();
  options_.file_work = work;
  const ClusterRun run = RunCluster(std::move(options_));
  EXPECT_THAT(run.statuses[0],
              StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("model-2.safetensors")));
  ExpectStuck(*work, 1);
  *held = false;
  ExpectStuck(*work, 0);
}

size_t OpenDescriptors() {
  size_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    (void)entry;
    ++count;
  }
  return count;
}

TEST_F(LoadFaultsTest, FiftyLoadsLeaveNoDescriptorAndNoArena) {
  const size_t descriptors = OpenDescriptors();
  const int64_t bytes = Arena::TotalBytes();
  for (int k = 0; k < 50; ++k) {
    ClusterOptions options;
    options.plan = plan_;
    options.folder = dir_.path();
    const ClusterRun run = RunCluster(std::move(options));
    ASSERT_THAT(run.statuses, Each(IsOk()));
  }
  EXPECT_EQ(OpenDescriptors(), descriptors);
  EXPECT_EQ(Arena::TotalBytes(), bytes);
}

}  // namespace
}  // namespace zerocast
