#ifndef ZEROCAST_SERVER_PLAN_FLAT_GROUP_H_
#define ZEROCAST_SERVER_PLAN_FLAT_GROUP_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace zerocast {

// Where the members of an optimizer's group lie in its flat tensor under ZeRO stages 1 and 2
// (DeepSpeed 0.19.8, runtime/zero/stage_1_and_2.py).
struct FlatGroup {
  // By place of a member in the group: its first element.
  std::vector<int64_t> offsets;
  int64_t num_elements = 0;  // a multiple of 2 * world_size
};
struct FlatGroupOptions {
  int64_t world_size = 1;
  bool round_robin_gradients = false;  // ranks in turn get the members
  int64_t alignment = 1;               // elements that every member but the last is padded to
};
// Of elements that have so many bytes in training: what makes 16 bytes, or 1.
int64_t FlatAlignment(bool parameter_alignment, int64_t element_bytes);

// `sizes` are the members' elements by place.  False where a sum is kTooManyBytes (shape.h) or
// more.
bool LayOutFlatGroup(absl::Span<const int64_t> sizes, const FlatGroupOptions& options,
                     FlatGroup* group);

// The members of a group of `size` in the order of its flat tensor: their places.
std::vector<int32_t> FlatOrder(int32_t size, int64_t world_size, bool round_robin_gradients);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_PLAN_FLAT_GROUP_H_
