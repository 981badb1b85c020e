#include "server/jobs/reason.h"

#include <utility>

#include "server/base/errors.h"

namespace zerocast::jobs {
namespace {

absl::string_view ReasonOfCode(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
      return "INVALID_FIELDS";
    case absl::StatusCode::kNotFound:
      return "NOT_FOUND";
    case absl::StatusCode::kAlreadyExists:
      return "ALREADY_EXISTS";
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnauthenticated:
      return "PERMISSION_DENIED";
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kAborted:
      return "WRONG_STATE";
    case absl::StatusCode::kResourceExhausted:
      return "RESOURCE_EXHAUSTED";
    case absl::StatusCode::kDeadlineExceeded:
      return "DEADLINE_EXCEEDED";
    case absl::StatusCode::kCancelled:
      return "CANCELLED";
    case absl::StatusCode::kUnimplemented:
      return "UNSUPPORTED";
    default:
      return "INTERNAL";
  }
}

}  // namespace

absl::Status WithSomeReason(absl::Status status) {
  const absl::string_view reason = ReasonOfCode(status.code());
  return WithReason(std::move(status), reason);
}

}  // namespace zerocast::jobs
