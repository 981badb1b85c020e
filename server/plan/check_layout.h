#ifndef ZEROCAST_SERVER_PLAN_CHECK_LAYOUT_H_
#define ZEROCAST_SERVER_PLAN_CHECK_LAYOUT_H_

#include "absl/status/status.h"
#include "server/plan/layout.h"

namespace zerocast {

// OK when `layout` keeps the promises of its comments.  Else INVALID_ARGUMENT, reason
// INVALID_FIELDS, with every violation at once, fields named "layout.world_size".
// `has_spec`: a model spec was given, without which DTypePolicy::kSpec means nothing.
absl::Status CheckLayout(const Layout& layout, bool has_spec);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_PLAN_CHECK_LAYOUT_H_
