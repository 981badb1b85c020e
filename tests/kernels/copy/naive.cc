#include "tests/kernels/copy/naive.h"

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <numeric>
#include <ostream>

#include "gtest/gtest.h"
#include "kernels/copy/algebra.h"

namespace zerocast::copy_testing {
namespace {

constexpr int64_t kMaxBoxes = 4096;

std::vector<int64_t> RowMajor(const std::vector<int64_t>& shape) {
  std::vector<int64_t> strides(shape.size(), 1);
  for (size_t k = shape.size(); k-- > 1;) strides[k - 1] = strides[k] * shape[k];
  return strides;
}

int64_t Product(const std::vector<int64_t>& shape) {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<int64_t>());
}

Box BoxOrDie(int64_t source_offset, int64_t target_offset, const std::vector<BoxDim>& dims) {
  absl::StatusOr<Box> box = MakeBox(0, source_offset, target_offset, dims);
  EXPECT_TRUE(box.ok()) << box.status();
  return box.ok() ? *box : Box{};
}

// Runs `outer` on `from` and adds what it copies to `to`, by boxes and by elements.
void Append(const Tensor& from, const Box& outer, Tensor* to) {
  const absl::Status status = Compose(from.boxes, {&outer, 1}, kMaxBoxes, &to->boxes);
  EXPECT_TRUE(status.ok() || absl::IsUnimplemented(status)) << status;
  to->status.Update(from.status);
  to->status.Update(status);
  for (const Element& element : Elements({&outer, 1})) {
    to->elements[element.target] = from.elements[element.place];
  }
}

}  // namespace

uint64_t Seed() {
  static const uint64_t seed = [] {
    const char* text = std::getenv("ZC_SEED");
    const uint64_t value =
        text != nullptr ? std::strtoull(text, nullptr, 10) : std::random_device()();
    std::cout << "ZC_SEED=" << value << std::endl;
    return value;
  }();
  return seed;
}

void PrintTo(const Element& element, std::ostream* out) {
  *out << "target " << element.target << " = source " << element.source << "[" << element.place
       << "]";
}

std::vector<Element> Elements(absl::Span<const Box> boxes) {
  std::vector<Element> elements;
  for (const Box& box : boxes) {
    std::vector<Element> some = {{box.target_offset, box.source, box.source_offset}};
    for (int k = 0; k < box.num_dims; ++k) {
      std::vector<Element> more;
      for (const Element& element : some) {
        for (int64_t i = 0; i < box.dims[k].extent; ++i) {
          more.push_back({element.target + i * box.dims[k].target_stride, element.source,
                          element.place + i * box.dims[k].source_stride});
        }
      }
      some = std::move(more);
    }
    elements.insert(elements.end(), some.begin(), some.end());
  }
  std::sort(elements.begin(), elements.end());
  return elements;
}

bool IsCanonical(const Box& box) {
  if (box.num_dims < 0 || box.num_dims > kMaxBoxDims) return false;
  std::vector<BoxDim> by_source(box.dims, box.dims + box.num_dims);
  std::sort(by_source.begin(), by_source.end(),
            [](const BoxDim& a, const BoxDim& b) { return a.source_stride > b.source_stride; });
  for (int k = 0; k < box.num_dims; ++k) {
    const BoxDim& dim = box.dims[k];
    if (dim.extent < 2 || dim.source_stride < 1 || dim.target_stride < 1) return false;
    if (k + 1 == box.num_dims) continue;
    const BoxDim& inner = box.dims[k + 1];
    if (dim.target_stride < inner.extent * inner.target_stride) return false;
    if (dim.target_stride == inner.extent * inner.target_stride &&
        dim.source_stride == inner.extent * inner.source_stride) {
      return false;
    }
    if (by_source[k].source_stride < by_source[k + 1].extent * by_source[k + 1].source_stride) {
      return false;
    }
  }
  return true;
}

