#include "client/formats/deepspeed/zero_graph.h"

#include <unordered_map>
#include <utility>

#include "client/formats/pickle_edit.h"

namespace zerocast {
namespace {

constexpr char kPartitionCount[] = "partition_count";
constexpr char kAlignmentPaddings[] = "param_alignment_paddings";
constexpr char kSliceMappings[] = "param_slice_mappings";
constexpr char kParamGroups[] = "param_groups";

PickleId AddIntegerLists(PickleGraph* graph, const std::vector<std::vector<int64_t>>& lists) {
  std::vector<PickleId> items;
  for (const std::vector<int64_t>& list : lists) items.push_back(AddIntegers(graph, list));
  return graph->AddItems(PickleKind::kList, std::move(items));
}

PickleId AddShape(PickleGraph* graph, PickleId torch_size, const std::vector<int64_t>& shape) {
  std::vector<PickleId> extents;
  for (const int64_t extent : shape) extents.push_back(graph->AddInteger(extent));
  return graph->AddCall(torch_size, {graph->AddItems(PickleKind::kTuple, std::move(extents))});
}

// deepspeed/utils/tensor_fragment.py, a dataclass.
PickleId AddFragmentAddress(PickleGraph* graph, PickleId type, const FlatPart& part) {
  const PickleId address = graph->AddCall(type, {});
  const PickleId fields = AddDict(graph, {{"numel", graph->AddInteger(part.num_elements)},
                                          {"start", graph->AddInteger(part.flat_offset)}});
  graph->node(address).call->is_new = true;
  graph->node(address).call->states = {fields};
  return address;
}

}  // namespace

OptimizerKeys OptimizerKeysOf(int stage) {
  if (stage == 3) return {"optimizer_state_dict", "fp32_flat_groups"};
  return {"base_optimizer_state", "single_partition_of_fp32_groups"};
}

void SetModelLayout(const ZeroCheckpoint& checkpoint, const ShardLayout& layout, PickleGraph* graph,
                    PickleId root) {
  ReplaceItem(graph, root, "dp_world_size", graph->AddInteger(layout.world_size));
  const PickleId torch_size = graph->AddGlobal("torch", "Size");
  std::vector<PickleId> all;
  for (const FlatLayout& flat : layout.flats) {
    std::vector<std::pair<std::string, PickleId>> shapes;
    for (const int32_t index : flat.parameters) {
      const ZeroParameter& parameter = checkpoint.parameters[static_cast<size_t>(index)];
      shapes.emplace_back(parameter.name, AddShape(graph, torch_size, parameter.shape));
    }
    all.push_back(AddOrderedDict(graph, shapes));
  }
  ReplaceItem(graph, root, "param_shapes", graph->AddItems(PickleKind::kList, std::move(all)));
}

void SetOptimizerLayout(const ShardLayout& layout, PickleGraph* graph, PickleId state_dict) {
  const PickleId count = graph->Find(state_dict, kPartitionCount);
  if (count != kNoValue) {
    const bool by_group = graph->node(count).kind == PickleKind::kList;
    const std::vector<int64_t> counts(layout.flats.size(), layout.world_size);
    ReplaceItem(graph, state_dict, kPartitionCount,
                by_group ? AddIntegers(graph, counts) : graph->AddInteger(layout.world_size));
  }
  std::vector<std::vector<int64_t>> paddings;
  for (const FlatLayout& flat : layout.flats) paddings.push_back(flat.paddings);
  ReplaceItem(graph, state_dict, kAlignmentPaddings, AddIntegerLists(graph, paddings));

  const PickleId base = graph->Find(state_dict, OptimizerKeysOf(layout.stage).base);
  const PickleId groups = graph->Find(base, kParamGroups);
  if (groups == kNoValue) return;
  const std::vector<PickleId> items = graph->node(groups).items;
  for (size_t group = 0; group < items.size(); ++group) {
    std::vector<int64_t> tensors;
    for (size_t flat = 0; flat < layout.flats.size(); ++flat) {
      if (layout.flats[flat].group == static_cast<int32_t>(group)) {
        tensors.push_back(static_cast<int64_t>(flat));
      }
    }
    ReplaceItem(graph, items[group], "params", AddIntegers(graph, tensors));
  }
}

void SetRankLayout(const ZeroCheckpoint& checkpoint, const ShardLayout& layout, int64_t rank,
                   PickleGraph* graph, PickleId state_dict) {
  if (layout.stage == 3) return;
  std::vector<int64_t> paddings;
  std::vector<PickleId> mappings;
  const PickleId type = graph->AddGlobal("deepspeed.utils.tensor_fragment", "fragment_address");
  for (const FlatLayout& flat : layout.flats) {
    paddings.push_back(EndPadding(flat, rank));
    std::unordered_map<int32_t, FlatPart> part_of;
    for (const FlatPart& part : PartsOf(checkpoint, layout, flat, rank)) {
      part_of.emplace(part.parameter, part);
    }
    std::vector<std::pair<std::string, PickleId>> addresses;
    for (const int32_t parameter : flat.given) {
      const auto part = part_of.find(parameter);
      if (part == part_of.end()) continue;
      addresses.emplace_back(checkpoint.parameters[static_cast<size_t>(parameter)].name,
                             AddFragmentAddress(graph, type, part->second));
    }
    mappings.push_back(AddOrderedDict(graph, addresses));
  }
  ReplaceItem(graph, state_dict, "group_paddings", AddIntegers(graph, paddings));
  SetItem(graph, state_dict, kSliceMappings,
          graph->AddItems(PickleKind::kList, std::move(mappings)));
}

std::vector<std::vector<int64_t>> AlignmentPaddings(const PickleGraph& graph, PickleId state_dict) {
  std::vector<std::vector<int64_t>> paddings;
  const PickleId lists = graph.Find(state_dict, kAlignmentPaddings);
  if (lists == kNoValue) return paddings;
  for (const PickleId list : graph.node(lists).items) {
    paddings.emplace_back();
    for (const PickleId item : graph.node(list).items) {
      paddings.back().push_back(graph.node(item).integer);
    }
  }
  return paddings;
}

void UndoUniversalOptimizer(int stage, PickleGraph* graph, PickleId state_dict) {
  const PickleId groups = graph->Find(state_dict, kParamGroups);
  RemoveItem(graph, state_dict, kParamGroups);
  if (stage == 3) return;  // it holds all that rank 0 saved
  const OptimizerKeys keys = OptimizerKeysOf(stage);
  InsertItem(graph, state_dict, keys.base,
             AddDict(graph, {{"state", AddDict(graph)}, {kParamGroups, groups}}), "zero_stage");
  InsertItem(graph, state_dict, keys.flat, graph->AddItems(PickleKind::kList, {}), "zero_stage");
}

void MakeUniversalOptimizer(int stage, PickleGraph* graph, PickleId state_dict) {
  const OptimizerKeys keys = OptimizerKeysOf(stage);
  const PickleId groups = graph->Find(graph->Find(state_dict, keys.base), kParamGroups);
  if (stage != 3) {
    for (const absl::string_view key : {keys.base, absl::string_view(kSliceMappings), keys.flat}) {
      RemoveItem(graph, state_dict, key);
    }
  }
  SetItem(graph, state_dict, kParamGroups, groups);
}

}  // namespace zerocast
