#ifndef ZEROCAST_CLIENT_FORMATS_DEEPSPEED_ZERO_GRAPH_H_
#define ZEROCAST_CLIENT_FORMATS_DEEPSPEED_ZERO_GRAPH_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "client/formats/deepspeed/shard_layout.h"
#include "client/formats/deepspeed/zero_checkpoint.h"
#include "client/formats/pickle.h"

namespace zerocast {

// What a layout says in the pickles of DeepSpeed's files.  Entries are changed where they are, and
// not added where an old release had none, unless it is said otherwise.  What is no dict is left.

// The keys of a file of optimizer states that differ by stage.
struct OptimizerKeys {
  absl::string_view base, flat;
};
OptimizerKeys OptimizerKeysOf(int stage);

// The object of a file of model states, which is `root`: dp_world_size, param_shapes.
void SetModelLayout(const ZeroCheckpoint& checkpoint, const ShardLayout& layout, PickleGraph* graph,
                    PickleId root);

// optimizer_state_dict, which is `state_dict`: what is the same on all ranks.  partition_count,
// param_alignment_paddings, and the tensors of each of the param_groups.
void SetOptimizerLayout(const ShardLayout& layout, PickleGraph* graph, PickleId state_dict);

// The same, what is a rank's own: group_paddings, and, added where it is not there,
// param_slice_mappings.  Nothing at stage 3.
void SetRankLayout(const ZeroCheckpoint& checkpoint, const ShardLayout& layout, int64_t rank,
                   PickleGraph* graph, PickleId state_dict);

// param_alignment_paddings as they are in `state_dict`, by group and parameter; empty without.
std::vector<std::vector<int64_t>> AlignmentPaddings(const PickleGraph& graph, PickleId state_dict);

// What an engine saves in one file of optimizer states and ds_to_universal in several, put together
// again: `state_dict` is the object of zero/optimizer_state.pt and becomes optimizer_state_dict.
// Its moments, masters and slice mappings are empty where the universal form has none.
void UndoUniversalOptimizer(int stage, PickleGraph* graph, PickleId state_dict);
// The other way: `state_dict`, optimizer_state_dict, becomes the object of zero/optimizer_state.pt
// (ds_to_universal.py, _save_optimizer_state and _save_optimizer_state_stage3).
void MakeUniversalOptimizer(int stage, PickleGraph* graph, PickleId state_dict);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_FORMATS_DEEPSPEED_ZERO_GRAPH_H_