Box RandomBox(Random* random, int max_dims, int64_t max_extent) {
  const int num_dims = static_cast<int>(random->Between(0, max_dims));
  std::vector<BoxDim> dims(num_dims);
  for (BoxDim& dim : dims) dim.extent = random->Between(1, max_extent);
  const auto stride_side = [&](int64_t BoxDim::*stride) {
    random->Shuffle(&dims);
    int64_t next = random->Between(0, 2) == 0 ? random->Between(1, 3) : 1;
    for (BoxDim& dim : dims) {
      dim.*stride = next;
      next *= dim.extent;
      switch (random->Between(0, 5)) {
        case 0:
          next += random->Between(1, 5);
          break;
        case 1:
          next *= 2;
          break;
        default:
          break;
      }
    }
  };
  stride_side(&BoxDim::source_stride);
  stride_side(&BoxDim::target_stride);
  Box box = BoxOrDie(random->Between(0, 9), random->Between(0, 9), dims);
  box.source = static_cast<int32_t>(random->Between(0, 3));
  return box;
}

Tensor SourceTensor(int32_t source, std::vector<int64_t> shape) {
  Tensor tensor;
  const int64_t count = Product(shape);
  tensor.boxes = {WholeBox(source, count, 0)};
  for (int64_t i = 0; i < count; ++i) tensor.elements.emplace_back(source, i);
  tensor.shape = std::move(shape);
  return tensor;
}

Tensor Permuted(const Tensor& tensor, std::vector<int64_t> shape, const std::vector<int>& axes) {
  Tensor result;
  for (const int axis : axes) result.shape.push_back(shape[axis]);
  result.elements.resize(tensor.elements.size());
  const std::vector<int64_t> reads = RowMajor(shape);
  const std::vector<int64_t> writes = RowMajor(result.shape);
  std::vector<BoxDim> dims;
  for (size_t k = 0; k < axes.size(); ++k) {
    dims.push_back({result.shape[k], reads[axes[k]], writes[k]});
  }
  Append(tensor, BoxOrDie(0, 0, dims), &result);
  return result;
}

Tensor Sliced(const Tensor& tensor, int axis, int64_t begin, int64_t end) {
  Tensor result;
  result.shape = tensor.shape;
  result.shape[axis] = end - begin;
  result.elements.resize(Product(result.shape));
  const std::vector<int64_t> reads = RowMajor(tensor.shape);
  const std::vector<int64_t> writes = RowMajor(result.shape);
  std::vector<BoxDim> dims;
  for (size_t k = 0; k < reads.size(); ++k) dims.push_back({result.shape[k], reads[k], writes[k]});
  Append(tensor, BoxOrDie(begin * reads[axis], 0, dims), &result);
  return result;
}

Tensor Concatenated(const std::vector<Tensor>& tensors, int axis) {
  Tensor result;
  result.shape = tensors[0].shape;
  result.shape[axis] = 0;
  for (const Tensor& tensor : tensors) result.shape[axis] += tensor.shape[axis];
  result.elements.resize(Product(result.shape));
  const std::vector<int64_t> writes = RowMajor(result.shape);
  int64_t offset = 0;
  for (const Tensor& tensor : tensors) {
    const std::vector<int64_t> reads = RowMajor(tensor.shape);
    std::vector<BoxDim> dims;
    for (size_t k = 0; k < reads.size(); ++k) {
      dims.push_back({tensor.shape[k], reads[k], writes[k]});
    }
    Append(tensor, BoxOrDie(0, offset * writes[axis], dims), &result);
    offset += tensor.shape[axis];
  }
  MergeBoxes(&result.boxes);
  return result;
}

Tensor Stacked(std::vector<Tensor> tensors) {
  for (Tensor& tensor : tensors) tensor.shape.insert(tensor.shape.begin(), 1);
  return Concatenated(tensors, 0);
}

