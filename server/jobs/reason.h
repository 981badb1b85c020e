#ifndef ZEROCAST_SERVER_JOBS_REASON_H_
#define ZEROCAST_SERVER_JOBS_REASON_H_

#include "absl/status/status.h"

namespace zerocast::jobs {

// `status` with a reason: its own where it has one, else the one that its code implies (NOT_FOUND
// for kNotFound, ...), else INTERNAL.  OK stays OK.
absl::Status WithSomeReason(absl::Status status);

}  // namespace zerocast::jobs

#endif  // ZEROCAST_SERVER_JOBS_REASON_H_
