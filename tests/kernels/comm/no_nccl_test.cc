// A machine with GPUs and without NCCL.

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/comm/map_rendezvous.h"
#include "kernels/comm/nccl.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(NoNccl, IsAFailedPreconditionThatSaysWhatToDo) {
  const auto refusal = StatusIs(absl::StatusCode::kFailedPrecondition,
                                AllOf(HasSubstr("open libnccl.so.2"), HasSubstr("install NCCL")));
  EXPECT_THAT(FindNccl(), refusal);
  NcclOptions options;
  options.size = 2;
  options.rendezvous = std::make_shared<MapRendezvous>();
  EXPECT_THAT(NcclCommunicator::Create(options).status(), refusal);
  // One alone needs none.
  options.size = 1;
  EXPECT_THAT(NcclCommunicator::Create(options).status(), IsOk());
}

}  // namespace
}  // namespace zerocast
