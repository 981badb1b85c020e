#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/copy/algebra.h"
#include "kernels/copy/canonical.h"
#include "kernels/copy/lattice.h"

namespace zerocast {
namespace {

Lattice MakeLattice(const Box& box, int64_t place, int64_t mate, int64_t BoxDim::*stride,
                    int64_t BoxDim::*mate_stride) {
  Lattice lattice;
  lattice.place = place;
  lattice.mate = mate;
  lattice.num = box.num_dims;
  for (int k = 0; k < box.num_dims; ++k) {
    const BoxDim& dim = box.dims[box.num_dims - 1 - k];
    lattice.loops[k] = {dim.extent, dim.*stride, dim.*mate_stride};
  }
  for (int i = 1; i < lattice.num; ++i) {
    for (int k = i; k > 0 && lattice.loops[k - 1].stride > lattice.loops[k].stride; --k) {
      std::swap(lattice.loops[k - 1], lattice.loops[k]);
    }
  }
  return lattice;
}

// A box of what `piece` says: from `source` (side a) to the target (side b).
Canonical BoxOfPiece(const LatticePiece& piece, int32_t source, Box* box) {
  BoxDim dims[2 * kMaxBoxDims];
  for (int k = 0; k < piece.num; ++k) {
    dims[k] = {piece.loops[k].extent, piece.loops[k].mate_a, piece.loops[k].mate_b};
  }
  box->source = source;
  box->source_offset = piece.mate_a;
  box->target_offset = piece.mate_b;
  return MakeCanonical(dims, piece.num, box);
}

// The inner boxes in order of their first place, for finding those that an outer box can meet.
struct InnerIndex {
  struct Entry {
    int64_t begin, end;
    int64_t largest_end;  // of this entry and all before it
    const Box* box;
  };
  std::vector<Entry> entries;

  explicit InnerIndex(absl::Span<const Box> inner) {
    entries.reserve(inner.size());
    for (const Box& box : inner) entries.push_back({box.target_offset, TargetEnd(box), 0, &box});
    std::stable_sort(entries.begin(), entries.end(),
                     [](const Entry& a, const Entry& b) { return a.begin < b.begin; });
    int64_t largest_end = std::numeric_limits<int64_t>::min();
    for (Entry& entry : entries) {
      largest_end = std::max(largest_end, entry.end);
      entry.largest_end = largest_end;
    }
  }

  // The first entry that may end behind `place`.
  std::vector<Entry>::const_iterator FirstEndingAfter(int64_t place) const {
    return std::partition_point(entries.begin(), entries.end(),
                                [place](const Entry& entry) { return entry.largest_end <= place; });
  }
};

int64_t SaturatingMultiply(int64_t a, int64_t b) {
  int64_t product = 0;
  return __builtin_mul_overflow(a, b, &product) ? std::numeric_limits<int64_t>::max() : product;
}

absl::Status TooManyBoxes(int64_t max_boxes) {
  return absl::UnimplementedError(
      absl::StrCat("compose boxes: the result needs more than ", max_boxes, " boxes"));
}

}  // namespace

Lattice TargetLattice(const Box& box) {
  return MakeLattice(box, box.target_offset, box.source_offset, &BoxDim::target_stride,
                     &BoxDim::source_stride);
}

Lattice SourceLattice(const Box& box) {
  return MakeLattice(box, box.source_offset, box.target_offset, &BoxDim::source_stride,
                     &BoxDim::target_stride);
}

absl::Status Compose(absl::Span<const Box> inner, absl::Span<const Box> outer, int64_t max_boxes,
                     std::vector<Box>* out) {
  // Merging may join pieces, so a few times max_boxes are let pass before it; a search that takes
  // many steps a box finds nothing useful.
  const int64_t max_pieces = SaturatingMultiply(max_boxes, 4);
  const int64_t max_steps = SaturatingMultiply(max_boxes, 64);
  const InnerIndex index(inner);
  std::vector<Box> pieces;
  for (const Box& reader : outer) {
    const int64_t begin = reader.source_offset;
    const int64_t end = SourceEnd(reader);
    const Lattice reads = SourceLattice(reader);
    for (auto entry = index.FirstEndingAfter(begin);
         entry != index.entries.end() && entry->begin < end; ++entry) {
      if (entry->end <= begin) continue;
      Canonical canonical = Canonical::kOk;
      Intersection intersection(max_steps, [&](const LatticePiece& piece) {
        Box box;
        canonical = BoxOfPiece(piece, entry->box->source, &box);
        if (canonical != Canonical::kOk) return false;
        pieces.push_back(box);
        return static_cast<int64_t>(pieces.size()) < max_pieces;
      });
      const bool complete = intersection.Run(TargetLattice(*entry->box), reads);
      if (canonical != Canonical::kOk) {
        return absl::UnimplementedError(absl::StrCat("compose boxes: a piece of source ",
                                                     entry->box->source, " needs more than ",
                                                     kMaxBoxDims, " loops"));
      }
      if (!complete) {
        // Either limit: what is there may still merge into few enough boxes only if the search
        // went on, which it must not without end.
        return TooManyBoxes(max_boxes);
      }
    }
  }
  MergeBoxes(&pieces);
  if (static_cast<int64_t>(pieces.size()) > max_boxes) return TooManyBoxes(max_boxes);
  out->insert(out->end(), pieces.begin(), pieces.end());
  return absl::OkStatus();
}

bool TargetsOverlap(const Box& a, const Box& b) {
  if (TargetEnd(a) <= b.target_offset || TargetEnd(b) <= a.target_offset) return false;
  bool found = false;
  Intersection intersection(std::numeric_limits<int64_t>::max(), [&found](const LatticePiece&) {
    found = true;
    return false;
  });
  intersection.Run(TargetLattice(a), TargetLattice(b));
  return found;
}

}  // namespace zerocast
