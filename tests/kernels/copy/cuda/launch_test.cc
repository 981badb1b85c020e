// What LaunchCopyBoxes refuses before it asks a device for anything.

#include "kernels/copy/cuda/launch.h"

#include <cstdint>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using ::testing::HasSubstr;

const CopyPiece kPieces[1] = {};
const int64_t kFirsts[2] = {0, 4};
// Never followed.
const auto kStream = reinterpret_cast<cudaStream_t>(uintptr_t{64});

TEST(LaunchCopyBoxes, RefusesSizesThatDoNotFit) {
  EXPECT_THAT(LaunchCopyBoxes(kPieces, absl::MakeConstSpan(kFirsts, 1), 4, DType::kInt8,
                              DType::kInt8, kStream),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("needs 2 first elements")));
  EXPECT_THAT(LaunchCopyBoxes(kPieces, kFirsts, 0, DType::kInt8, DType::kInt8, kStream),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("at least one element")));
  EXPECT_THAT(
      LaunchCopyBoxes({}, absl::MakeConstSpan(kFirsts, 1), 4, DType::kInt8, DType::kInt8, kStream),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("at least one element")));
}

TEST(LaunchCopyBoxes, RefusesACastThatDoesNotExist) {
  EXPECT_THAT(LaunchCopyBoxes(kPieces, kFirsts, 4, DType::kFloat16, DType::kInt8, kStream),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("from float16 to int8")));
}

TEST(LaunchCopyBoxes, RefusesTheDefaultStream) {
  EXPECT_THAT(LaunchCopyBoxes(kPieces, kFirsts, 4, DType::kInt8, DType::kInt8, nullptr),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("stream is null")));
}

TEST(LaunchCopyBoxes, OfNothingLaunchesNothing) {
  EXPECT_THAT(
      LaunchCopyBoxes({}, absl::MakeConstSpan(kFirsts, 1), 0, DType::kInt8, DType::kInt8, kStream),
      IsOk());
}

}  // namespace
}  // namespace zerocast
