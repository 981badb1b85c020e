#ifndef ZEROCAST_CLIENT_FORMATS_DEEPSPEED_BOX_BLOCKS_H_
#define ZEROCAST_CLIENT_FORMATS_DEEPSPEED_BOX_BLOCKS_H_

// Boxes between files, in blocks that fit into memory.  Pure.

#include <cstdint>
#include <functional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/copy/box.h"

namespace zerocast {

// A canonical box as smaller ones: each of at most `max_elements`, with runs on both sides as long
// as that allows, so that a transposition reads and writes more than single elements.
class BoxBlocks {
 public:
  BoxBlocks(const Box& box, int64_t max_elements);

  int64_t count() const { return count_; }
  // Block `index` < count(), its offsets those of the whole.  Not canonical: extents may be 1.
  Box Get(int64_t index) const;

 private:
  Box box_;
  int64_t extents_[kMaxBoxDims] = {};  // of a block that is not cut off at an end
  int64_t count_ = 1;
};

enum class BoxSide { kSource, kTarget };

// Elements [offset, offset + num_elements) of a side, the packed_offset-th of those that the box
// has there.
struct BoxStretch {
  int64_t offset = 0, num_elements = 0, packed_offset = 0;
};

// Calls `body` for the contiguous stretches of a side of `box`, ascending, until one fails.
absl::Status ForEachStretch(const Box& box, BoxSide side,
                            const std::function<absl::Status(const BoxStretch&)>& body);

// The same copy between the packed elements of both sides: what ForEachStretch counts.  Errors: as
// MakeBox, where a side is not nested.
absl::StatusOr<Box> PackBothSides(const Box& box);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_FORMATS_DEEPSPEED_BOX_BLOCKS_H_
