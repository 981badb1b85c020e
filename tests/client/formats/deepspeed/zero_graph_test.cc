#include "client/formats/deepspeed/zero_graph.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/formats/pickle_edit.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

// A value as Python writes it: dicts, lists, numbers, texts, calls.
std::string Text(const PickleGraph& graph, PickleId id) {
  if (id == kNoValue) return "nothing";
  const PickleNode& node = graph.node(id);
  if (const std::vector<PickleId>* items = graph.DictItems(id); items != nullptr) {
    std::vector<std::string> entries;
    for (size_t k = 0; k < items->size(); k += 2) {
      entries.push_back(absl::StrCat(Text(graph, (*items)[k]), ":", Text(graph, (*items)[k + 1])));
    }
    return absl::StrCat(node.call == nullptr ? "" : "O", "{", absl::StrJoin(entries, ", "), "}");
  }
  if (node.kind == PickleKind::kInteger) return absl::StrCat(node.integer);
  if (node.kind == PickleKind::kText) return std::string(node.text);
  std::string name;
  std::vector<PickleId> items = node.items;
  if (node.kind == PickleKind::kCall) {
    name = std::string(graph.node(node.call->function).name);
    items = graph.node(node.call->arguments).items;
    items.insert(items.end(), node.call->states.begin(), node.call->states.end());
  }
  std::vector<std::string> parts;
  for (const PickleId item : items) parts.push_back(Text(graph, item));
  return absl::StrCat(name, "[", absl::StrJoin(parts, ", "), "]");
}

class ZeroGraphTest : public ::testing::Test {
 protected:
  // Two parameters "a" of 2 x 3 and "b" of 5 in a group each.
  ZeroGraphTest() {
    for (int32_t k = 0; k < 2; ++k) {
      ZeroParameter parameter;
      parameter.name = k == 0 ? "a" : "b";
      parameter.shape = k == 0 ? std::vector<int64_t>{2, 3} : std::vector<int64_t>{5};
      parameter.num_elements = k == 0 ? 6 : 5;
      parameter.is_trained = true;
      parameter.group = parameter.sub_group = k;
      checkpoint_.parameters.push_back(parameter);
    }
    checkpoint_.num_groups = checkpoint_.num_sub_groups = 2;
    checkpoint_.world_size = 1;
  }

  ShardLayout LayOut(int stage, int64_t world_size) {
    checkpoint_.stage = stage;
    const auto layout = LayOutShards(checkpoint_, world_size);
    EXPECT_THAT(layout, IsOk());
    return layout.ok() ? *layout : ShardLayout();
  }
  PickleId Empty() { return graph_.AddItems(PickleKind::kList, {}); }
  // The state dict of an engine of one rank.
  PickleId StateDict(int stage) {
    const PickleId group = AddDict(&graph_, {{"lr", graph_.AddInteger(7)}, {"params", Empty()}});
    const PickleId other = AddDict(&graph_, {{"params", Empty()}});
    const PickleId groups = graph_.AddItems(PickleKind::kList, {group, other});
    const PickleId base = AddDict(&graph_, {{"state", AddDict(&graph_)}, {"param_groups", groups}});
    if (stage == 3) {
      return AddDict(&graph_, {{"zero_stage", graph_.AddInteger(3)},
                               {"partition_count", graph_.AddInteger(1)},
                               {"optimizer_state_dict", base},
                               {"fp32_flat_groups", Empty()}});
    }
    return AddDict(&graph_, {{"base_optimizer_state", base},
                             {"single_partition_of_fp32_groups", Empty()},
                             {"zero_stage", graph_.AddInteger(stage)},
                             {"group_paddings", Empty()},
                             {"param_alignment_paddings", Empty()},
                             {"partition_count", AddIntegers(&graph_, {1, 1})},
                             {"param_slice_mappings", Empty()}});
  }

  ZeroCheckpoint checkpoint_;
  PickleGraph graph_;
};

