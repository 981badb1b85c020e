#include "server/base/errors.h"

#include <cerrno>

#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using ::testing::HasSubstr;

TEST(InvalidFields, NamesEveryViolationInMessageAndDetails) {
  const absl::Status status = InvalidFields(
      {{"world_size", "must be at least 1, was 0"}, {"config.fp16", "conflicts with bf16"}});
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument,
                               HasSubstr("world_size: must be at least 1, was 0; config.fp16")));
  const auto violations = ViolationsOf(status);
  ASSERT_EQ(violations.size(), 2);
  EXPECT_EQ(violations[1].field, "config.fp16");
  EXPECT_EQ(violations[1].description, "conflicts with bf16");
  EXPECT_EQ(ReasonOf(status), "INVALID_FIELDS");
}

TEST(InvalidFields, IsOkWithoutViolations) { EXPECT_THAT(InvalidFields({}), IsOk()); }

TEST(WithReason, KeepsTheFirstReason) {
  const absl::Status status =
      WithReason(WithReason(absl::AbortedError("x"), "STALE_EPOCH"), "INTERNAL");
  EXPECT_EQ(ReasonOf(status), "STALE_EPOCH");
}

TEST(Annotate, KeepsCodeAndPayloads) {
  const absl::Status status =
      Annotate(WithReason(absl::DataLossError("bad"), "CHECKPOINT_CORRUPT"), "read a.safetensors");
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kDataLoss, "read a.safetensors: bad"));
  EXPECT_EQ(ReasonOf(status), "CHECKPOINT_CORRUPT");
}

TEST(ErrnoStatus, MapsMissingFilesAndFullDisks) {
  EXPECT_THAT(ErrnoStatus(ENOENT, "open /x"),
              StatusIs(absl::StatusCode::kNotFound, "open /x: No such file or directory"));
  EXPECT_EQ(ErrnoStatus(ENOSPC, "write /x").code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ErrnoStatus(EFBIG, "write /x").code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ErrnoStatus(EIO, "read /x").code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace zerocast
