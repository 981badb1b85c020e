#include "server/wire/status.h"

#include <string>
#include <vector>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "server/base/errors.h"
#include "server/wire/status_bound.h"
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

// What a status takes of the trailers, and that what left is what FromGrpc takes.
int64_t BytesOnTheWire(const grpc::Status& status) {
  google::rpc::Status rich;
  EXPECT_TRUE(rich.ParseFromString(status.error_details()));
  EXPECT_EQ(rich.message(), status.error_message());
  return StatusBytesOnTheWire(rich);
}

std::vector<FieldViolation> ManyViolations(int count) {
  std::vector<FieldViolation> violations;
  for (int i = 0; i < count; ++i) {
    violations.push_back({"config.zero_optimization.key_" + std::to_string(i),
                          "is 500000000, the training arguments say 16777216 (hidden_size^2)"});
  }
  return violations;
}

TEST(ToGrpc, ManyViolationsAreCutToWhatTrailersMayHold) {
  const absl::Status status = InvalidFields(ManyViolations(60));
  const grpc::Status sent = ToGrpc(status);
  EXPECT_LE(BytesOnTheWire(sent), kMaxStatusBytes);
  EXPECT_GT(BytesOnTheWire(sent), kMaxStatusBytes * 9 / 10) << "more of them would have fitted";
  const absl::Status back = FromGrpc(sent);
  EXPECT_EQ(back.code(), status.code());
  EXPECT_EQ(ReasonOf(back), "INVALID_FIELDS");
  EXPECT_THAT(std::string(back.message()),
              ::testing::ContainsRegex("\\.\\.\\. \\(cut: [0-9]+ more bytes\\)$"));
  const auto violations = ViolationsOf(back);
  ASSERT_GT(violations.size(), 10);
  EXPECT_EQ(violations[9].field, "config.zero_optimization.key_9");
  EXPECT_EQ(violations.back().field, "...");
  EXPECT_EQ(violations.back().description,
            "(cut: " + std::to_string(60 - (violations.size() - 1)) + " more violations)");
}

TEST(ToGrpc, WhatFitsIsNotCut) {
  const absl::Status status = InvalidFields(ManyViolations(15));
  EXPECT_EQ(FromGrpc(ToGrpc(status)), status);
}

TEST(ToGrpc, ALongMessageIsCutAtACharactersBorder) {
  // Characters of one to four bytes, so that a cut anywhere meets each of them.
  std::string text;
  while (text.size() < 20000) text += "a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80%";
  for (int shift = 0; shift < 11; ++shift) {
    const grpc::Status sent = ToGrpc(absl::InternalError(std::string(shift, 'x') + text));
    EXPECT_LE(BytesOnTheWire(sent), kMaxStatusBytes);
    const std::string message = sent.error_message();
    const std::string kept = message.substr(0, message.find("... (cut: "));
    EXPECT_EQ(message, kept + "... (cut: " + std::to_string(shift + text.size() - kept.size()) +
                           " more bytes)");
    // Whole characters: what follows the last one begins another.
    EXPECT_NE((text[kept.size() - shift] & 0xc0), 0x80);
  }
}

TEST(ToGrpc, OneHugeViolationStaysCut) {
  const grpc::Status sent =
      ToGrpc(InvalidFields({{std::string(9000, 'f'), std::string(9000, 'd')}}));
  EXPECT_LE(BytesOnTheWire(sent), kMaxStatusBytes);
  const auto violations = ViolationsOf(FromGrpc(sent));
  ASSERT_EQ(violations.size(), 1);
  EXPECT_THAT(violations[0].description, ::testing::HasSubstr("... (cut: "));
}

TEST(ToGrpc, ALargeDetailOfAnotherKindIsLeftOut) {
  absl::Status status = WithReason(absl::InternalError("short"), "INTERNAL");
  status.SetPayload("type.googleapis.com/x.Y", absl::Cord(std::string(10000, 'y')));
  const absl::Status back = FromGrpc(ToGrpc(status));
  EXPECT_EQ(back, WithReason(absl::InternalError("short"), "INTERNAL"));
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
