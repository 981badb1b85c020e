// What goes wrong in reading, in whole loads, for every way that bytes come in: reads that fail or
// are short, file systems that refuse direct reads, files that change while they are read.

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/agent/memory_needs.h"
#include "client/agent/posix_file.h"
#include "client/agent/read_queue.h"
#include "kernels/base/mutex.h"
#include "server/base/errors.h"
#include "tests/client/agent/load_fixture.h"
#include "tests/status_matchers.h"
#include "tests/temp_dir.h"

namespace zerocast {
namespace {

using ::testing::_;
using ::testing::AllOf;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr int64_t kScale = 16;
constexpr int64_t kRoundBytes = 128 << 10, kChunkBytes = 32 << 10;

// A way that the bytes of a load come in.
struct Way {
  const char* name;
  IoMode io;
  bool cached;  // the page cache has them
  bool uring;   // what it does not have is read by io_uring; else by the threads
};
constexpr Way kWays[] = {
    {"PreadvFromThePageCache", IoMode::kCached, true, true},
    {"UringThroughThePageCache", IoMode::kCached, false, true},
    {"UringPastThePageCache", IoMode::kDirect, false, true},
    {"PreadvThroughThePageCache", IoMode::kCached, false, false},
    {"PreadvPastThePageCache", IoMode::kDirect, false, false},
    {"UringByBothInTurn", IoMode::kAuto, false, true},
};

// What the reads of one node return, and what is said of them instead.
class Reads {
 public:
  using Fault = std::function<int64_t(int64_t number, const ReadCall& call, int64_t result)>;

  int64_t Result(const ReadCall& call, int64_t result) {
    MutexLock lock(&mutex_);
    const auto number = static_cast<int64_t>(calls_.size());
    calls_.push_back(call);
    return fault == nullptr ? result : fault(number, call, result);
  }
  // After the load.
  std::vector<ReadCall> calls() {
    MutexLock lock(&mutex_);
    return calls_;
  }

  Fault fault;  // called under a lock

 private:
  Mutex mutex_;
  std::vector<ReadCall> calls_ ABSL_GUARDED_BY(mutex_);
};

// By the links of /proc/self/fd: whatever kind, arenas and rings among them.
std::vector<std::string> OpenDescriptors() {
  std::vector<std::string> links;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code ignored;  // that of the iteration itself
    links.push_back(std::filesystem::read_symlink(entry.path(), ignored).string());
  }
  std::sort(links.begin(), links.end());
  return links;
}

class LoadReadsTest : public ::testing::TestWithParam<Way> {
 protected:
  void SetUp() override {
    WriteCheckpoint(dir_.path(), TestSeed(), kScale);
    layout_ = MakeLayout(2, 2);
    layout_.round_bytes = kRoundBytes;
    plan_ = MakePlan(dir_.path(), layout_, kScale);
    expected_ = ExpectedPartitions(*plan_, dir_.path());
    if (GetParam().uring && MakeUringQueue(1) == nullptr) {
      GTEST_SKIP() << "1 skipped: no io_uring here";
    }
    if (GetParam().io != IoMode::kCached) {
      const std::string path = dir_.File("model-1.safetensors");
      PosixFile file(std::make_shared<PosixReaderState>(), path, ::open(path.c_str(), O_RDONLY));
      const auto direct = file.DirectFd();
      if (!direct.ok()) GTEST_SKIP() << "1 skipped: " << direct.status();
    }
  }

