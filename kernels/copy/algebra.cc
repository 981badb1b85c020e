#include "kernels/copy/algebra.h"

#include <algorithm>
#include <cstddef>
#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/copy/canonical.h"
#include "kernels/copy/lattice.h"

namespace zerocast {
namespace {

// True when the loops, sorted by `stride` from largest to smallest, never meet: each stride steps
// over all that the loops inside it reach.  Sets *overflow when the reach exceeds int64.
bool IsNested(const BoxDim* dims, int num_dims, int64_t BoxDim::*stride, bool* overflow) {
  int64_t reach = 1;  // elements from the first to the last one of the loops inside, inclusive
  int64_t inner_end = 1;
  for (int k = num_dims - 1; k >= 0; --k) {
    const int64_t step = dims[k].*stride;
    if (step < inner_end) return false;
    int64_t width = 0;
    if (__builtin_mul_overflow(dims[k].extent, step, &inner_end) ||
        __builtin_mul_overflow(dims[k].extent - 1, step, &width) ||
        __builtin_add_overflow(reach, width, &reach)) {
      *overflow = true;
      return false;
    }
  }
  return true;
}

void SortBy(BoxDim* dims, int num_dims, int64_t BoxDim::*stride) {
  // Insertion sort: a handful of loops, mostly sorted.
  for (int i = 1; i < num_dims; ++i) {
    const BoxDim dim = dims[i];
    int k = i;
    for (; k > 0 && dims[k - 1].*stride < dim.*stride; --k) dims[k] = dims[k - 1];
    dims[k] = dim;
  }
}

std::string Describe(absl::Span<const BoxDim> dims) {
  std::string text = "loops (extent, source stride, target stride)";
  for (const BoxDim& dim : dims) {
    absl::StrAppend(&text, " (", dim.extent, ", ", dim.source_stride, ", ", dim.target_stride, ")");
  }
  return text;
}

// One side of a box: which members a cut by place works on.
struct Side {
  int64_t Box::*offset;
  int64_t BoxDim::*stride;
};
constexpr Side kSource = {&Box::source_offset, &BoxDim::source_stride};
constexpr Side kTarget = {&Box::target_offset, &BoxDim::target_stride};

int OutermostLoop(const Box& box, const Side& side) {
  int outermost = 0;
  for (int k = 1; k < box.num_dims; ++k) {
    if (box.dims[k].*side.stride > box.dims[outermost].*side.stride) outermost = k;
  }
  return outermost;
}

// The part of `box` in which loop k runs over [first, first + extent).
Box Restrict(const Box& box, int k, int64_t first, int64_t extent) {
  Box part = box;
  part.source_offset += first * box.dims[k].source_stride;
  part.target_offset += first * box.dims[k].target_stride;
  part.dims[k].extent = extent;
  if (extent == 1) {
    std::copy(part.dims + k + 1, part.dims + part.num_dims, part.dims + k);
    part.dims[--part.num_dims] = BoxDim{};
  }
  return part;
}

// Appends the parts of `box` whose place on `side` lies in [begin, end).  Only the outermost loop
// of a part is ever shortened, and a loop that is left out was the outermost one: parts of a
// canonical box are canonical.
void Cut(const Box& box, const Side& side, int64_t begin, int64_t end, std::vector<Box>* out) {
  const int64_t offset = box.*side.offset;
  int64_t span = 1;
  for (int k = 0; k < box.num_dims; ++k) {
    span += (box.dims[k].extent - 1) * (box.dims[k].*side.stride);
  }
  if (begin >= end || begin >= offset + span || end <= offset) return;
  if (begin <= offset && offset + span <= end) {
    out->push_back(box);
    return;
  }
  const int k = OutermostLoop(box, side);
  const int64_t stride = box.dims[k].*side.stride;
  const int64_t inner_span = span - (box.dims[k].extent - 1) * stride;
  // Steps of loop k that reach into the range, and those of them that lie wholly within it.
  const int64_t first = std::max<int64_t>(0, FloorDiv(begin - offset - inner_span, stride) + 1);
  const int64_t last = std::min(box.dims[k].extent - 1, FloorDiv(end - 1 - offset, stride));
  if (first > last) return;
  const bool first_is_cut =
      offset + first * stride < begin || offset + first * stride + inner_span > end;
  const bool last_is_cut = last > first && offset + last * stride + inner_span > end;
  if (first_is_cut) Cut(Restrict(box, k, first, 1), side, begin, end, out);
  const int64_t whole = last - first + 1 - (first_is_cut ? 1 : 0) - (last_is_cut ? 1 : 0);
  if (whole > 0) out->push_back(Restrict(box, k, first + (first_is_cut ? 1 : 0), whole));
  if (last_is_cut) Cut(Restrict(box, k, last, 1), side, begin, end, out);
}

}  // namespace

Canonical MakeCanonical(BoxDim* dims, int num_dims, Box* box) {
  num_dims = static_cast<int>(
      std::remove_if(dims, dims + num_dims, [](const BoxDim& dim) { return dim.extent == 1; }) -
      dims);
  bool overflow = false;
  SortBy(dims, num_dims, &BoxDim::source_stride);
  if (!IsNested(dims, num_dims, &BoxDim::source_stride, &overflow)) {
    return overflow ? Canonical::kOverflow : Canonical::kNotNested;
  }
  SortBy(dims, num_dims, &BoxDim::target_stride);
  if (!IsNested(dims, num_dims, &BoxDim::target_stride, &overflow)) {
    return overflow ? Canonical::kOverflow : Canonical::kNotNested;
  }
  MergeLoops(dims, &num_dims);
  if (num_dims > kMaxBoxDims) return Canonical::kTooManyLoops;
  box->num_dims = num_dims;
  std::copy(dims, dims + num_dims, box->dims);
  std::fill(box->dims + num_dims, box->dims + kMaxBoxDims, BoxDim{});
  return Canonical::kOk;
}

Box WholeBox(int32_t source, int64_t num_elements, int64_t target_offset) {
  Box box;
  box.source = source;
  box.target_offset = target_offset;
  if (num_elements > 1) {
    box.num_dims = 1;
    box.dims[0] = {num_elements, 1, 1};
  }
  return box;
}

absl::StatusOr<Box> MakeBox(int32_t source, int64_t source_offset, int64_t target_offset,
                            absl::Span<const BoxDim> dims) {
  for (const BoxDim& dim : dims) {
    if (dim.extent < 1 || dim.source_stride < 0 || dim.target_stride < 0) {
      return absl::InvalidArgumentError(absl::StrCat("make a box of source ", source,
                                                     ": an extent below 1 or a stride below 0 in ",
                                                     Describe(dims)));
    }
  }
  BoxDim loops[kMaxLoops];
  int num_loops = 0;
  for (const BoxDim& dim : dims) {
    if (dim.extent == 1) continue;
    if (num_loops == kMaxLoops) {
      return absl::UnimplementedError(absl::StrCat("make a box of source ", source, ": more than ",
                                                   kMaxLoops, " loops in ", Describe(dims)));
    }
    loops[num_loops++] = dim;
  }
  Box box;
  box.source = source;
  box.source_offset = source_offset;
  box.target_offset = target_offset;
  switch (MakeCanonical(loops, num_loops, &box)) {
    case Canonical::kOk:
      return box;
    case Canonical::kNotNested:
      return absl::InvalidArgumentError(absl::StrCat("make a box of source ", source,
                                                     ": a side is not nested in ", Describe(dims)));
    case Canonical::kOverflow:
      return absl::InvalidArgumentError(absl::StrCat(
          "make a box of source ", source, ": places exceed 63 bits in ", Describe(dims)));
    case Canonical::kTooManyLoops:
      break;
  }
  return absl::UnimplementedError(absl::StrCat("make a box of source ", source, ": more than ",
                                               kMaxBoxDims, " loops remain of ", Describe(dims)));
}

void SliceTarget(const Box& box, int64_t begin, int64_t end, std::vector<Box>* out) {
  Cut(box, kTarget, begin, end, out);
}

void SliceSource(const Box& box, int64_t begin, int64_t end, std::vector<Box>* out) {
  const auto first = static_cast<std::ptrdiff_t>(out->size());
  Cut(box, kSource, begin, end, out);
  std::sort(out->begin() + first, out->end(),
            [](const Box& a, const Box& b) { return a.target_offset < b.target_offset; });
}

}  // namespace zerocast
