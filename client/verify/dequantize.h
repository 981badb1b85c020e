#ifndef ZEROCAST_CLIENT_VERIFY_DEQUANTIZE_H_
#define ZEROCAST_CLIENT_VERIFY_DEQUANTIZE_H_

#include <vector>

#include "absl/status/statusor.h"
#include "client/verify/operations.h"
#include "client/verify/tensor.h"

namespace zerocast::verify {

// A weight of 8-bit floats, or of packed e2m1 numbers (int8), times the scale of each block; the
// grid of blocks is that of `scales` (Transformers 5.23.0, Fp8Dequantize).  Products are exact
// before they are rounded to float32; the result is float32.  Errors: INVALID_ARGUMENT where the
// library raises.
absl::StatusOr<Tensor> DequantizeBlocks(const Tensor& weight, const Tensor& scales);

// Groups of packed e2m1 numbers, each with the exponent of a power of two, the last two axes
// flattened and axes 1 and 2 swapped (Mxfp4Dequantize); float32.
absl::StatusOr<Tensor> DequantizeMxfp4(const Tensor& blocks, const Tensor& scales);

// The two operations: OpKind::kFp8Dequantize and kMxfp4Dequantize.
absl::StatusOr<std::vector<NamedTensors>> RunDequantize(const Op& op,
                                                        const std::vector<NamedTensors>& input,
                                                        const OperationContext& context);

}  // namespace zerocast::verify

#endif  // ZEROCAST_CLIENT_VERIFY_DEQUANTIZE_H_
