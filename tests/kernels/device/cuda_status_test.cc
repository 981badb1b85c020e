// Statuses of CUDA errors; needs no device.

#include "kernels/device/cuda_status.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/device/buffer.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

TEST(ToStatus, OfSuccessIsOk) { EXPECT_THAT(ToStatus(cudaSuccess, "anything"), IsOk()); }

TEST(ToStatus, SaysWhatWasTriedWhatHappenedAndWhatToDo) {
  EXPECT_THAT(ToStatus(cudaErrorMemoryAllocation, "allocate 8 bytes on device 1"),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       AllOf(StartsWith("allocate 8 bytes on device 1: "),
                             HasSubstr("cudaErrorMemoryAllocation (2)"), HasSubstr("out of memory"),
                             HasSubstr("smaller buffers"))));
}

struct Mapping {
  cudaError_t error;
  absl::StatusCode code;
};

class MappingTest : public ::testing::TestWithParam<Mapping> {};

TEST_P(MappingTest, HasItsCode) {
  EXPECT_THAT(ToStatus(GetParam().error, "try"),
              StatusIs(GetParam().code, HasSubstr(cudaGetErrorName(GetParam().error))));
}

INSTANTIATE_TEST_SUITE_P(
    Errors, MappingTest,
    ::testing::Values(Mapping{cudaErrorNoDevice, absl::StatusCode::kFailedPrecondition},
                      Mapping{cudaErrorInsufficientDriver, absl::StatusCode::kFailedPrecondition},
                      Mapping{cudaErrorNoKernelImageForDevice,
                              absl::StatusCode::kFailedPrecondition},
                      Mapping{cudaErrorInvalidDevice, absl::StatusCode::kInvalidArgument},
                      Mapping{cudaErrorDevicesUnavailable, absl::StatusCode::kUnavailable},
                      Mapping{cudaErrorECCUncorrectable, absl::StatusCode::kUnavailable},
                      Mapping{cudaErrorNotSupported, absl::StatusCode::kUnimplemented},
                      Mapping{cudaErrorIllegalAddress, absl::StatusCode::kInternal},
                      Mapping{cudaErrorInvalidValue, absl::StatusCode::kInternal}));

TEST(Buffers, RefuseASizeBelowOne) {
  EXPECT_THAT(DeviceBuffer::Create(0, 0),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("at least 1")));
  EXPECT_THAT(PinnedBuffer::Create(0, -1),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("at least 1")));
}

}  // namespace
}  // namespace zerocast
