#include "server/wire/status.h"

#include <string>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "server/base/errors.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

TEST(HandEncodedErrorInfo, EqualsTheGeneratedClass) {
  google::rpc::ErrorInfo info;
  info.set_reason("STALE_EPOCH");
  info.set_domain("zerocast.dev");
  const absl::Status status = WithReason(absl::AbortedError("x"), "STALE_EPOCH");
  EXPECT_EQ(std::string(status.GetPayload(kErrorInfoUrl).value()), info.SerializeAsString());
}

TEST(HandEncodedBadRequest, EqualsTheGeneratedClass) {
  google::rpc::BadRequest request;
  // Longer than 127 bytes, so that lengths take two bytes.
  const std::string long_text(300, 'x');
  auto* first = request.add_field_violations();
  first->set_field("a.b");
  first->set_description(long_text);
  auto* second = request.add_field_violations();
  second->set_field("c");
  second->set_description("must not be empty");
  const absl::Status status = InvalidFields({{"a.b", long_text}, {"c", "must not be empty"}});
  EXPECT_EQ(std::string(status.GetPayload(kBadRequestUrl).value()), request.SerializeAsString());
}

TEST(HandEncodedBadRequest, IsReadFromTheGeneratedClass) {
  google::rpc::BadRequest request;
  auto* violation = request.add_field_violations();
  violation->set_field("world_size");
  violation->set_description("must be at least 1");
  absl::Status status = absl::InvalidArgumentError("x");
  status.SetPayload(kBadRequestUrl, absl::Cord(request.SerializeAsString()));
  const auto violations = ViolationsOf(status);
  ASSERT_EQ(violations.size(), 1);
  EXPECT_EQ(violations[0].field, "world_size");
  EXPECT_EQ(violations[0].description, "must be at least 1");
}

TEST(ToGrpc, KeepsCodeMessageAndEveryPayloadBothWays) {
  absl::Status status = InvalidFields({{"a", "b"}});
  status.SetPayload("type.googleapis.com/google.rpc.RetryInfo", absl::Cord("\x0a\x02\x08\x01"));
  const absl::Status back = FromGrpc(ToGrpc(status));
  EXPECT_EQ(back, status);
  EXPECT_EQ(ReasonOf(back), "INVALID_FIELDS");
  EXPECT_EQ(ViolationsOf(back).size(), 1);
}

TEST(ToGrpc, OkIsOk) {
  EXPECT_TRUE(ToGrpc(absl::OkStatus()).ok());
  EXPECT_THAT(FromGrpc(grpc::Status::OK), IsOk());
}

TEST(FromGrpc, DropsDetailsThatDoNotParse) {
  const grpc::Status status(grpc::StatusCode::NOT_FOUND, "no job", "\xff\xff\xff");
  EXPECT_EQ(FromGrpc(status), absl::NotFoundError("no job"));
}

TEST(Failure, KeepsCodeMessageAndReason) {
  const absl::Status status = WithReason(absl::UnavailableError("node b is gone"), "AGENT_LOST");
  const v1::Failure failure = FailureFromStatus(status);
  EXPECT_EQ(failure.code(), 14);
  EXPECT_EQ(failure.reason(), "AGENT_LOST");
  EXPECT_EQ(StatusFromFailure(failure), status);
}

TEST(Failure, OfOkIsEmptyAndBack) {
  EXPECT_EQ(FailureFromStatus(absl::OkStatus()).ByteSizeLong(), 0);
  EXPECT_THAT(StatusFromFailure(v1::Failure()), IsOk());
}

TEST(Failure, UnknownCodeIsUnknown) {
  v1::Failure failure;
  failure.set_code(99);
  EXPECT_EQ(StatusFromFailure(failure).code(), absl::StatusCode::kUnknown);
}

}  // namespace
}  // namespace zerocast