namespace {

// A tensor of `shape` made by `num_operations` operations.
Tensor RandomTensorOfShape(Random* random, const std::vector<int64_t>& shape, int num_operations,
                           int32_t* next_source) {
  if (num_operations == 0 || shape.empty()) return SourceTensor((*next_source)++, shape);
  const int axis = static_cast<int>(random->Between(0, static_cast<int64_t>(shape.size()) - 1));
  switch (random->Between(0, 4)) {
    case 0: {  // cut out of a larger one: chunk, split
      std::vector<int64_t> larger = shape;
      const int64_t before = random->Between(0, 3);
      larger[axis] += before + random->Between(0, 3);
      return Sliced(RandomTensorOfShape(random, larger, num_operations - 1, next_source), axis,
                    before, before + shape[axis]);
    }
    case 1: {  // concatenated of two
      if (shape[axis] < 2) return SourceTensor((*next_source)++, shape);
      std::vector<int64_t> first = shape;
      std::vector<int64_t> second = shape;
      first[axis] = random->Between(1, shape[axis] - 1);
      second[axis] = shape[axis] - first[axis];
      return Concatenated({RandomTensorOfShape(random, first, num_operations - 1, next_source),
                           RandomTensorOfShape(random, second, num_operations - 1, next_source)},
                          axis);
    }
    case 2: {  // stacked
      std::vector<Tensor> parts;
      const std::vector<int64_t> part(shape.begin() + 1, shape.end());
      for (int64_t i = 0; i < shape[0]; ++i) {
        parts.push_back(RandomTensorOfShape(random, part, num_operations - 1, next_source));
      }
      return Stacked(std::move(parts));
    }
    case 3: {  // transposed
      std::vector<int> axes(shape.size());
      std::iota(axes.begin(), axes.end(), 0);
      random->Shuffle(&axes);
      std::vector<int64_t> from(shape.size());
      for (size_t k = 0; k < axes.size(); ++k) from[axes[k]] = shape[k];
      return Permuted(RandomTensorOfShape(random, from, num_operations - 1, next_source), from,
                      axes);
    }
    default: {  // rope permutation, interleave: two steps of an axis swapped
      std::vector<int64_t> divisors;
      for (int64_t d = 1; d <= shape[axis]; ++d) {
        if (shape[axis] % d == 0) divisors.push_back(d);
      }
      const int64_t divisor =
          divisors[random->Between(0, static_cast<int64_t>(divisors.size()) - 1)];
      Tensor from = RandomTensorOfShape(random, shape, num_operations - 1, next_source);
      std::vector<int64_t> view(shape.begin(), shape.begin() + axis);
      view.push_back(divisor);
      view.push_back(shape[axis] / divisor);
      view.insert(view.end(), shape.begin() + axis + 1, shape.end());
      std::vector<int> axes(view.size());
      std::iota(axes.begin(), axes.end(), 0);
      std::swap(axes[axis], axes[axis + 1]);
      Tensor result = Permuted(from, view, axes);
      result.shape = shape;
      return result;
    }
  }
}

}  // namespace

Tensor RandomTensor(Random* random, int num_operations) {
  static int num_made = 0;
  static int num_thrown_away = 0;
  for (;;) {
    std::vector<int64_t> shape(random->Between(1, 3));
    for (int64_t& extent : shape) extent = random->Between(1, 8);
    int32_t next_source = 0;
    Tensor tensor = RandomTensorOfShape(random, shape, num_operations, &next_source);
    ++num_made;
    if (tensor.status.ok()) return tensor;
    ++num_thrown_away;
    EXPECT_LT(num_thrown_away, 20 + num_made / 20) << tensor.status;
  }
}

std::vector<Element> Expected(const Tensor& tensor) {
  std::vector<Element> elements;
  for (int64_t i = 0; i < tensor.num_elements(); ++i) {
    elements.push_back({i, tensor.elements[i].first, tensor.elements[i].second});
  }
  return elements;
}

}  // namespace zerocast::copy_testing
