#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/copy/algebra.h"
#include "kernels/copy/lattice.h"

// Two proofs.  The quick one needs no arithmetic beyond comparing ends: it follows boxes that lie
// one behind the other, and takes boxes that interleave with one common outer loop apart into one
// step of that loop.  It covers what conversion makes; where it does not succeed, the slow one
// decides: boxes that do not overlap and have as many elements as the target cover it.

namespace zerocast {
namespace {

// What a box writes.  Loops innermost first, merged as far as the target alone is concerned.
struct Writes {
  int64_t begin = 0;
  int64_t end = 0;
  int num = 0;
  struct Loop {
    int64_t extent, stride;
  } loops[kMaxBoxDims];

  bool HasNoGap() const { return num == 0 || (num == 1 && loops[0].stride == 1); }
};

Writes WritesOf(const Box& box) {
  Writes writes;
  writes.begin = box.target_offset;
  writes.end = TargetEnd(box);
  for (int k = box.num_dims - 1; k >= 0; --k) {
    const BoxDim& dim = box.dims[k];
    if (writes.num > 0) {
      Writes::Loop& inner = writes.loops[writes.num - 1];
      if (inner.extent * inner.stride == dim.target_stride) {
        inner.extent *= dim.extent;
        continue;
      }
    }
    writes.loops[writes.num++] = {dim.extent, dim.target_stride};
  }
  return writes;
}

bool CoversQuickly(std::vector<Writes>* writes, int64_t end);

// The boxes [first, last) interleave.  True when they run one common outer loop, and together cover
// without a gap from the first one's begin to the last one's end.
bool CoversInterleaved(const Writes* first, const Writes* last) {
  if (first->num == 0) return false;
  const Writes::Loop outer = first->loops[first->num - 1];
  std::vector<Writes> steps;
  steps.reserve(last - first);
  for (const Writes* box = first; box != last; ++box) {
    if (box->num == 0) return false;
    const Writes::Loop& loop = box->loops[box->num - 1];
    if (loop.extent != outer.extent || loop.stride != outer.stride) return false;
    Writes step = *box;
    --step.num;
    step.begin -= first->begin;
    step.end -= first->begin + (outer.extent - 1) * outer.stride;
    steps.push_back(step);
  }
  return CoversQuickly(&steps, outer.stride);
}

// True only if `writes` cover [0, end) exactly; false says nothing.  Sorts them.
bool CoversQuickly(std::vector<Writes>* writes, int64_t end) {
  std::sort(writes->begin(), writes->end(),
            [](const Writes& a, const Writes& b) { return a.begin < b.begin; });
  const Writes* const last = writes->data() + writes->size();
  int64_t covered = 0;
  for (const Writes* box = writes->data(); box != last;) {
    if (box->begin != covered) return false;
    const Writes* group_end = box + 1;
    covered = box->end;
    while (group_end != last && group_end->begin < covered) {
      covered = std::max(covered, group_end->end);
      ++group_end;
    }
    if (!(group_end == box + 1 && box->HasNoGap()) && !CoversInterleaved(box, group_end)) {
      return false;
    }
    box = group_end;
  }
  return covered == end;
}

// Elements of the target below `place` that `box` writes.
int64_t CountBelow(const Box& box, int64_t place) {
  int64_t rest = place - box.target_offset;
  int64_t count = 0;
  int64_t inner = NumElements(box);
  if (rest <= 0) return 0;
  for (int k = 0; k < box.num_dims; ++k) {
    const BoxDim& dim = box.dims[k];
    const int64_t step = (rest - 1) / dim.target_stride;
    if (step >= dim.extent) return count + inner;
    inner /= dim.extent;
    count += step * inner;
    rest -= step * dim.target_stride;
  }
  return count + 1;
}

// The smallest element >= `place` that `box` writes; int64's largest when there is none.
int64_t FirstAtLeast(const Box& box, int64_t place) {
  constexpr int64_t kNone = std::numeric_limits<int64_t>::max();
  int64_t base = box.target_offset;
  int64_t next_step = kNone;  // the next step of the innermost loop that has one
  for (int k = 0; k < box.num_dims && base < place; ++k) {
    const BoxDim& dim = box.dims[k];
    const int64_t step = (place - base) / dim.target_stride;
    if (step >= dim.extent) return next_step;
    if (step + 1 < dim.extent) next_step = base + (step + 1) * dim.target_stride;
    base += step * dim.target_stride;
  }
  return base >= place ? base : next_step;
}

std::string NameSources(const std::vector<int32_t>& sources) {
  std::string text = sources.size() == 1 ? "source " : "sources ";
  for (size_t i = 0; i < sources.size(); ++i) {
    absl::StrAppend(&text, i == 0 ? "" : " and ", sources[i]);
  }
  return text;
}

absl::Status Refuse(int64_t begin, int64_t end, int64_t num_elements, const std::string& what) {
  return absl::DataLossError(absl::StrCat("prove the coverage of ", num_elements,
                                          " elements: elements [", begin, ", ", end, ") ", what));
}

struct Overlap {
  int64_t begin = std::numeric_limits<int64_t>::max();
  int64_t end = 0;
  int32_t sources[2] = {};
};

// Keeps the first common element of a and b in `overlap` where it lies before what is there.
void FindOverlap(const Box& a, const Box& b, Overlap* overlap) {
  Intersection intersection(std::numeric_limits<int64_t>::max(), [&](const LatticePiece& piece) {
    if (piece.place < overlap->begin) {
      int64_t run = 1;
      for (int k = 0; k < piece.num; ++k) {
        if (piece.loops[k].stride == 1) run = piece.loops[k].extent;
      }
      *overlap = {piece.place, piece.place + run, {a.source, b.source}};
    }
    return true;
  });
  intersection.Run(TargetLattice(a), TargetLattice(b));
}

Overlap FirstOverlap(const std::vector<const Box*>& sorted) {
  Overlap overlap;
  std::vector<const Box*> open;  // boxes that may reach behind the current one's begin
  for (const Box* box : sorted) {
    if (box->target_offset >= overlap.begin) break;
    open.erase(std::remove_if(
                   open.begin(), open.end(),
                   [box](const Box* earlier) { return TargetEnd(*earlier) <= box->target_offset; }),
               open.end());
    for (const Box* earlier : open) FindOverlap(*earlier, *box, &overlap);
    open.push_back(box);
  }
  return overlap;
}

// The first element that no box writes, given that no element below `limit` is written twice;
// `limit` when there is none.
int64_t FirstGap(absl::Span<const Box> boxes, int64_t limit) {
  const auto count_below = [boxes](int64_t place) {
    int64_t count = 0;
    for (const Box& box : boxes) count += CountBelow(box, place);
    return count;
  };
  if (count_below(limit) == limit) return limit;
  int64_t full = 0;  // [0, full) is written, [0, torn) is not
  int64_t torn = limit;
  while (torn - full > 1) {
    const int64_t middle = full + (torn - full) / 2;
    (count_below(middle) == middle ? full : torn) = middle;
  }
  return full;
}

absl::Status ProveSlowly(absl::Span<const Box> boxes, int64_t num_elements) {
  std::vector<const Box*> sorted;
  sorted.reserve(boxes.size());
  for (const Box& box : boxes) {
    if (box.target_offset < 0 || TargetEnd(box) > num_elements) {
      const bool before = box.target_offset < 0;
      return Refuse(before ? box.target_offset : FirstAtLeast(box, num_elements),
                    before ? std::min<int64_t>(0, TargetEnd(box)) : TargetEnd(box), num_elements,
                    absl::StrCat("outside the target are written by ", NameSources({box.source})));
    }
    sorted.push_back(&box);
  }
  std::sort(sorted.begin(), sorted.end(),
            [](const Box* a, const Box* b) { return a->target_offset < b->target_offset; });
  const Overlap overlap = FirstOverlap(sorted);
  const int64_t unique = std::min(overlap.begin, num_elements);
  const int64_t gap = FirstGap(boxes, unique);
  if (gap < unique) {
    int64_t gap_end = num_elements;
    std::vector<int32_t> sources;
    const Box* before = nullptr;
    const Box* after = nullptr;
    for (const Box& box : boxes) {
      const int64_t next = FirstAtLeast(box, gap);
      if (next < gap_end) {
        gap_end = next;
        after = &box;
      }
      if (gap > 0 && FirstAtLeast(box, gap - 1) == gap - 1) before = &box;
    }
    if (before != nullptr) sources.push_back(before->source);
    if (after != nullptr) sources.push_back(after->source);
    return Refuse(gap, gap_end, num_elements,
                  sources.empty() ? "are written by no source"
                                  : absl::StrCat("are written by no source; beside them write ",
                                                 NameSources(sources)));
  }
  if (overlap.begin < num_elements) {
    return Refuse(overlap.begin, overlap.end, num_elements,
                  absl::StrCat("are written twice, by ",
                               NameSources({overlap.sources[0], overlap.sources[1]})));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ProveCoverage(absl::Span<const Box> boxes, int64_t num_elements) {
  // Boxes in order and without gaps, as most targets have them, need no copy of the list.
  int64_t covered = 0;
  for (const Box& box : boxes) {
    if (box.target_offset != covered) break;
    const int64_t end = TargetEnd(box);
    if (end - covered != NumElements(box)) break;
    covered = end;
    if (&box == &boxes.back() && covered == num_elements) return absl::OkStatus();
  }
  if (boxes.empty() && num_elements == 0) return absl::OkStatus();

  std::vector<Writes> writes;
  writes.reserve(boxes.size());
  for (const Box& box : boxes) writes.push_back(WritesOf(box));
  if (CoversQuickly(&writes, num_elements)) return absl::OkStatus();
  return ProveSlowly(boxes, num_elements);
}

}  // namespace zerocast
