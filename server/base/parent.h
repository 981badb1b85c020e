#ifndef ZEROCAST_SERVER_BASE_PARENT_H_
#define ZEROCAST_SERVER_BASE_PARENT_H_

#include <sys/types.h>

#include "absl/status/status.h"

namespace zerocast {

// Has the kernel kill this process when the thread that started it ends; that of `parent`, the
// process it belongs to.  Call on the main thread.  FAILED_PRECONDITION where `parent` is not this
// process's parent, or no longer.
absl::Status EndWithParent(pid_t parent);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_BASE_PARENT_H_
