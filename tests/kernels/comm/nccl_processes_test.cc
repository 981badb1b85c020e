// Participants that are processes, as agents are: on the stand-ins, and on the GPUs of the machine.

#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/comm/nccl.h"
#include "kernels/device/cuda_status.h"
#include "tests/cuda_emu/cuda_emu.h"
#include "tests/kernels/comm/file_rendezvous.h"
#include "tests/temp_dir.h"

namespace zerocast {
namespace {

using ::testing::AnyOf;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::StartsWith;

// Longer than any participant may take to end with the time-outs that the tests give.
constexpr absl::Duration kAll = absl::Seconds(90);

// A started nccl_rank and what it printed.
class Process {
 public:
  Process(const std::string& folder, int rank, int size, const std::string& scenario,
          double timeout_seconds, const std::vector<std::string>& environment) {
    int ends[2];
    if (pipe(ends) != 0) std::abort();
    const std::string program =
        std::filesystem::read_symlink("/proc/self/exe").parent_path() / "nccl_rank";
    const std::vector<std::string> words = {program,
                                            folder,
                                            absl::StrCat(rank),
                                            absl::StrCat(size),
                                            scenario,
                                            absl::StrCat(timeout_seconds)};
    child_ = fork();
    if (child_ == 0) {
      dup2(ends[1], STDOUT_FILENO);
      close(ends[0]);
      close(ends[1]);
      // Ranks of one host may not share a GPU: each is a host of its own.
      setenv("NCCL_HOSTID", absl::StrCat("zerocast-", rank).c_str(), 1);
      for (const std::string& variable : environment) putenv(const_cast<char*>(variable.c_str()));
      std::vector<char*> arguments;
      for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
      arguments.push_back(nullptr);
      execv(program.c_str(), arguments.data());
      _exit(127);
    }
    close(ends[1]);
    output_ = ends[0];
  }
  ~Process() {
    Kill();
    static_cast<void>(End());
    close(output_);
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  void Kill() const {
    if (!ended_) kill(child_, SIGKILL);
  }

  // What it printed until its end, or "hangs" when it does not end until `deadline`.
  std::string Text(absl::Time deadline) {
    std::string text;
    for (;;) {
      pollfd ready{output_, POLLIN, 0};
      const int64_t left = absl::ToInt64Milliseconds(deadline - absl::Now());
      if (left <= 0 || poll(&ready, 1, static_cast<int>(left)) <= 0) return "hangs";
      char bytes[4096];
      const ssize_t n = read(output_, bytes, sizeof(bytes));
      if (n <= 0) break;
      text.append(bytes, n);
    }
    const int status = End();
    return status == 0 ? text : absl::StrCat("exit ", status, ": ", text);
  }

 private:
  int End() {
    if (!ended_) waitpid(child_, &status_, 0);
    ended_ = true;
    return WIFEXITED(status_) ? WEXITSTATUS(status_) : -WTERMSIG(status_);
  }

  pid_t child_ = -1;
  int output_ = -1;
  bool ended_ = false;
  int status_ = 0;
};

class NcclProcesses : public ::testing::Test {
 protected:
  void SetUp() override {
    const absl::StatusOr<int> count = DeviceCount();
    if (!count.ok()) GTEST_SKIP() << count.status();
    if (const absl::Status found = FindNccl(); !found.ok()) GTEST_SKIP() << found;
  }

  void Start(int count, int size, const std::string& scenario, double timeout_seconds,
             const std::vector<std::string>& environment = {}) {
    for (int rank = 0; rank < count; ++rank) {
      processes_.push_back(std::make_unique<Process>(folder_.path(), rank, size, scenario,
                                                     timeout_seconds, environment));
    }
  }

  std::string Text(int rank) { return processes_[rank]->Text(deadline_); }

  void WaitFor(const std::string& key) { ASSERT_TRUE(rendezvous_.Get(key, kAll).ok()) << key; }

  // Seconds within which healthy participants are done with anything: kernels of processes that
  // share a GPU take turns.
  static double Soon() { return cudaEmu() == nullptr ? 20 : 5; }

