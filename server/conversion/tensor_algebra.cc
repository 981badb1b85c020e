#include "server/conversion/tensor_algebra.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/status_macros.h"
#include "kernels/copy/algebra.h"

namespace zerocast {
namespace {

absl::Status Invalid(absl::string_view message) { return absl::InvalidArgumentError(message); }

// How a contiguous piece of an intermediate lies in the next tensor: `rows` runs of `run`
// elements, in steps of `source_step` and `target_step`.
struct Runs {
  int64_t rows;
  int64_t run;
  int64_t source_offset;
  int64_t source_step;
  int64_t target_offset;
  int64_t target_step;
};

// Appends to `out` what `value` copies once its elements are moved as `runs` says.
absl::Status Move(const Value& value, const Runs& runs, std::vector<Box>* out) {
  if (runs.rows == 0 || runs.run == 0) return absl::OkStatus();
  const bool whole = runs.source_offset == 0 && runs.rows * runs.run == Product(value.shape) &&
                     (runs.rows == 1 || runs.source_step == runs.run);
  if (whole && (runs.rows == 1 || runs.target_step == runs.run)) {
    for (Box box : value.boxes) {
      box.target_offset += runs.target_offset;
      out->push_back(box);
    }
  } else {
    const BoxDim dims[] = {{runs.rows, runs.source_step, runs.target_step}, {runs.run, 1, 1}};
    ZC_ASSIGN_OR_RETURN(const Box outer, MakeBox(0, runs.source_offset, runs.target_offset, dims));
    ZC_RETURN_IF_ERROR(Compose(value.boxes, {&outer, 1}, kMaxBoxesPerTarget, out));
  }
  if (static_cast<int64_t>(out->size()) > kMaxBoxesPerTarget) {
    return absl::UnimplementedError(absl::StrCat("needs more than ", kMaxBoxesPerTarget, " boxes"));
  }
  return absl::OkStatus();
}

// The product of the sizes before and behind `dim`.
int64_t Before(absl::Span<const int64_t> shape, int64_t dim) {
  return Product(shape.subspan(0, dim));
}
int64_t Behind(absl::Span<const int64_t> shape, int64_t dim) {
  return Product(shape.subspan(dim + 1));
}

}  // namespace

int64_t Product(absl::Span<const int64_t> shape) {
  int64_t product = 1;
  for (int64_t size : shape) product *= size;
  return product;
}

std::string ShapeText(absl::Span<const int64_t> shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

Value WholeValue(int32_t source, std::vector<int64_t> shape) {
  Value value;
  const int64_t numel = Product(shape);
  if (numel > 0) value.boxes.push_back(WholeBox(source, numel, 0));
  value.shape = std::move(shape);
  return value;
}

absl::StatusOr<Value> StoredValue(int32_t source, const SourceTensor& tensor) {
  if (tensor.strides.empty()) return WholeValue(source, tensor.shape);
  int64_t reach = 0;
  if (!CheckedReach(tensor.shape, tensor.strides, &reach)) {
    return Invalid(absl::StrCat("strides ", ShapeText(tensor.strides), " of shape ",
                                ShapeText(tensor.shape), " are none, or read an element twice"));
  }
  std::vector<BoxDim> dims(tensor.shape.size());
  int64_t packed = 1;
  for (size_t k = dims.size(); k > 0; --k) {
    dims[k - 1] = {tensor.shape[k - 1], tensor.strides[k - 1], packed};
    packed *= tensor.shape[k - 1];
  }
  Value value;
  value.shape = tensor.shape;
  ZC_ASSIGN_OR_RETURN(const Box box, MakeBox(source, 0, 0, dims));
  value.boxes.push_back(box);
  return value;
}

absl::StatusOr<int64_t> WrapDim(int64_t dim, int64_t rank) {
  const int64_t range = std::max<int64_t>(rank, 1);  // torch allows 0 and -1 on a scalar
  if (dim < -range || dim >= range) {
    return Invalid(absl::StrCat("Dimension out of range (expected to be in range of [", -range,
                                ", ", range - 1, "], but got ", dim, ")"));
  }
  return dim < 0 ? dim + range : dim;
}

absl::StatusOr<Value> Stack(absl::Span<const Value> values, int64_t dim) {
  if (values.empty()) return Invalid("stack expects a non-empty TensorList");
  const std::vector<int64_t>& shape = values[0].shape;
  ZC_ASSIGN_OR_RETURN(dim, WrapDim(dim, static_cast<int64_t>(shape.size()) + 1));
  const auto count = static_cast<int64_t>(values.size());
  const int64_t before = Product(absl::MakeSpan(shape).subspan(0, dim));
  const int64_t run = Product(absl::MakeSpan(shape).subspan(dim));
  Value result;
  result.shape = shape;
  result.shape.insert(result.shape.begin() + dim, count);
  for (int64_t i = 0; i < count; ++i) {
    if (values[i].shape != shape) {
      return Invalid(absl::StrCat("stack expects each tensor to be equal size, but got ",
                                  ShapeText(shape), " at entry 0 and ", ShapeText(values[i].shape),
                                  " at entry ", i));
    }
    ZC_RETURN_IF_ERROR(Move(values[i], {before, run, 0, run, i * run, count * run}, &result.boxes));
  }
  return result;
}

absl::StatusOr<Value> Cat(absl::Span<const Value> values, int64_t dim) {
  if (values.empty()) return Invalid("torch.cat(): expected a non-empty list of Tensors");
  // As torch, leave empty vectors out where another tensor has more dimensions.
  const auto skipped = [](const Value& value) {
    return value.shape.size() == 1 && value.shape[0] == 0;
  };
  const Value* first = &values[0];
  for (const Value& value : values) {
    if (value.shape.empty()) {
      return Invalid(absl::StrCat("zero-dimensional tensor (at position ", &value - values.data(),
                                  ") cannot be concatenated"));
    }
    if (skipped(*first)) first = &value;
  }
  const std::vector<int64_t>& shape = first->shape;
  ZC_ASSIGN_OR_RETURN(dim, WrapDim(dim, static_cast<int64_t>(shape.size())));
  Value result;
  result.shape = shape;
  result.shape[dim] = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    const std::vector<int64_t>& other = values[i].shape;
    if (skipped(values[i])) continue;
    if (other.size() != shape.size()) {
      return Invalid(absl::StrCat("Tensors must have same number of dimensions: got ", shape.size(),
                                  " and ", other.size()));
    }
    for (size_t d = 0; d < shape.size(); ++d) {
      if (static_cast<int64_t>(d) == dim || other[d] == shape[d]) continue;
      return Invalid(absl::StrCat("Sizes of tensors must match except in dimension ", dim,
                                  ". Expected size ", shape[d], " but got size ", other[d],
                                  " for tensor number ", i, " in the list."));
    }
    result.shape[dim] += other[dim];
  }
  const int64_t before = Before(shape, dim), behind = Behind(shape, dim);
  const int64_t step = result.shape[dim] * behind;
  int64_t offset = 0;
  for (const Value& value : values) {
    if (skipped(value)) continue;
    const int64_t run = value.shape[dim] * behind;
    ZC_RETURN_IF_ERROR(Move(value, {before, run, 0, run, offset, step}, &result.boxes));
    offset += run;
  }
  return result;
}

absl::StatusOr<std::vector<Value>> Split(const Value& value, absl::Span<const int64_t> sizes,
                                         int64_t dim) {
  if (value.shape.empty()) return Invalid("split expects at least a 1-dimensional tensor");
  ZC_ASSIGN_OR_RETURN(dim, WrapDim(dim, static_cast<int64_t>(value.shape.size())));
  int64_t sum = 0;
  bool fits = true;
  for (int64_t size : sizes) {
    fits = fits && size >= 0 && !__builtin_add_overflow(sum, size, &sum);
  }
  if (!fits || sum != value.shape[dim]) {
    return Invalid(absl::StrCat("split_with_sizes expects split_sizes to sum exactly to ",
                                value.shape[dim], " (input tensor's size at dimension ", dim,
                                "), but got split_sizes=", ShapeText(sizes)));
  }
  const int64_t before = Before(value.shape, dim), behind = Behind(value.shape, dim);
  const int64_t step = value.shape[dim] * behind;
  std::vector<Value> pieces;
  int64_t offset = 0;
  for (int64_t size : sizes) {
    Value piece;
    piece.shape = value.shape;
    piece.shape[dim] = size;
    const int64_t run = size * behind;
    ZC_RETURN_IF_ERROR(Move(value, {before, run, offset, step, 0, run}, &piece.boxes));
    offset += run;
    pieces.push_back(std::move(piece));
  }
  return pieces;
}

absl::StatusOr<std::vector<Value>> Chunk(const Value& value, int64_t count, int64_t dim) {
  if (value.shape.empty()) return Invalid("chunk expects at least a 1-dimensional tensor");
  if (count < 1)
    return Invalid(absl::StrCat("chunk expects `chunks` to be greater than 0, got: ", count));
  ZC_ASSIGN_OR_RETURN(dim, WrapDim(dim, static_cast<int64_t>(value.shape.size())));
  const int64_t size = value.shape[dim];
  const int64_t piece = (size + count - 1) / count;
  std::vector<int64_t> sizes;
  if (piece == 0) {
    sizes.assign(count, 0);
  } else {
    for (int64_t begin = 0; begin < size; begin += piece) {
      sizes.push_back(std::min(piece, size - begin));
    }
  }
  return Split(value, sizes, dim);
}

absl::StatusOr<Value> Transpose(const Value& value, int64_t a, int64_t b) {
  const auto rank = static_cast<int64_t>(value.shape.size());
  ZC_ASSIGN_OR_RETURN(a, WrapDim(a, rank));
  ZC_ASSIGN_OR_RETURN(b, WrapDim(b, rank));
  if (a == b || rank == 0) return value;
  if (a > b) std::swap(a, b);
  Value result;
  result.shape = value.shape;
  std::swap(result.shape[a], result.shape[b]);
  if (Product(value.shape) == 0) return result;
  // before, a, middle, b, behind; only a and b change places.
  const absl::Span<const int64_t> shape = value.shape;
  const int64_t before = Before(shape, a), behind = Behind(shape, b);
  const int64_t middle = Product(shape.subspan(a + 1, b - a - 1));
  const int64_t numel = Product(shape);
  const int64_t size_a = shape[a], size_b = shape[b];
  const BoxDim dims[] = {
      {before, numel / before, numel / before},
      {size_b, behind, middle * size_a * behind},
      {middle, size_b * behind, size_a * behind},
      {size_a, middle * size_b * behind, behind},
      {behind, 1, 1},
  };
  ZC_ASSIGN_OR_RETURN(const Box outer, MakeBox(0, 0, 0, dims));
  ZC_RETURN_IF_ERROR(Compose(value.boxes, {&outer, 1}, kMaxBoxesPerTarget, &result.boxes));
  return result;
}

}  // namespace zerocast
