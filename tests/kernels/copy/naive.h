#ifndef ZEROCAST_TESTS_KERNELS_COPY_NAIVE_H_
#define ZEROCAST_TESTS_KERNELS_COPY_NAIVE_H_

// Boxes interpreted one element at a time, and random boxes and tensors to try them on.

#include <cstdint>
#include <random>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/copy/box.h"

namespace zerocast::copy_testing {

// The seed of this run: ZC_SEED, or a new one; printed, so that ZC_SEED can repeat the run.
uint64_t Seed();

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  // Uniform in [low, high].
  int64_t Between(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(engine_);
  }
  template <typename T>
  void Shuffle(std::vector<T>* items) {
    for (size_t i = items->size(); i > 1; --i) {
      std::swap((*items)[i - 1], (*items)[Between(0, static_cast<int64_t>(i) - 1)]);
    }
  }

 private:
  std::mt19937_64 engine_;
};

// One copied element.
struct Element {
  int64_t target = 0;
  int32_t source = 0;
  int64_t place = 0;  // in the source

  friend bool operator==(const Element& a, const Element& b) {
    return a.target == b.target && a.source == b.source && a.place == b.place;
  }
  friend bool operator<(const Element& a, const Element& b) {
    if (a.target != b.target) return a.target < b.target;
    if (a.source != b.source) return a.source < b.source;
    return a.place < b.place;
  }
};
void PrintTo(const Element& element, std::ostream* out);

// All elements that `boxes` copy, sorted.
std::vector<Element> Elements(absl::Span<const Box> boxes);

// True when `box` has the form that box.h calls canonical.
bool IsCanonical(const Box& box);

// A canonical box of at most `max_dims` loops of extents up to `max_extent`, with random gaps.
Box RandomBox(Random* random, int max_dims, int64_t max_extent);

// A tensor in the making: its shape, its boxes, and what every element of it is.
struct Tensor {
  std::vector<int64_t> shape;
  std::vector<Box> boxes;
  std::vector<std::pair<int32_t, int64_t>> elements;  // (source, place), row-major
  absl::Status status;  // why `boxes` are not what they should be: UNIMPLEMENTED of Compose

  int64_t num_elements() const { return static_cast<int64_t>(elements.size()); }
};

// The whole of source `source`.
Tensor SourceTensor(int32_t source, std::vector<int64_t> shape);
// `tensor` seen as `shape`, then with its axes in the order of `axes`.
Tensor Permuted(const Tensor& tensor, std::vector<int64_t> shape, const std::vector<int>& axes);
// Places [begin, end) of `axis`.
Tensor Sliced(const Tensor& tensor, int axis, int64_t begin, int64_t end);
Tensor Concatenated(const std::vector<Tensor>& tensors, int axis);
// Along a new first axis.
Tensor Stacked(std::vector<Tensor> tensors);
// `num_operations` of the above at random, one on top of the other.  Its status is OK: chains that
// need more loops than a box has are thrown away.
Tensor RandomTensor(Random* random, int num_operations);

// The elements of `tensor` as boxes that make it have to copy them.
std::vector<Element> Expected(const Tensor& tensor);

}  // namespace zerocast::copy_testing

#endif  // ZEROCAST_TESTS_KERNELS_COPY_NAIVE_H_
