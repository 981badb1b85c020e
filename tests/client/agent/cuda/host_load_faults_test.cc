// Loads whose devices fill shards in host memory, in which something fails.

#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/client/agent/cuda/device_load.h"

namespace zerocast {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// What locks the shards, and of the rest what writes to them or waits.
constexpr Function kHostFunctions[] = {
    {"cudaSetDevice"},
    {"cudaHostRegister"},
    {"cudaHostGetDevicePointer"},
    {"cudaHostUnregister", true},
    {"cudaStreamCreateWithFlags"},
    {"cudaEventRecord"},
    {"cudaEventQuery", false, 60},
    {"cudaMalloc"},
    {"cudaMemcpyAsync"},
    {"cudaLaunchKernel"},
    {"ncclCommInitRankConfig"},
    {"ncclSend"},
};

class HostCallFaults : public CallFaults {};

TEST_P(HostCallFaults, EachEndsAllNodesInTime) { EachEndsAllNodesInTime(Placement::kHost); }

INSTANTIATE_TEST_SUITE_P(All, HostCallFaults, ::testing::ValuesIn(kHostFunctions), NameOf);

class HostLoadFaults : public DeviceLoadFaults {
 protected:
  void SetUp() override {
    DeviceLoadFaults::SetUp();
    if (IsSkipped()) return;
    Lay(MoveMode::kScatter, Placement::kHost);
  }
};

TEST_F(HostLoadFaults, WithoutAFaultAllIsRight) {
  const uint64_t before = emu_->objectsAlive();
  const Outcome outcome = Load("");
  EXPECT_THAT(outcome.statuses, Each(IsOk()));
  EXPECT_TRUE(outcome.is_right);
  CheckNothingIsLeft(before);
}

// Whatever is called fails in its turn, here or where shards lie on devices.
TEST_F(HostLoadFaults, NoFunctionIsCalledThatIsNotFailed) {
  EXPECT_THAT(Load("").statuses, Each(IsOk()));
  std::set<std::string> here;
  for (const Function& function : kHostFunctions) here.insert(function.name);
  EXPECT_THAT(CalledBesides(std::move(here)), IsEmpty());
}

TEST_F(HostLoadFaults, WhatTheSystemDoesNotLockIsNamed) {
  const Outcome outcome = Load("cudaHostRegister:2");
  ASSERT_TRUE(outcome.failed);
  EXPECT_THAT(outcome.statuses,
              Contains(StatusIs(absl::StatusCode::kResourceExhausted,
                                AllOf(HasSubstr("lock the shard of rank "),
                                      HasSubstr(absl::StrCat(plan_->arena_bytes, " bytes")),
                                      HasSubstr("offloads parameters"), HasSubstr("ulimit -l")))));
}

}  // namespace
}  // namespace zerocast
