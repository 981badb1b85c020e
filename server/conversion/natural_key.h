#ifndef ZEROCAST_SERVER_CONVERSION_NATURAL_KEY_H_
#define ZEROCAST_SERVER_CONVERSION_NATURAL_KEY_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "server/conversion/rule.h"

namespace zerocast {

// The order in which the generic loader visits the checkpoint's keys: parts between dots, numbers
// by value and before texts; with natural_key_v2 also numbers at the end of a part by value
// ("shard_2" before "shard_11").  Stable: keys that compare equal ("01" and "1") keep their order.
//
// Returns indexes into `keys`.  Errors: INVALID_ARGUMENT without natural_key_v2 where two keys have
// a number and a text in the same place ("a.0", "a.w"): that release cannot compare them.
absl::StatusOr<std::vector<int32_t>> NaturalOrder(absl::Span<const absl::string_view> keys,
                                                  const Dialect& dialect);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_CONVERSION_NATURAL_KEY_H_
