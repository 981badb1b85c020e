// Loads onto devices, as an agent makes them, in which something fails: every call of CUDA and NCCL
// in its turn, every kernel, every transfer; and in which something hangs.  On the stand-ins, two
// nodes of two devices each.

#include <sys/wait.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "tests/client/agent/cuda/device_load.h"

namespace zerocast {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::Contains;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

TEST_F(DeviceLoadFaults, WithoutAFaultAllIsRight) {
  const Outcome outcome = Load("");
  EXPECT_THAT(outcome.statuses, Each(IsOk()));
  EXPECT_TRUE(outcome.is_right);
}

TEST_P(CallFaults, EachEndsAllNodesInTime) { EachEndsAllNodesInTime(Placement::kDevice); }

INSTANTIATE_TEST_SUITE_P(All, CallFaults, ::testing::ValuesIn(kFunctions), NameOf);

class FirstCallFaults : public DeviceLoadFaults,
                        public ::testing::WithParamInterface<const char*> {};

TEST_P(FirstCallFaults, EachEndsAllNodesInTime) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  for (int call = 1, code = 0; code == 0; ++call) {
    const auto ends = [&code](int status) {
      code = WIFEXITED(status) ? WEXITSTATUS(status) : 1;
      return code == 0 || code == 2;
    };
    EXPECT_EXIT(LoadAndExit(absl::StrCat(GetParam(), ":", call)), ends, "");
    EXPECT_FALSE(code == 2 && call == 1) << "never called";
  }
}

INSTANTIATE_TEST_SUITE_P(All, FirstCallFaults, ::testing::ValuesIn(kFirstCalls),
                         [](const auto& info) { return std::string(info.param); });

// What ends a load that has failed already.
TEST_F(DeviceLoadFaults, EveryAbortThatFailsEndsAllNodesInTime) {
  for (int call = 1;; ++call) {
    const Outcome outcome = Load(absl::StrCat("ncclRecv:1,ncclCommAbort:", call));
    SCOPED_TRACE(absl::StrCat("abort ", call, ": ", Messages(outcome)));
    ASSERT_TRUE(outcome.failed);
    EXPECT_THAT(outcome.statuses, Each(Not(IsOk())));
    CheckFailed(outcome);
    if (HasFailure()) return;
    if (outcome.num_failures == 1) {
      EXPECT_GT(call, 1) << "never called";
      return;
    }
  }
}

// The lists are complete: whatever is called fails in its turn.
TEST_F(DeviceLoadFaults, NoFunctionIsCalledThatIsNotFailed) {
  for (const MoveMode move : {MoveMode::kScatter, MoveMode::kBroadcast}) {
    Lay(move);
    EXPECT_THAT(Load("").statuses, Each(IsOk()));
  }
  EXPECT_THAT(CalledBesides({}), IsEmpty());
}

// NCCL's own errors within a transfer: unhandled by CUDA, by the system, by a peer.
TEST_F(DeviceLoadFaults, EveryTransferThatFailsEndsAllNodesInTime) {
  int failed = 0;
  for (const int error : {1, 2, 6}) {
    for (int job = 1;; ++job) {
      const uint64_t before = emu_->objectsAlive();
      const Outcome outcome = Load(absl::StrCat("ncclAsync:", job, ":", error));
      SCOPED_TRACE(absl::StrCat("job ", job, ", error ", error, ": ", Messages(outcome)));
      if (!outcome.failed) break;
      ++failed;
      EXPECT_THAT(outcome.statuses, Each(Not(IsOk())));
      CheckFailed(outcome);
      CheckNothingIsLeft(before);
      if (HasFailure()) return;
    }
  }
  EXPECT_GE(failed, 3 * kNodes * kRanks);
}

// A kernel that fails leaves its process without a context: each has a process of its own.
class KernelFaults : public DeviceLoadFaults, public ::testing::WithParamInterface<int> {
 protected:
  static std::string Fault() { return absl::StrCat("kernel:", GetParam()); }
};

TEST_P(KernelFaults, EachEndsAllNodesInTime) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(LoadAndExit(Fault()), ::testing::ExitedWithCode(0), "cudaErrorIllegalAddress");
}

constexpr int kKernels = 24;
INSTANTIATE_TEST_SUITE_P(All, KernelFaults, ::testing::Range(1, kKernels + 1));

class NoMoreKernels : public KernelFaults {};
TEST_P(NoMoreKernels, AreInALoad) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(LoadAndExit(Fault()), ::testing::ExitedWithCode(2), "OK; and OK");
}
INSTANTIATE_TEST_SUITE_P(All, NoMoreKernels, ::testing::Values(kKernels + 1));

class Hangs : public DeviceLoadFaults {
 protected:
  void TearDown() override { ::unsetenv("EMU_NCCL_CONNECT_MS"); }
};

TEST_F(Hangs, OfNcclsConnectionsEndByTheDeadline) {
  ::setenv("EMU_NCCL_CONNECT_MS", "100000000", 1);
  const uint64_t before = emu_->objectsAlive();
  const Outcome outcome = Load("", absl::Seconds(1));
  SCOPED_TRACE(Messages(outcome));
  EXPECT_THAT(outcome.statuses, Each(Not(IsOk())));
  EXPECT_THAT(outcome.statuses, Contains(StatusIs(absl::StatusCode::kDeadlineExceeded,
                                                  HasSubstr("still waiting for participant"))));
  EXPECT_LT(outcome.took, kLong / 2);
  CheckNothingIsLeft(before);
}

TEST_F(Hangs, OfAReadEndsAllNodesByTheDeadline) {
  const uint64_t before = emu_->objectsAlive();
  std::atomic<bool> hangs{false};
  ExecutorHooks hooks;
  hooks.after_read = [&](int64_t, absl::Span<char>) {
    if (!hangs.exchange(true)) absl::SleepFor(absl::Seconds(3));
  };
  const Outcome outcome = Load("", absl::Seconds(1), hooks);
  SCOPED_TRACE(Messages(outcome));
  EXPECT_THAT(outcome.statuses, Each(Not(IsOk())));
  EXPECT_THAT(outcome.statuses, Contains(StatusIs(absl::StatusCode::kDeadlineExceeded,
                                                  HasSubstr("was not read within 1s"))));
  EXPECT_LT(outcome.took, kLong / 2);
  CheckNothingIsLeft(before);
}

}  // namespace
}  // namespace zerocast
