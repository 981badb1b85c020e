#include "server/wire/status.h"

#include <string>

#include "absl/strings/cord.h"
#include "server/base/errors.h"
#include "server/wire/status_bound.h"

namespace zerocast {
namespace {

#define ZC_SAME_CODE(grpc_code, absl_code)                       \
  static_assert(static_cast<int>(grpc::StatusCode::grpc_code) == \
                static_cast<int>(absl::StatusCode::absl_code))
ZC_SAME_CODE(OK, kOk);
ZC_SAME_CODE(CANCELLED, kCancelled);
ZC_SAME_CODE(UNKNOWN, kUnknown);
ZC_SAME_CODE(INVALID_ARGUMENT, kInvalidArgument);
ZC_SAME_CODE(DEADLINE_EXCEEDED, kDeadlineExceeded);
ZC_SAME_CODE(NOT_FOUND, kNotFound);
ZC_SAME_CODE(ALREADY_EXISTS, kAlreadyExists);
ZC_SAME_CODE(PERMISSION_DENIED, kPermissionDenied);
ZC_SAME_CODE(RESOURCE_EXHAUSTED, kResourceExhausted);
ZC_SAME_CODE(FAILED_PRECONDITION, kFailedPrecondition);
ZC_SAME_CODE(ABORTED, kAborted);
ZC_SAME_CODE(OUT_OF_RANGE, kOutOfRange);
ZC_SAME_CODE(UNIMPLEMENTED, kUnimplemented);
ZC_SAME_CODE(INTERNAL, kInternal);
ZC_SAME_CODE(UNAVAILABLE, kUnavailable);
ZC_SAME_CODE(DATA_LOSS, kDataLoss);
ZC_SAME_CODE(UNAUTHENTICATED, kUnauthenticated);
#undef ZC_SAME_CODE

absl::StatusCode CodeOf(int number) {
  return number >= 0 && number <= 16 ? static_cast<absl::StatusCode>(number)
                                     : absl::StatusCode::kUnknown;
}

}  // namespace

google::rpc::Status StatusToProto(const absl::Status& status) {
  google::rpc::Status rich;
  rich.set_code(static_cast<int>(status.code()));
  rich.set_message(std::string(status.message()));
  status.ForEachPayload([&rich](absl::string_view url, const absl::Cord& payload) {
    auto* any = rich.add_details();
    any->set_type_url(std::string(url));
    any->set_value(std::string(payload));
  });
  return rich;
}

absl::Status StatusFromProto(const google::rpc::Status& status) {
  absl::Status result(CodeOf(status.code()), status.message());
  for (const auto& any : status.details()) {
    result.SetPayload(any.type_url(), absl::Cord(any.value()));
  }
  return result;
}

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  google::rpc::Status rich = StatusToProto(status);
  BoundStatus(&rich);
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), rich.message(),
                      rich.SerializeAsString());
}

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  google::rpc::Status rich;
  if (!rich.ParseFromString(status.error_details())) rich.clear_details();
  rich.set_code(static_cast<int>(status.error_code()));
  rich.set_message(status.error_message());
  return StatusFromProto(rich);
}

v1::Failure FailureFromStatus(const absl::Status& status) {
  v1::Failure failure;
  if (status.ok()) return failure;
  failure.set_code(static_cast<int>(status.code()));
  failure.set_message(std::string(status.message()));
  failure.set_reason(ReasonOf(status));
  return failure;
}

absl::Status StatusFromFailure(const v1::Failure& failure) {
  if (failure.code() == 0) return absl::OkStatus();
  absl::Status status(CodeOf(failure.code()), failure.message());
  return failure.reason().empty() ? status : WithReason(std::move(status), failure.reason());
}

}  // namespace zerocast
