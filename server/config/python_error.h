#ifndef ZEROCAST_SERVER_CONFIG_PYTHON_ERROR_H_
#define ZEROCAST_SERVER_CONFIG_PYTHON_ERROR_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "server/base/errors.h"

namespace zerocast {

// The exception that the integration would raise, inside this room: a status whose message is
// exactly Python's text, with the exception's type.  Where it leaves the room, see
// Resolution::error.
absl::Status PythonError(absl::string_view type, absl::string_view message,
                         absl::StatusCode code = absl::StatusCode::kInvalidArgument);

// `violations` as the paths that the error is about; violations that are there already stay.
absl::Status WithViolations(absl::Status status, const std::vector<FieldViolation>& violations);

// "ValueError", "TypeError", ...; "" where the status is no PythonError.
std::string PythonErrorType(const absl::Status& status);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_CONFIG_PYTHON_ERROR_H_
