#ifndef ZEROCAST_SERVER_CONVERSION_TENSOR_ALGEBRA_H_
#define ZEROCAST_SERVER_CONVERSION_TENSOR_ALGEBRA_H_

// torch's shape functions on Values.  Dimensions count from the end where negative, as in torch.
// Errors of all: INVALID_ARGUMENT where torch raises, with its message; UNIMPLEMENTED where the
// result needs more loops than a box holds or more than kMaxBoxesPerTarget boxes.

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "server/conversion/lower.h"

namespace zerocast {

// `dim` wrapped into [0, rank).
absl::StatusOr<int64_t> WrapDim(int64_t dim, int64_t rank);

absl::StatusOr<Value> Stack(absl::Span<const Value> values, int64_t dim);
absl::StatusOr<Value> Cat(absl::Span<const Value> values, int64_t dim);
// torch.split: `sizes` must sum to the extent of `dim`.
absl::StatusOr<std::vector<Value>> Split(const Value& value, absl::Span<const int64_t> sizes,
                                         int64_t dim);
// torch.chunk: pieces of ceil(n / count), the last one shorter, perhaps fewer than `count`.
absl::StatusOr<std::vector<Value>> Chunk(const Value& value, int64_t count, int64_t dim);
absl::StatusOr<Value> Transpose(const Value& value, int64_t a, int64_t b);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_CONVERSION_TENSOR_ALGEBRA_H_
