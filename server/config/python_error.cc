#include "server/config/python_error.h"

#include "absl/strings/cord.h"

namespace zerocast {
namespace {

constexpr absl::string_view kTypeUrl = "zerocast.dev/config/python-error-type";

}  // namespace

absl::Status PythonError(absl::string_view type, absl::string_view message, absl::StatusCode code) {
  absl::Status status(code, message);
  status.SetPayload(kTypeUrl, absl::Cord(type));
  return status;
}

absl::Status WithViolations(absl::Status status, const std::vector<FieldViolation>& violations) {
  if (status.ok() || violations.empty() || status.GetPayload(kBadRequestUrl).has_value()) {
    return status;
  }
  status.SetPayload(kBadRequestUrl, *InvalidFields(violations).GetPayload(kBadRequestUrl));
  return status;
}

std::string PythonErrorType(const absl::Status& status) {
  const auto type = status.GetPayload(kTypeUrl);
  return type.has_value() ? std::string(*type) : "";
}

}  // namespace zerocast
