// A machine without a GPU: every way in says why.

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/device/buffer.h"
#include "kernels/device/cuda_status.h"
#include "kernels/device/devices.h"
#include "kernels/device/exportable_buffer.h"
#include "kernels/device/stream.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using ::testing::HasSubstr;

TEST(NoDevice, IsAFailedPreconditionThatSaysWhy) {
  const auto refusal =
      StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("cudaErrorNoDevice"));
  EXPECT_THAT(DeviceCount(), refusal);
  EXPECT_THAT(ListDevices(), refusal);
  EXPECT_THAT(FindDevice("GPU-0"), refusal);
  EXPECT_THAT(Stream::Create(0), refusal);
  EXPECT_THAT(DeviceBuffer::Create(0, 1), refusal);
  EXPECT_THAT(PinnedBuffer::Create(0, 1), refusal);
  EXPECT_THAT(CanExport(0), refusal);
}

}  // namespace
}  // namespace zerocast
