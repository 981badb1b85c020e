#ifndef ZEROCAST_SERVER_CONVERSION_PERMUTE_H_
#define ZEROCAST_SERVER_CONVERSION_PERMUTE_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "server/conversion/lower.h"
#include "server/conversion/rule.h"

namespace zerocast {

// out[c * n/2 + i] = in[2i + c] along `dim`; `inverse` the opposite.  Errors: INVALID_ARGUMENT
// where `dim` is not an axis or its size is odd.
absl::StatusOr<Value> Interleave(const Value& value, int64_t dim, bool inverse);

// Within each of `heads` equal parts of axis 0: the interleave.  Only vectors and matrices change.
// Errors: INVALID_ARGUMENT where axis 0 is not `heads` parts of even size, or there is none.
absl::StatusOr<Value> PermuteRope(const Value& value, int64_t heads, bool inverse);

// num_attention_heads of the config, or of its part that `op` names; 1 where a config does not say,
// as in the library.  Errors: INVALID_ARGUMENT without a config, or where the number is none.
absl::StatusOr<int64_t> AttentionHeads(const Op& op, const OpContext& context);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_CONVERSION_PERMUTE_H_
