#ifndef ZEROCAST_KERNELS_COPY_ALGEBRA_H_
#define ZEROCAST_KERNELS_COPY_ALGEBRA_H_

// Index arithmetic on boxes.  Pure: no allocation beyond the results, no state.

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/copy/box.h"

namespace zerocast {

// A box that copies the whole of a contiguous source tensor of `num_elements` > 0 to
// `target_offset`.
Box WholeBox(int32_t source, int64_t num_elements, int64_t target_offset);

// A box from loops in any order, made canonical.  `dims` may hold more than kMaxBoxDims loops
// before they are merged.  Errors:
//   UNIMPLEMENTED     more than kMaxBoxDims loops remain after merging.
//   INVALID_ARGUMENT  an extent < 1, a stride < 0, or one of the sides is not nested.
absl::StatusOr<Box> MakeBox(int32_t source, int64_t source_offset, int64_t target_offset,
                            absl::Span<const BoxDim> dims);

// True when each element goes behind the one that was before it in the source, without gaps.
inline bool IsContiguous(const Box& box) {
  return box.num_dims == 0 ||
         (box.num_dims == 1 && box.dims[0].source_stride == 1 && box.dims[0].target_stride == 1);
}

// Appends to `out` boxes that copy exactly the elements of `box` whose place in the target lies in
// [begin, end).  At most 2 * num_dims + 1 boxes, in order of target place; offsets stay those of
// the whole target.
void SliceTarget(const Box& box, int64_t begin, int64_t end, std::vector<Box>* out);

// As SliceTarget, for the elements read from [begin, end) of the source.
void SliceSource(const Box& box, int64_t begin, int64_t end, std::vector<Box>* out);

// Composition.  `inner` boxes fill an intermediate tensor; `outer` boxes read from that
// intermediate (their `source` is ignored).  Appends boxes that copy directly from inner's sources
// to outer's target, whose joint effect equals running inner and then outer.  Elements of the
// intermediate that no inner box fills are not copied (the coverage proof finds them).
// The result is the smallest number of boxes that merging finds.  Errors:
//   UNIMPLEMENTED  a piece needs more than kMaxBoxDims loops, or the result more than `max_boxes`.
absl::Status Compose(absl::Span<const Box> inner, absl::Span<const Box> outer, int64_t max_boxes,
                     std::vector<Box>* out);

// True when some element of the target is written by both boxes.
bool TargetsOverlap(const Box& a, const Box& b);

// Joins neighbouring boxes of the same source where together they are one box.  Keeps the joint
// effect; `boxes` comes back sorted by target_offset.
void MergeBoxes(std::vector<Box>* boxes);

// The proof that `boxes` write every element of [0, num_elements) of a target exactly once.  OK,
// or:
//   DATA_LOSS  a gap, an overlap or a write outside, naming the first element concerned as
//              "elements [a, b) ..." and the numbers of the sources involved.
absl::Status ProveCoverage(absl::Span<const Box> boxes, int64_t num_elements);

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_COPY_ALGEBRA_H_
