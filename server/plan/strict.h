#ifndef ZEROCAST_SERVER_PLAN_STRICT_H_
#define ZEROCAST_SERVER_PLAN_STRICT_H_

#include "absl/status/status.h"
#include "server/plan/layout.h"
#include "server/plan/plan.h"

namespace zerocast {

// OK when the layout permits everything that `report` says is wrong: missing weights and failed
// conversions by allow_missing, mismatched ones by ignore_mismatched.  Unexpected weights are never
// an error.  Else FAILED_PRECONDITION, reason WEIGHTS_INCOMPLETE, naming the first few of each
// kind.
absl::Status CheckStrict(const Report& report, const Layout& layout);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_PLAN_STRICT_H_
