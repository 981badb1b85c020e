#ifndef ZEROCAST_SERVER_WIRE_KEY_MAPPING_H_
#define ZEROCAST_SERVER_WIRE_KEY_MAPPING_H_

#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/conversion/rule.h"

namespace zerocast {

// The renames of a key mapping, JSON text of one object {"pattern": "target", ...}, in the order of
// the text; empty text gives no rules.  `text` may be hostile.  Whether the patterns compile is
// found by Convert().  Errors: INVALID_ARGUMENT, reason INVALID_FIELDS: not an object, a value that
// is not a string, an empty or repeated pattern.
absl::StatusOr<std::vector<Rule>> ParseKeyMapping(absl::string_view text);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_WIRE_KEY_MAPPING_H_
