#include "client/verify/tensor.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/verify/cast.h"
#include "kernels/base/status_macros.h"

namespace zerocast::verify {
namespace {

absl::StatusOr<int64_t> Axis(int64_t dim, int64_t rank) {
  if (dim < -rank || dim >= rank) {
    return absl::InvalidArgumentError(
        absl::StrCat("axis ", dim, " is out of range for ", rank, " axes"));
  }
  return dim < 0 ? dim + rank : dim;
}

// The row-major place of an index that may be shorter than the shape: the missing ones are 0.
int64_t Place(const Shape& shape, const Shape& index) {
  int64_t place = 0;
  for (size_t d = 0; d < shape.size(); ++d) {
    place = place * shape[d] + (d < index.size() ? index[d] : 0);
  }
  return place;
}

// Fills a tensor of `dtype` and `shape`.  `fetch(index)` tells where the element with that index
// comes from, as the index changes over the first `num_axes` axes; along the others, which the
// caller's formula leaves alone, elements follow each other in both tensors.
struct Origin {
  const Tensor* tensor;
  int64_t place;
};
template <typename Fetch>
Tensor Fill(DType dtype, Shape shape, size_t num_axes, const Fetch& fetch) {
  Tensor result{dtype, std::move(shape), {}};
  const int64_t size = SizeOf(dtype);
  result.bytes.resize(NumElements(result.shape) * size);
  if (result.bytes.empty()) return result;
  int64_t run = 1;
  for (size_t d = num_axes; d < result.shape.size(); ++d) run *= result.shape[d];
  Shape index(num_axes, 0);
  char* to = result.bytes.data();
  char* const end = to + result.bytes.size();
  for (; to < end; to += run * size) {
    const Origin from = fetch(index);
    std::memcpy(to, from.tensor->bytes.data() + from.place * size, run * size);
    for (size_t d = num_axes; d-- > 0;) {
      if (++index[d] < result.shape[d]) break;
      index[d] = 0;
    }
  }
  return result;
}

absl::StatusOr<DType> CommonDType(absl::Span<const Tensor> tensors) {
  DType dtype = tensors[0].dtype;
  for (const Tensor& tensor : tensors) {
    dtype = PromotedDType(dtype, tensor.dtype);
    if (dtype == DType::kInvalid) {
      return absl::InvalidArgumentError("the tensors have dtypes that do not promote to one");
    }
  }
  return dtype;
}

// Runs `join` on the tensors in their common dtype.
template <typename Join>
absl::StatusOr<Tensor> InCommonDType(absl::Span<const Tensor> tensors, const Join& join) {
  ZC_ASSIGN_OR_RETURN(const DType dtype, CommonDType(tensors));
  const auto same = [dtype](const Tensor& tensor) { return tensor.dtype == dtype; };
  if (std::all_of(tensors.begin(), tensors.end(), same)) return join(tensors);
  std::vector<Tensor> promoted(tensors.begin(), tensors.end());
  for (Tensor& tensor : promoted) {
    ZC_ASSIGN_OR_RETURN(tensor.bytes, CastBytes(std::move(tensor.bytes), tensor.dtype, dtype));
    tensor.dtype = dtype;
  }
  return join(absl::Span<const Tensor>(promoted));
}

// Position `at` of n/2 pairs, de-interleaved (where it was before) or, inverse, interleaved.
int64_t Paired(int64_t at, int64_t n, bool inverse) {
  if (inverse) return at % 2 * (n / 2) + at / 2;
  return 2 * (at % (n / 2)) + at / (n / 2);
}

}  // namespace

int64_t NumElements(const Shape& shape) {
  int64_t count = 1;
  for (int64_t size : shape) count *= size;
  return count;
}

std::string ShapeText(const Shape& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

absl::StatusOr<Tensor> StackTensors(absl::Span<const Tensor> tensors, int64_t dim) {
  if (tensors.empty()) return absl::InvalidArgumentError("stack expects a non-empty list");
  for (const Tensor& tensor : tensors) {
    if (tensor.shape != tensors[0].shape) {
      return absl::InvalidArgumentError(absl::StrCat("stack of tensors of shapes ",
                                                     ShapeText(tensors[0].shape), " and ",
                                                     ShapeText(tensor.shape)));
    }
  }
  Shape shape = tensors[0].shape;
  ZC_ASSIGN_OR_RETURN(const int64_t axis, Axis(dim, static_cast<int64_t>(shape.size()) + 1));
  shape.insert(shape.begin() + axis, static_cast<int64_t>(tensors.size()));
  return InCommonDType(tensors, [&](absl::Span<const Tensor> list) -> absl::StatusOr<Tensor> {
    return Fill(list[0].dtype, shape, axis + 1, [&](const Shape& index) {
      const Tensor& from = list[index[axis]];
      const Shape rest(index.begin(), index.begin() + axis);
      return Origin{&from, Place(from.shape, rest)};
    });
  });
}

absl::StatusOr<Tensor> CatTensors(absl::Span<const Tensor> tensors, int64_t dim) {
  if (tensors.empty()) return absl::InvalidArgumentError("cat expects a non-empty list");
  Shape shape = tensors[0].shape;
  ZC_ASSIGN_OR_RETURN(const int64_t axis, Axis(dim, static_cast<int64_t>(shape.size())));
  shape[axis] = 0;
  for (const Tensor& tensor : tensors) {
    Shape other = tensor.shape;
    if (other.size() == shape.size()) other[axis] = shape[axis];
    if (other != shape) {
      return absl::InvalidArgumentError(
          absl::StrCat("cat along axis ", axis, " of tensors of shapes ",
                       ShapeText(tensors[0].shape), " and ", ShapeText(tensor.shape)));
    }
    shape[axis] += tensor.shape[axis];
  }
  return InCommonDType(tensors, [&](absl::Span<const Tensor> list) -> absl::StatusOr<Tensor> {
    return Fill(list[0].dtype, shape, axis + 1, [&](const Shape& index) {
      Shape inner = index;
      const Tensor* from = list.data();
      while (inner[axis] >= from->shape[axis]) inner[axis] -= (from++)->shape[axis];
      return Origin{from, Place(from->shape, inner)};
    });
  });
}

absl::StatusOr<Tensor> Narrow(const Tensor& tensor, int64_t dim, int64_t begin, int64_t size) {
  ZC_ASSIGN_OR_RETURN(const int64_t axis, Axis(dim, static_cast<int64_t>(tensor.shape.size())));
  if (begin < 0 || size < 0 || begin + size > tensor.shape[axis]) {
    return absl::InvalidArgumentError(absl::StrCat("elements ", begin, " to ", begin + size,
                                                   " of axis ", axis, " of shape ",
                                                   ShapeText(tensor.shape)));
  }
  Shape shape = tensor.shape;
  shape[axis] = size;
  return Fill(tensor.dtype, std::move(shape), axis + 1, [&](const Shape& index) {
    Shape from = index;
    from[axis] += begin;
    return Origin{&tensor, Place(tensor.shape, from)};
  });
}

absl::StatusOr<std::vector<Tensor>> SplitTensor(const Tensor& tensor, const Shape& sizes,
                                                int64_t dim) {
  ZC_ASSIGN_OR_RETURN(const int64_t axis, Axis(dim, static_cast<int64_t>(tensor.shape.size())));
  int64_t begin = 0;
  std::vector<Tensor> pieces;
  for (int64_t size : sizes) {
    ZC_ASSIGN_OR_RETURN(Tensor piece, Narrow(tensor, axis, begin, size));
    pieces.push_back(std::move(piece));
    begin += size;
  }
  if (begin != tensor.shape[axis]) {
    return absl::InvalidArgumentError(absl::StrCat("sizes ", ShapeText(sizes),
                                                   " do not sum to axis ", axis, " of shape ",
                                                   ShapeText(tensor.shape)));
  }
  return pieces;
}

absl::StatusOr<std::vector<Tensor>> ChunkTensor(const Tensor& tensor, int64_t count, int64_t dim) {
  ZC_ASSIGN_OR_RETURN(const int64_t axis, Axis(dim, static_cast<int64_t>(tensor.shape.size())));
  if (count < 1) return absl::InvalidArgumentError("chunk into fewer than one piece");
  const int64_t total = tensor.shape[axis];
  const int64_t size = (total + count - 1) / count;
  Shape sizes;
  if (total == 0) sizes.assign(count, 0);
  for (int64_t left = total; left > 0; left -= sizes.back()) {
    sizes.push_back(std::min(size, left));
  }
  return SplitTensor(tensor, sizes, axis);
}

absl::StatusOr<std::vector<Tensor>> UnbindTensor(const Tensor& tensor, int64_t dim) {
  ZC_ASSIGN_OR_RETURN(const int64_t axis, Axis(dim, static_cast<int64_t>(tensor.shape.size())));
  std::vector<Tensor> pieces;
  for (int64_t i = 0; i < tensor.shape[axis]; ++i) {
    ZC_ASSIGN_OR_RETURN(Tensor piece, Narrow(tensor, axis, i, 1));
    piece.shape.erase(piece.shape.begin() + axis);
    pieces.push_back(std::move(piece));
  }
  return pieces;
}

absl::StatusOr<Tensor> TransposeTensor(const Tensor& tensor, int64_t a, int64_t b) {
  const auto rank = static_cast<int64_t>(tensor.shape.size());
  ZC_ASSIGN_OR_RETURN(const int64_t first, Axis(a, rank));
  ZC_ASSIGN_OR_RETURN(const int64_t second, Axis(b, rank));
  Shape shape = tensor.shape;
  std::swap(shape[first], shape[second]);
  Shape from;
  return Fill(tensor.dtype, std::move(shape), std::max(first, second) + 1, [&](const Shape& index) {
    from = index;
    std::swap(from[first], from[second]);
    return Origin{&tensor, Place(tensor.shape, from)};
  });
}

absl::StatusOr<Tensor> InterleaveTensor(const Tensor& tensor, int64_t dim, bool inverse) {
  if (dim < 0 || dim >= static_cast<int64_t>(tensor.shape.size()) || tensor.shape[dim] % 2 != 0) {
    return absl::InvalidArgumentError(absl::StrCat("interleave needs an even size along axis ", dim,
                                                   " of shape ", ShapeText(tensor.shape)));
  }
  Shape from;
  return Fill(tensor.dtype, tensor.shape, dim + 1, [&](const Shape& index) {
    from = index;
    from[dim] = Paired(index[dim], tensor.shape[dim], inverse);
    return Origin{&tensor, Place(tensor.shape, from)};
  });
}

absl::StatusOr<Tensor> PermuteRopeTensor(const Tensor& tensor, int64_t heads, bool inverse) {
  if (tensor.shape.empty()) return absl::InvalidArgumentError("a scalar has no axis to permute");
  if (tensor.shape.size() > 2) return tensor;
  const int64_t rows = tensor.shape[0];
  if (heads < 1 || rows % (2 * heads) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(rows, " rows are not pairs of ", heads, " heads"));
  }
  const int64_t size = rows / heads;
  Shape from;
  return Fill(tensor.dtype, tensor.shape, 1, [&](const Shape& index) {
    from = {index[0] / size * size + Paired(index[0] % size, size, inverse)};
    return Origin{&tensor, Place(tensor.shape, from)};
  });
}

}  // namespace zerocast::verify
