#ifndef ZEROCAST_CLIENT_FORMATS_DEEPSPEED_SHARD_LAYOUT_H_
#define ZEROCAST_CLIENT_FORMATS_DEEPSPEED_SHARD_LAYOUT_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/formats/deepspeed/zero_checkpoint.h"

namespace zerocast {

// As many as a file's name may say.
inline constexpr int64_t kMaxWorldSize = 1 << 20;

// How DeepSpeed lays a checkpoint's trained parameters out in flat tensors on so many ranks.  Pure;
// README.md has the rules, RESHARD.md where they come from.

// The flat tensors of one sub-group (stage 3) or group (stages 1 and 2), one on each rank.
struct FlatLayout {
  int32_t group = 0;                // the optimizer's
  std::vector<int32_t> parameters;  // in ZeroCheckpoint::parameters, in the order of param_shapes
  std::vector<int32_t> given;       // the same in the order in which the optimizer was given them
  // Elements.  Stage 3: where the parameters' partitions begin in the flat tensor of each rank.
  // Stages 1 and 2: where the parameters begin in the group, all ranks' tensors end to end.
  std::vector<int64_t> begins;
  std::vector<int64_t> paddings;  // stages 1 and 2: elements behind each parameter
  int64_t used = 0;               // where the last one ends
  int64_t partition = 0;          // elements of each rank's tensor
};

struct ShardLayout {
  int stage = 0;
  int32_t world_size = 0;
  std::vector<FlatLayout> flats;  // in the order of param_shapes
};

// A parameter's elements [offset, offset + num_elements) in a rank's flat tensor.
struct FlatPart {
  int32_t parameter = 0;
  int64_t flat_offset = 0, offset = 0, num_elements = 0;
};

// The layout of `checkpoint` on `world_size` ranks.  Errors:
//   INVALID_ARGUMENT     world_size < 1, or so large that flat tensors have too many elements
//   UNIMPLEMENTED        stage 0, which partitions nothing; reason UNSUPPORTED
//   FAILED_PRECONDITION  the checkpoint's own layout is not what its config says, so nobody knows
//                        what an engine would make of another world size; reason UNSUPPORTED
absl::StatusOr<ShardLayout> LayOutShards(const ZeroCheckpoint& checkpoint, int64_t world_size);

// What is in the flat tensor of `rank`, ascending by flat_offset; parts of no elements are left
// out.  What lies between them and behind them is padding.
std::vector<FlatPart> PartsOf(const ZeroCheckpoint& checkpoint, const ShardLayout& layout,
                              const FlatLayout& flat, int64_t rank);

// Stages 1 and 2: the elements at the end of a rank's tensor that are saved without values.
int64_t EndPadding(const FlatLayout& flat, int64_t rank);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_FORMATS_DEEPSPEED_SHARD_LAYOUT_H_
