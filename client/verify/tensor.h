#ifndef ZEROCAST_CLIENT_VERIFY_TENSOR_H_
#define ZEROCAST_CLIENT_VERIFY_TENSOR_H_

// Whole tensors in memory, and torch's functions on them.  Every function makes a new, contiguous
// tensor whose elements it fetches one index after the other by the function's defining formula.
// Errors of all: INVALID_ARGUMENT where torch raises.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/copy/dtype.h"

namespace zerocast::verify {

using Shape = std::vector<int64_t>;

struct Tensor {
  DType dtype = DType::kInvalid;
  Shape shape;
  std::string bytes;  // row-major
};

// The product of `shape`; callers have checked that it fits.
int64_t NumElements(const Shape& shape);
// "[4, 3]"
std::string ShapeText(const Shape& shape);

// torch.stack and torch.cat; tensors of different floating dtypes are promoted first.
absl::StatusOr<Tensor> StackTensors(absl::Span<const Tensor> tensors, int64_t dim);
absl::StatusOr<Tensor> CatTensors(absl::Span<const Tensor> tensors, int64_t dim);
// Elements [begin, begin + size) along `dim`.
absl::StatusOr<Tensor> Narrow(const Tensor& tensor, int64_t dim, int64_t begin, int64_t size);
// torch.split by sizes and torch.chunk.
absl::StatusOr<std::vector<Tensor>> SplitTensor(const Tensor& tensor, const Shape& sizes,
                                                int64_t dim);
absl::StatusOr<std::vector<Tensor>> ChunkTensor(const Tensor& tensor, int64_t count, int64_t dim);
// torch.unbind: one piece for each index of `dim`, without that axis.
absl::StatusOr<std::vector<Tensor>> UnbindTensor(const Tensor& tensor, int64_t dim);
absl::StatusOr<Tensor> TransposeTensor(const Tensor& tensor, int64_t a, int64_t b);
// out[c*n/2 + i] = in[2i + c] along `dim`, or with `inverse` out[2i + c] = in[c*n/2 + i].
absl::StatusOr<Tensor> InterleaveTensor(const Tensor& tensor, int64_t dim, bool inverse);
// The same in each of `heads` equal parts of axis 0; only of vectors and matrices;
// tensors of more axes stay.
absl::StatusOr<Tensor> PermuteRopeTensor(const Tensor& tensor, int64_t heads, bool inverse);

}  // namespace zerocast::verify

#endif  // ZEROCAST_CLIENT_VERIFY_TENSOR_H_