TEST_F(ZeroGraphTest, SetsShapesAndWorldSizeOfModelStates) {
  const PickleId root =
      AddDict(&graph_, {{"param_shapes", Empty()}, {"dp_world_size", graph_.AddInteger(1)}});
  SetModelLayout(checkpoint_, LayOut(3, 4), &graph_, root);
  EXPECT_EQ(Text(graph_, root),
            "{param_shapes:[O{a:Size[[2, 3]]}, O{b:Size[[5]]}], dp_world_size:4}");
  // What an old release had not is not added.
  const PickleId old = AddDict(&graph_, {{"module", Empty()}});
  SetModelLayout(checkpoint_, LayOut(3, 4), &graph_, old);
  EXPECT_EQ(Text(graph_, old), "{module:[]}");
}

TEST_F(ZeroGraphTest, SetsTheSubGroupsOfEachGroup) {
  const PickleId dict = StateDict(3);
  ShardLayout layout = LayOut(3, 2);
  SetOptimizerLayout(layout, &graph_, dict);
  SetRankLayout(checkpoint_, layout, 1, &graph_, dict);
  EXPECT_EQ(Text(graph_, dict),
            "{zero_stage:3, partition_count:2, optimizer_state_dict:{state:{}, "
            "param_groups:[{lr:7, params:[0]}, {params:[1]}]}, fp32_flat_groups:[]}");
  layout.flats.push_back(layout.flats[0]);
  SetOptimizerLayout(layout, &graph_, dict);
  EXPECT_EQ(Text(graph_, graph_.Find(dict, "optimizer_state_dict")),
            "{state:{}, param_groups:[{lr:7, params:[0, 2]}, {params:[1]}]}");
}

TEST_F(ZeroGraphTest, SetsWhatIsARanksOwnBelowStage3) {
  const PickleId dict = StateDict(2);
  const ShardLayout layout = LayOut(2, 2);  // partitions of 4 elements
  SetOptimizerLayout(layout, &graph_, dict);
  SetRankLayout(checkpoint_, layout, 0, &graph_, dict);
  SetRankLayout(checkpoint_, layout, 1, &graph_, dict);
  EXPECT_EQ(Text(graph_, dict),
            "{base_optimizer_state:{state:{}, param_groups:[{lr:7, params:[0]}, {params:[1]}]}, "
            "single_partition_of_fp32_groups:[], zero_stage:2, group_paddings:[2, 3], "
            "param_alignment_paddings:[[0], [0]], partition_count:[2, 2], "
            "param_slice_mappings:[O{a:fragment_address[{numel:2, start:0}]}, "
            "O{b:fragment_address[{numel:1, start:0}]}]}");
  EXPECT_EQ(AlignmentPaddings(graph_, dict), (std::vector<std::vector<int64_t>>{{0}, {0}}));
}

TEST_F(ZeroGraphTest, TakesTheOptimizerApartAndPutsItTogetherAgain) {
  for (const int stage : {1, 2, 3}) {
    const PickleId dict = StateDict(stage);
    const std::string before = Text(graph_, dict);
    MakeUniversalOptimizer(stage, &graph_, dict);
    const std::string groups = "param_groups:[{lr:7, params:[]}, {params:[]}]}";
    if (stage == 3) {
      EXPECT_EQ(Text(graph_, dict), before.substr(0, before.size() - 1) + ", " + groups);
    } else {
      EXPECT_EQ(Text(graph_, dict),
                absl::StrCat("{zero_stage:", stage,
                             ", group_paddings:[], param_alignment_paddings:[], "
                             "partition_count:[1, 1], ",
                             groups));
      // Slice mappings come with the ranks'.
      SetItem(&graph_, dict, "param_slice_mappings", Empty());
    }
    UndoUniversalOptimizer(stage, &graph_, dict);
    EXPECT_EQ(Text(graph_, dict), before);
  }
}

}  // namespace
}  // namespace zerocast
