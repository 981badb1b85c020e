#include <algorithm>
#include <tuple>
#include <vector>

#include "kernels/copy/algebra.h"
#include "kernels/copy/canonical.h"

namespace zerocast {
namespace {

bool SameStrides(const BoxDim& a, const BoxDim& b) {
  return a.source_stride == b.source_stride && a.target_stride == b.target_stride;
}

// Makes `joined` from `box` with loop k one of `extent` steps.
bool WithExtent(const Box& box, int k, int64_t extent, Box* joined) {
  BoxDim dims[kMaxBoxDims + 1];
  std::copy(box.dims, box.dims + box.num_dims, dims);
  dims[k].extent = extent;
  *joined = box;
  return MakeCanonical(dims, box.num_dims, joined) == Canonical::kOk;
}

// True when `b` continues loop k of `a`: it begins where step `extent` of that loop would.
bool Continues(const Box& a, const Box& b, const BoxDim& dim, int64_t extent) {
  return b.target_offset - a.target_offset == extent * dim.target_stride &&
         b.source_offset - a.source_offset == extent * dim.source_stride;
}

// The loop of `longer` that `shorter` lacks; -1 when they differ otherwise.
int MissingLoop(const Box& longer, const Box& shorter) {
  int k = 0;
  while (k < shorter.num_dims && longer.dims[k] == shorter.dims[k]) ++k;
  for (int rest = k; rest < shorter.num_dims; ++rest) {
    if (!(longer.dims[rest + 1] == shorter.dims[rest])) return -1;
  }
  return k;
}

// Joins `b` to `a`, which begins before it, into `joined`.  Without `new_loops` only where `b`
// continues a loop; with it also where the two are the steps of a loop of two.
bool Join(const Box& a, const Box& b, bool new_loops, Box* joined) {
  if (a.source != b.source) return false;
  if (a.num_dims == b.num_dims) {
    int different = -1;
    for (int k = 0; k < a.num_dims; ++k) {
      if (a.dims[k] == b.dims[k]) continue;
      if (different >= 0 || !SameStrides(a.dims[k], b.dims[k])) return false;
      different = k;
    }
    if (different >= 0) {
      return Continues(a, b, a.dims[different], a.dims[different].extent) &&
             WithExtent(a, different, a.dims[different].extent + b.dims[different].extent, joined);
    }
    BoxDim dims[kMaxBoxDims + 1] = {
        {2, b.source_offset - a.source_offset, b.target_offset - a.target_offset}};
    if (dims[0].source_stride < 0) return false;
    const bool is_run = dims[0].source_stride == 1 && dims[0].target_stride == 1;
    std::copy(a.dims, a.dims + a.num_dims, dims + 1);
    *joined = a;
    return MakeCanonical(dims, a.num_dims + 1, joined) == Canonical::kOk &&
           (new_loops || is_run || joined->num_dims <= a.num_dims);
  }
  if (a.num_dims == b.num_dims + 1) {
    const int k = MissingLoop(a, b);
    return k >= 0 && Continues(a, b, a.dims[k], a.dims[k].extent) &&
           WithExtent(a, k, a.dims[k].extent + 1, joined);
  }
  if (b.num_dims == a.num_dims + 1) {
    const int k = MissingLoop(b, a);
    if (k < 0 || !Continues(a, b, b.dims[k], 1)) return false;
    if (!WithExtent(b, k, b.dims[k].extent + 1, joined)) return false;
    joined->source_offset = a.source_offset;
    joined->target_offset = a.target_offset;
    return true;
  }
  return false;
}

// Joins neighbours in `boxes` from left to right; a joined box is tried on its left one again.
void JoinNeighbours(bool new_loops, std::vector<Box>* boxes) {
  size_t kept = 0;
  Box joined;
  for (size_t i = 0; i < boxes->size(); ++i) {
    Box box = (*boxes)[i];
    while (kept > 0 && Join((*boxes)[kept - 1], box, new_loops, &joined)) {
      box = joined;
      --kept;
    }
    (*boxes)[kept++] = box;
  }
  boxes->resize(kept);
}

}  // namespace

void MergeBoxes(std::vector<Box>* boxes) {
  const auto by_source = [](const Box& a, const Box& b) {
    return std::tie(a.source, a.target_offset, a.source_offset) <
           std::tie(b.source, b.target_offset, b.source_offset);
  };
  const auto by_target = [](const Box& a, const Box& b) {
    return std::tie(a.target_offset, a.source, a.source_offset) <
           std::tie(b.target_offset, b.source, b.source_offset);
  };
  // Boxes are large: most lists come in order, and checking is cheaper than sorting.
  const auto sort = [boxes](const auto& less) {
    if (!std::is_sorted(boxes->begin(), boxes->end(), less)) {
      std::sort(boxes->begin(), boxes->end(), less);
    }
  };
  sort(by_source);
  // Longer loops first: a loop of two made too early would hide that they fit together.
  JoinNeighbours(false, boxes);
  for (size_t before = 0; before != boxes->size();) {
    before = boxes->size();
    JoinNeighbours(true, boxes);
  }
  sort(by_target);
}

}  // namespace zerocast