  const TempDir folder_;
  FileRendezvous rendezvous_{folder_.path()};
  const absl::Time deadline_ = absl::Now() + kAll;
  std::vector<std::unique_ptr<Process>> processes_;
};

class Sizes : public NcclProcesses, public ::testing::WithParamInterface<int> {};
INSTANTIATE_TEST_SUITE_P(All, Sizes, ::testing::Values(1, 2, 4));

TEST_P(Sizes, BytesOfDeviceMemoryArriveUnchanged) {
  Start(GetParam(), GetParam(), "patterns", 60);
  for (int rank = 0; rank < GetParam(); ++rank) EXPECT_EQ(Text(rank), "OK\n");
}

TEST_F(NcclProcesses, AParticipantThatNeverComesIsNamed) {
  Start(1, 2, "patterns", 1);
  EXPECT_THAT(Text(0), AllOf(StartsWith("DEADLINE_EXCEEDED: "), HasSubstr("participant 1 ")));
}

TEST_F(NcclProcesses, OneThatHangsWhileConnectingEndsByTheDeadline) {
  Start(2, 2, "stuck", Soon());
  EXPECT_THAT(Text(0), StartsWith("DEADLINE_EXCEEDED: "));
  ASSERT_TRUE(rendezvous_.Put("end", "").ok());
  EXPECT_EQ(Text(1), "OK\n");
}

TEST_F(NcclProcesses, OneThatHangsBetweenRoundsIsNamed) {
  Start(3, 3, "idle", Soon());
  for (int rank = 0; rank < 2; ++rank) {
    // With the other one, at worst, when it has no processor to say in time that it is late, too.
    EXPECT_THAT(Text(rank), AllOf(StartsWith("DEADLINE_EXCEEDED: "),
                                  ContainsRegex("waiting for participants? ([01], )?2 ")));
  }
  ASSERT_TRUE(rendezvous_.Put("end", "").ok());
  EXPECT_EQ(Text(2), "OK\n");
}

TEST_F(NcclProcesses, OneThatAbortsEndsTheOthers) {
  Start(3, 3, "abort", 60);
  for (int rank = 0; rank < 2; ++rank) {
    EXPECT_THAT(Text(rank), AllOf(StartsWith("UNAVAILABLE: "), HasSubstr("participant 2: "),
                                  HasSubstr("enough")));
  }
  EXPECT_THAT(Text(2), AllOf(StartsWith("FAILED_PRECONDITION: "), HasSubstr("enough")));
}

TEST_F(NcclProcesses, OneThatLeavesEndsTheOthers) {
  Start(3, 3, "leave", 60);
  for (int rank = 0; rank < 2; ++rank) {
    EXPECT_THAT(Text(rank), AllOf(StartsWith("UNAVAILABLE: "), HasSubstr("participant 2: ")));
  }
  EXPECT_EQ(Text(2), "OK\n");
}

// Where NCCL sees the end of a process, its peers are lost at once; else by the deadline.
TEST_F(NcclProcesses, OneThatIsKilledEndsTheOthersByTheDeadline) {
  Start(3, 3, "loop", 2 * Soon());
  for (int rank = 0; rank < 3; ++rank) WaitFor(absl::StrCat("running/", rank));
  processes_[2]->Kill();
  for (int rank = 0; rank < 2; ++rank) {
    EXPECT_THAT(Text(rank),
                AllOf(AnyOf(StartsWith("UNAVAILABLE: "), StartsWith("DEADLINE_EXCEEDED: ")),
                      HasSubstr("participant")));
  }
}

TEST_F(NcclProcesses, OneThatDiesInAnyRoundIsNamed) {
  if (cudaEmu() == nullptr) GTEST_SKIP() << "only the stand-ins die on demand";
  for (int job = 0; job < 6; ++job) {
    SCOPED_TRACE(job);
    processes_.clear();
    std::filesystem::remove_all(folder_.path());
    std::filesystem::create_directory(folder_.path());
    Start(3, 3, "loop", 60, {absl::StrCat("EMU_NCCL_DIE=1:", job)});
    EXPECT_THAT(Text(1), StartsWith("exit 86"));
    for (const int rank : {0, 2}) {
      // With others that have not got so far, at worst.
      EXPECT_THAT(Text(rank), AllOf(StartsWith("UNAVAILABLE: "),
                                    ContainsRegex("lost participants? ([02], )?1")));
    }
  }
}

}  // namespace
}  // namespace zerocast
