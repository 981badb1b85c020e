#ifndef ZEROCAST_SERVER_BASE_BYTE_SIZE_H_
#define ZEROCAST_SERVER_BASE_BYTE_SIZE_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/base/errors.h"

namespace zerocast {

// "64M", "1.5G", "4096" as bytes (powers of 1024).  Errors: INVALID_ARGUMENT.
absl::StatusOr<int64_t> ParseByteSize(absl::string_view text);

// The value of a flag; `otherwise` where it is empty, or wrong: then there is a violation more.
int64_t ByteSizeOfFlag(absl::string_view flag, absl::string_view text, int64_t otherwise,
                       std::vector<FieldViolation>* violations);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_BASE_BYTE_SIZE_H_