  // Brings the files to where the way finds them.
  void PlaceFiles() {
    for (const ManifestFile& listed : plan_->manifest->files) {
      const int fd = ::open(dir_.File(listed.path).c_str(), O_RDONLY);
      ASSERT_GE(fd, 0);
      const int64_t size = std::filesystem::file_size(dir_.File(listed.path));
      if (GetParam().cached) {
        std::string bytes(static_cast<size_t>(size), '\0');
        EXPECT_EQ(::pread(fd, bytes.data(), bytes.size(), 0), size);
      } else {
        EXPECT_EQ(::fdatasync(fd), 0);
        EXPECT_EQ(::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
      }
      ::close(fd);
    }
  }

  // A load whose node 0 reads with that fault.
  ClusterRun Run(Reads* reads, int num_threads = 2) {
    PlaceFiles();
    ClusterOptions options;
    options.plan = plan_;
    options.folder = dir_.path();
    options.io = GetParam().io;
    options.num_threads = num_threads;
    PosixReaderOptions faulty;
    faulty.nothing_is_cached = !GetParam().cached;
    faulty.result_of_read = [reads](const ReadCall& call, int64_t result) {
      return reads->Result(call, result);
    };
    options.readers = {MakePosixReader(faulty), MakePosixReader({})};
    options.before_load = [](int32_t, ExecutorOptions* executor) {
      executor->chunk_bytes = kChunkBytes;
      if (!GetParam().uring) executor->hooks.make_queue = MakeWaitingQueue;
    };
    return RunCluster(std::move(options));
  }

  void ExpectRightBytes(const ClusterRun& run) {
    ASSERT_THAT(run.statuses, Each(IsOk()));
    EXPECT_THAT(Differences(*plan_, run.arenas, expected_), IsEmpty());
  }

  // Of node 0, without a fault: each chunk once.
  int64_t CountReads() {
    Reads reads;
    ExpectRightBytes(Run(&reads));
    return static_cast<int64_t>(reads.calls().size());
  }

  const TempDir dir_;
  Layout layout_;
  std::shared_ptr<const Plan> plan_;
  std::vector<std::vector<std::string>> expected_;
};
INSTANTIATE_TEST_SUITE_P(Ways, LoadReadsTest, ::testing::ValuesIn(kWays),
                         [](const auto& info) { return info.param.name; });

TEST_P(LoadReadsTest, BytesComeInThatWay) {
  Reads reads;
  const ClusterRun run = Run(&reads);
  ExpectRightBytes(run);
  const bool by_uring = GetParam().uring && !GetParam().cached;
  int64_t num_direct = 0, num_through = 0;
  for (const ReadCall& call : reads.calls()) {
    EXPECT_EQ(call.uring, by_uring) << call.path << " at " << call.offset;
    ++(call.direct ? num_direct : num_through);
  }
  EXPECT_GE(num_direct + num_through, 16);
  if (GetParam().io == IoMode::kCached) {
    EXPECT_EQ(num_direct, 0);
  } else if (GetParam().io == IoMode::kDirect) {
    EXPECT_EQ(num_through, 0);
    EXPECT_EQ(run.progress[0].io.direct_bytes, run.progress[0].bytes_read);
  } else {
    EXPECT_GE(num_direct, 4);
    EXPECT_GE(num_through, 4);
  }
  EXPECT_EQ(run.progress[0].io.calls, GetParam().uring ? "io_uring" : "preadv");
  EXPECT_EQ(run.progress[0].io.refusal, "");
}

TEST_P(LoadReadsTest, AnIoErrorNamesFileAndOffsetAndEndsTheOtherNode) {
  const int64_t count = CountReads();
  const std::vector<std::string> descriptors = OpenDescriptors();
  const int64_t arena_bytes = Arena::TotalBytes();
  for (const int64_t failing : {int64_t{0}, count / 2, count - 1}) {
    Reads reads;
    ReadCall failed;
    reads.fault = [&](int64_t number, const ReadCall& call, int64_t result) -> int64_t {
      if (number != failing) return result;
      failed = call;
      return -EIO;
    };
    {
      const ClusterRun run = Run(&reads);
      EXPECT_THAT(run.statuses[0],
                  StatusIs(absl::StatusCode::kUnavailable,
                           AllOf(HasSubstr(absl::StrCat("read ", failed.path, " at offset ",
                                                        failed.offset, ":")),
                                 HasSubstr("Input/output error"))))
          << "read " << failing << " of " << count;
      EXPECT_EQ(ReasonOf(run.statuses[0]), "IO_ERROR");
      EXPECT_THAT(run.statuses[1], StatusIs(absl::StatusCode::kUnavailable, _));
      EXPECT_EQ(ReasonOf(run.statuses[1]), "EXCHANGE_FAILED");
    }
    EXPECT_EQ(OpenDescriptors(), descriptors);
    EXPECT_EQ(Arena::TotalBytes(), arena_bytes);
  }
}

TEST_P(LoadReadsTest, AShortReadGoesOn) {
  const int64_t count = CountReads();
  for (const int64_t cut : {int64_t{0}, count / 2, count - 1}) {
    Reads reads;
    bool goes_on = false;
    reads.fault = [&](int64_t number, const ReadCall& call, int64_t result) {
      if (number != cut) return result;
      // Half of a single block may be all that is needed of it.
      goes_on = result / 2 <= call.num_bytes - (call.direct ? kDirectAlignment : 1);
      return result / 2;
    };
    ExpectRightBytes(Run(&reads));
    EXPECT_GE(reads.calls().size(), count + goes_on);
    EXPECT_TRUE(goes_on || cut == count - 1);
  }
}

TEST_P(LoadReadsTest, ReadsThatAreAllShortGoOn) {
  Reads reads;
  // Of the size of a sector, as kernels return them.
  reads.fault = [](int64_t, const ReadCall&, int64_t result) {
    return std::min<int64_t>(result, 9 * 512);
  };
  const ClusterRun run = Run(&reads);
  ExpectRightBytes(run);
  EXPECT_GT(reads.calls().size(), 100);
  EXPECT_EQ(run.progress[0].io.refusal, "");
}

TEST_P(LoadReadsTest, ReadsThatAreInterruptedOrWouldBlockAreMadeAgain) {
  Reads reads;
  reads.fault = [](int64_t number, const ReadCall& call, int64_t result) {
    if (call.uring && number % 3 == 0) return int64_t{-EAGAIN};
    return number % 2 == 0 ? int64_t{-EINTR} : result;
  };
  ExpectRightBytes(Run(&reads));
}

TEST_P(LoadReadsTest, AFileThatIsCutWhileItIsReadIsNamedWithItsOffset) {
  const std::string path = dir_.File("model-1.safetensors");
  Reads reads;
  reads.fault = [&](int64_t number, const ReadCall& call, int64_t result) {
    EXPECT_EQ(call.path, path);
    // Behind what may be under way already.
    if (number == 0) {
      EXPECT_EQ(::truncate(path.c_str(), call.offset + 5 * kChunkBytes + 700), 0);
    }
    return result;
  };
  // One thread: another could open the file when it is cut already.
  const ClusterRun run = Run(&reads, 1);
  const int64_t end = static_cast<int64_t>(std::filesystem::file_size(path));
  EXPECT_THAT(run.statuses[0], StatusIs(absl::StatusCode::kDataLoss,
                                        HasSubstr(absl::StrCat("read ", path, " at offset ", end,
                                                               ": the file ends "
                                                               "there"))));
  EXPECT_EQ(ReasonOf(run.statuses[0]), "CHECKPOINT_CORRUPT");
}

TEST_P(LoadReadsTest, AFileThatIsReplacedWhileItIsReadIsNamed) {
  const std::string path = dir_.File("model-1.safetensors");
  Reads reads;
  reads.fault = [&](int64_t number, const ReadCall&, int64_t result) {
    if (number == 0) {
      // The same bytes, but another file.
      std::filesystem::copy_file(path, path + ".new");
      std::filesystem::rename(path + ".new", path);
    }
    return result;
  };
  const ClusterRun run = Run(&reads);
  EXPECT_THAT(run.statuses[0], StatusIs(absl::StatusCode::kAborted,
                                        AllOf(HasSubstr(path), HasSubstr("another file"))));
  EXPECT_EQ(ReasonOf(run.statuses[0]), "CHECKPOINT_CHANGED");
}

TEST_P(LoadReadsTest, AFileThatIsModifiedWhileItIsReadIsNamed) {
  const std::string path = dir_.File("model-1.safetensors");
  Reads reads;
  reads.fault = [&](int64_t number, const ReadCall&, int64_t result) {
    if (number == 0) {
      const timespec times[2] = {{1, 0}, {1, 0}};
      EXPECT_EQ(::utimensat(AT_FDCWD, path.c_str(), times, 0), 0);
    }
    return result;
  };
  const ClusterRun run = Run(&reads);
  EXPECT_THAT(run.statuses[0],
              StatusIs(absl::StatusCode::kAborted, AllOf(HasSubstr(path), HasSubstr("modified"))));
}

// Ways that read past the page cache.
class DirectReadsTest : public LoadReadsTest {
 protected:
  // From its read `first` on the file system does to direct reads what `fault` says.
  ClusterRun RunFrom(int64_t first, int64_t (*fault)(int64_t result), Reads* reads) {
    reads->fault = [=](int64_t number, const ReadCall& call, int64_t result) {
      return call.direct && number >= first ? fault(result) : result;
    };
    return Run(reads);
  }
};
INSTANTIATE_TEST_SUITE_P(Ways, DirectReadsTest, ::testing::Values(kWays[2], kWays[4], kWays[5]),
                         [](const auto& info) { return info.param.name; });

TEST_P(DirectReadsTest, WhereTheyAreRefusedTheLoadGoesOnThroughThePageCacheAndSaysSo) {
  const int64_t count = CountReads();
  // In auto mode direct reads are a few of the first ones, and then a choice.
  const bool always = GetParam().io == IoMode::kDirect;
  for (const int64_t first : {int64_t{0}, always ? count / 2 : 1, always ? count - 1 : 2}) {
    Reads reads;
    const ClusterRun run = RunFrom(
        first, [](int64_t) { return int64_t{-EINVAL}; }, &reads);
    ExpectRightBytes(run);
    EXPECT_THAT(run.progress[0].io.refusal,
                AllOf(HasSubstr(dir_.path()), HasSubstr("past the page cache: EINVAL")));
    // After the first refusals nobody tries again: some were under way on both threads.
    const std::vector<ReadCall> calls = reads.calls();
    const auto refused = std::count_if(calls.begin() + first, calls.end(),
                                       [](const ReadCall& call) { return call.direct; });
    EXPECT_GE(refused, 1);
    EXPECT_LE(refused, 2 * kChunksUnderWay + 1);
    if (first == 0) {
      EXPECT_EQ(run.progress[0].io.direct_bytes, 0);
    }
  }
}

TEST_P(DirectReadsTest, WhereTheyGetLessThanABlockTheLoadGoesOnThroughThePageCacheAndSaysSo) {
  Reads reads;
  const ClusterRun run = RunFrom(
      0, [](int64_t result) { return std::min<int64_t>(result, 512); }, &reads);
  ExpectRightBytes(run);
  EXPECT_THAT(run.progress[0].io.refusal,
              AllOf(HasSubstr(dir_.path()), HasSubstr("only 512 bytes at offset")));
}

}  // namespace
}  // namespace zerocast
