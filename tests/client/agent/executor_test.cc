#include "client/agent/executor.h"

#include <fcntl.h>
#include <unistd.h>

#include <filesystem>
#include <sstream>
#include <tuple>

#include "client/agent/digest.h"
#include "tests/client/agent/load_fixture.h"
#include "tests/status_matchers.h"
#include "tests/temp_dir.h"

namespace zerocast {
namespace {

using ::testing::_;
using ::testing::Combine;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Values;

struct Shape {
  int nodes;
  int ranks;
};

using Parameters = std::tuple<Shape, ReadMode, MoveMode, DTypePolicy, int64_t>;

// Loads `layout` on a cluster: every partition must hold exactly its bytes.
void ExpectEveryPartition(const Layout& layout) {
  const TempDir dir;
  WriteCheckpoint(dir.path(), TestSeed());
  const auto plan = MakePlan(dir.path(), layout);
  ClusterOptions options;
  options.plan = plan;
  options.folder = dir.path();
  const ClusterRun run = RunCluster(std::move(options));
  EXPECT_THAT(run.statuses, Each(IsOk()));
  EXPECT_THAT(Differences(*plan, run.arenas, ExpectedPartitions(*plan, dir.path())), IsEmpty());
}

class ExecutorMatrixTest : public ::testing::TestWithParam<Parameters> {};

TEST_P(ExecutorMatrixTest, EveryPartitionHoldsExactlyItsBytes) {
  const auto& [shape, read_mode, move_mode, dtype, round_bytes] = GetParam();
  Layout layout = MakeLayout(shape.nodes, shape.ranks);
  layout.read_mode = read_mode;
  layout.move_mode = move_mode;
  layout.dtype = dtype;
  layout.round_bytes = round_bytes;
  ExpectEveryPartition(layout);
}

INSTANTIATE_TEST_SUITE_P(
    All, ExecutorMatrixTest,
    Combine(Values(Shape{1, 1}, Shape{1, 3}, Shape{2, 2}, Shape{3, 1}, Shape{3, 2}),
            Values(ReadMode::kParallel, ReadMode::kLocal, ReadMode::kRank0),
            Values(MoveMode::kScatter, MoveMode::kBroadcast),
            Values(DTypePolicy::kStored, DTypePolicy::kFloat32), Values(200, 32 << 20)));

TEST(Executor, WholeTargetsOfStageZeroComeToEveryRank) {
  Layout layout = MakeLayout(2, 2);
  layout.zero_stage = 0;
  layout.round_bytes = 300;
  ExpectEveryPartition(layout);
}

TEST(Executor, MoreRanksThanElementsLeavesTheRestZero) { ExpectEveryPartition(MakeLayout(2, 20)); }

// The files' pages are not in the page cache, where the file system has a disk.
void MakeCold(const std::string& folder) {
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const int fd = ::open(entry.path().c_str(), O_RDONLY);
    ::fdatasync(fd);
    ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    ::close(fd);
  }
}

TEST(Executor, EveryWayOfReadingGivesTheSameBytes) {
  const TempDir dir;
  WriteCheckpoint(dir.path(), TestSeed());
  for (const IoMode io : {IoMode::kAuto, IoMode::kCached, IoMode::kDirect}) {
    for (const int64_t round_bytes : {200, 9000, 32 << 20}) {
      Layout layout = MakeLayout(2, 2);
      layout.round_bytes = round_bytes;
      ClusterOptions options;
      options.plan = MakePlan(dir.path(), layout);
      options.folder = dir.path();
      options.io = io;
      const auto plan = options.plan;
      MakeCold(dir.path());
      const ClusterRun run = RunCluster(std::move(options));
      EXPECT_THAT(run.statuses, Each(IsOk()));
      EXPECT_THAT(Differences(*plan, run.arenas, ExpectedPartitions(*plan, dir.path())), IsEmpty());
      for (const ExecutorProgress& progress : run.progress) {
        EXPECT_EQ(progress.bytes_read, progress.bytes_to_read);
        const IoReport& report = progress.io;
        if (io == IoMode::kCached) {
          EXPECT_EQ(report.direct_bytes, 0);
        }
        // All of them, or the reason why not.
        if (io == IoMode::kDirect && report.refusal.empty()) {
          EXPECT_EQ(report.direct_bytes, progress.bytes_read);
        }
      }
    }
  }
}

// As where shared memory gets huge pages: nothing is written through descriptors.
TEST(Executor, WhatIsWrittenThroughMappingsHasTheSameBytes) {
  const TempDir dir;
  WriteCheckpoint(dir.path(), TestSeed(), 16);
  for (const Shape shape : {Shape{1, 3}, Shape{2, 2}}) {
    const auto plan = MakePlan(dir.path(), MakeLayout(shape.nodes, shape.ranks), 16);
    ClusterOptions options;
    options.plan = plan;
    options.folder = dir.path();
    options.before_load = [](int32_t, ExecutorOptions* executor) { executor->arenas.fds.clear(); };
    const ClusterRun run = RunCluster(std::move(options));
    EXPECT_THAT(run.statuses, Each(IsOk()));
    EXPECT_THAT(Differences(*plan, run.arenas, ExpectedPartitions(*plan, dir.path())), IsEmpty());
  }
}

// What a rank of the failing node holds comes from its own files, or from the other node.
TEST(Executor, AnArenaThatCannotBeWrittenToFailsTheLoad) {
  const int full = ::open("/dev/full", O_WRONLY | O_CLOEXEC);
  const TempDir dir;
  WriteCheckpoint(dir.path(), TestSeed());
  for (const ReadMode read_mode : {ReadMode::kLocal, ReadMode::kRank0}) {
    Layout layout = MakeLayout(2, 1);
    layout.read_mode = read_mode;
    ClusterOptions options;
    options.plan = MakePlan(dir.path(), layout);
    options.folder = dir.path();
    options.before_load = [full](int32_t node, ExecutorOptions* executor) {
      if (node == 1) executor->arenas.fds = {full};
    };
    const ClusterRun run = RunCluster(std::move(options));
    if (run.statuses[1].ok()) {
      GTEST_SKIP() << "1 skipped: shared memory gets huge pages here, and is not written to";
    }
    EXPECT_THAT(run.statuses[1],
                StatusIs(absl::StatusCode::kResourceExhausted,
                         HasSubstr("bytes to shared memory, into arena 0 of this node at")));
  }
  ::close(full);
}

TEST(Executor, ParallelModeReadsEveryByteOnceInTheCluster) {
  const TempDir dir;
  WriteCheckpoint(dir.path(), TestSeed());
  Layout layout = MakeLayout(3, 2);
  layout.round_bytes = 500;
  const auto plan = MakePlan(dir.path(), layout);
  ClusterOptions options;
  options.plan = plan;
  options.folder = dir.path();
  for (int node = 0; node < 3; ++node) options.readers.push_back(MakePosixReader({}));
  const auto readers = options.readers;
  const ClusterRun run = RunCluster(std::move(options));
  EXPECT_THAT(run.statuses, Each(IsOk()));
  int64_t data_bytes = 0;
  for (const ManifestTensor& tensor : plan->manifest->tensors) {
    data_bytes += tensor.file_end - tensor.file_begin;
  }
  int64_t read = 0;
  for (const auto& reader : readers) read += reader->bytes_read();
  EXPECT_EQ(read, data_bytes);
  for (size_t node = 0; node < 3; ++node) {
    EXPECT_EQ(run.progress[node].bytes_read, readers[node]->bytes_read());
    EXPECT_EQ(run.progress[node].bytes_read, run.progress[node].bytes_to_read);
  }
}

TEST(Executor, Rank0ModeReadsOnlyOnTheFirstNode) {
  const TempDir dir;
  WriteCheckpoint(dir.path(), TestSeed());
  Layout layout = MakeLayout(2, 1);
  layout.read_mode = ReadMode::kRank0;
  const auto plan = MakePlan(dir.path(), layout);
  ClusterOptions options;
  options.plan = plan;
  options.folder = dir.path();
  const ClusterRun run = RunCluster(std::move(options));
  EXPECT_THAT(run.statuses, Each(IsOk()));
  EXPECT_EQ(run.progress[1].bytes_read, 0);
  EXPECT_GT(run.progress[1].bytes_received, 0);
}

TEST(Executor, AReplicatedTargetTravelsOnceToANode) {
  const TempDir dir;
  WriteCheckpoint(dir.path(), TestSeed());
  Layout layout = MakeLayout(2, 3);
  layout.zero_stage = 0;
  layout.read_mode = ReadMode::kRank0;
  const auto plan = MakePlan(dir.path(), layout);
  ClusterOptions options;
  options.plan = plan;
  options.folder = dir.path();
  const ClusterRun run = RunCluster(std::move(options));
  EXPECT_THAT(run.statuses, Each(IsOk()));
  // Each piece is followed by less than kPieceAlignment bytes to where the next one begins.
  int64_t num_boxes = 0;
  for (const Target& target : plan->targets) num_boxes += static_cast<int64_t>(target.boxes.size());
  EXPECT_GE(run.progress[0].bytes_sent, run.progress[0].bytes_read);
  EXPECT_LT(run.progress[0].bytes_sent, run.progress[0].bytes_read + num_boxes * kPieceAlignment);
}

// Of one node with one rank.
ExecutorOptions OneNode(const TempDir& dir, int64_t round_bytes) {
  WriteCheckpoint(dir.path(), TestSeed());
  Layout layout = MakeLayout(1, 1);
  layout.round_bytes = round_bytes;
  const auto arenas = std::make_shared<std::vector<Arena>>();
  ExecutorOptions options;
  options.plan = MakePlan(dir.path(), layout);
  arenas->push_back(*Arena::Create("test", options.plan->arena_bytes));
  options.schedule = std::make_shared<const Schedule>(*Schedule::Create(*options.plan));
  options.checkpoint_path = dir.path();
  options.reader = MakePosixReader({});
  options.arenas = MemoryOf(arenas);
  options.identities = {*options.reader->IdentityOf(dir.File("model-1.safetensors")),
                        *options.reader->IdentityOf(dir.File("model-2.safetensors"))};
  return options;
}

TEST(Executor, ACancelledLoadDoesNotWaitForTheRoundThatIsRead) {
  const TempDir dir;
  std::atomic<bool> cancelled{false};
  ExecutorOptions options = OneNode(dir, /*round_bytes=*/9000);
  options.cancelled = &cancelled;
  options.num_threads = 1;
  options.chunk_bytes = 1000;
  // The second chunk of the round may be read in a quarter of an hour.
  options.read_limit = std::make_shared<RateLimit>(1);
  options.stage_timeout = absl::Minutes(2);
  options.hooks.after_read = [&cancelled](int64_t, absl::Span<char>) { cancelled = true; };
  const absl::Duration began = Clock::Real()->Steady();
  EXPECT_THAT(ExecuteLoad(options, nullptr), StatusIs(absl::StatusCode::kCancelled, _));
  EXPECT_LT(Clock::Real()->Steady() - began, absl::Minutes(1));
}

// A round takes two seconds, and its deadline is one.
TEST(Executor, AWaitForTheReadRateIsNotTheFileSystems) {
  const TempDir dir;
  ExecutorOptions options = OneNode(dir, /*round_bytes=*/9000);
  options.num_threads = 1;
  options.chunk_bytes = 1000;
  options.read_limit = std::make_shared<RateLimit>(2000);
  options.stage_timeout = absl::Seconds(1);
  ExecutorProgress progress;
  ASSERT_THAT(ExecuteLoad(options, &progress), IsOk());
  ASSERT_GT(progress.bytes_read, 5000);
  // The report says where the time went.
  EXPECT_GT(progress.read,
            absl::Seconds(0.9 * static_cast<double>(progress.bytes_read - 1000) / 2000));
}

TEST(Executor, TheSendRateIsThatOfWhatANodeSends) {
  const TempDir dir;
  WriteCheckpoint(dir.path(), TestSeed());
  ClusterOptions options;
  Layout layout = MakeLayout(2, 1);
  layout.read_mode = ReadMode::kRank0;
  layout.move_mode = MoveMode::kBroadcast;
  options.plan = MakePlan(dir.path(), layout);
  options.folder = dir.path();
  const std::shared_ptr<RateLimit> shared[] = {std::make_shared<RateLimit>(1),
                                               std::make_shared<RateLimit>(1)};
  options.before_load = [&](int32_t node, ExecutorOptions* executor) {
    executor->send_limit = shared[node];
  };
  const ClusterRun run = RunCluster(std::move(options));
  EXPECT_THAT(run.statuses, Each(IsOk()));
  EXPECT_EQ(run.progress[1].bytes_sent, 0);
  EXPECT_GT(run.progress[1].bytes_received, 5000);
  // The one broadcast began at once; who sends next from that node waits for hours.
  EXPECT_GT(shared[0]->Take(0), absl::Hours(1));
  EXPECT_EQ(shared[1]->Take(0), absl::ZeroDuration());
}

TEST(Executor, ACancelledLoadEndsAndLeavesNobodyWaiting) {
  const TempDir dir;
  std::atomic<bool> cancelled{false};
  ExecutorOptions options = OneNode(dir, /*round_bytes=*/200);
  options.cancelled = &cancelled;
  options.on_progress = [&](const ExecutorProgress& now) { cancelled = now.round == 2; };
  ExecutorProgress progress;
  EXPECT_THAT(ExecuteLoad(options, &progress), StatusIs(absl::StatusCode::kCancelled, _));
  EXPECT_EQ(progress.round, 2);
}

TEST(Executor, DigestsAreThoseOfTheBytesWithTheirPadding) {
  const TempDir dir;
  WriteCheckpoint(dir.path(), TestSeed());
  const auto plan = MakePlan(dir.path(), MakeLayout(1, 3));
  ClusterOptions options;
  options.plan = plan;
  options.folder = dir.path();
  const ClusterRun run = RunCluster(std::move(options));
  EXPECT_THAT(run.statuses, Each(IsOk()));
  const auto expected = ExpectedDigests(*plan, dir.path());
  for (size_t rank = 0; rank < 3; ++rank) {
    EXPECT_EQ(PartitionDigests(*plan, run.arenas[rank].data()), expected[rank]);
  }
}

}  // namespace
}  // namespace zerocast
