#ifndef ZEROCAST_SERVER_BASE_EXIT_CODE_H_
#define ZEROCAST_SERVER_BASE_EXIT_CODE_H_

#include "absl/status/status.h"

namespace zerocast {

// The exit code that every binary promises for `status`: 0 done, 1 internal error (a bug), 2 usage
// or invalid argument, 3 not found, 4 precondition, 5 unavailable or a deadline, 6 corrupt data,
// 7 permission.
int ExitCode(const absl::Status& status);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_BASE_EXIT_CODE_H_
