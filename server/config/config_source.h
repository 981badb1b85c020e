#ifndef ZEROCAST_SERVER_CONFIG_CONFIG_SOURCE_H_
#define ZEROCAST_SERVER_CONFIG_CONFIG_SOURCE_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/config/json_reader.h"

namespace zerocast {

// A config given as a string, read as accelerate's HfDeepSpeedConfig does where the string is no
// file: JSON text, else url-safe base64 of JSON text.  The value need not be an object.
//
// Errors: a PythonError (ValueError, "Expected a string path to ...") where it is neither;
// INVALID_ARGUMENT of ours where it is beyond the limits.
absl::StatusOr<JsonDocument> ReadConfigText(absl::string_view text, const JsonLimits& limits = {});

// base64.urlsafe_b64decode: characters outside the alphabet are skipped, "-_" and "+/" both count,
// what follows the padding is ignored.  False where the padding is wrong or a byte is not ASCII.
bool DecodeUrlSafeBase64(absl::string_view text, std::string* out);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_CONFIG_CONFIG_SOURCE_H_
