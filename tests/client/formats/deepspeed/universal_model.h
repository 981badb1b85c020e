#ifndef ZEROCAST_TESTS_CLIENT_FORMATS_DEEPSPEED_UNIVERSAL_MODEL_H_
#define ZEROCAST_TESTS_CLIENT_FORMATS_DEEPSPEED_UNIVERSAL_MODEL_H_

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "client/formats/pickle_edit.h"
#include "client/formats/torch_writer.h"

namespace zerocast {

// A model that a test makes up, and its universal checkpoint, written without the product's writer
// of such folders.
inline constexpr const char* kStates[] = {"fp32", "exp_avg", "exp_avg_sq"};

struct Weight {
  std::string name;
  std::vector<int64_t> shape;
  int64_t num_elements = 1;
  int group = 0;  // -1: frozen
  std::string states[3];
  std::string stored;  // bfloat16
};

struct Model {
  int stage = 3;
  int64_t sub_group_size = 1;
  bool aligned = false, round_robin = false;
  int num_groups = 1;
  std::vector<Weight> weights;
};

// A file of what graph.root() holds, with the bytes of each storage by its key.
inline absl::Status WriteFile(const std::string& path, const PickleGraph& graph,
                              const std::map<std::string, std::string>& storages) {
  std::vector<TorchStorageData> data;
  for (const auto& [key, bytes] : storages) {
    TorchStorageData storage;
    storage.key = key;
    storage.num_bytes = static_cast<int64_t>(bytes.size());
    storage.next = [&bytes = bytes, at = size_t{0}](int64_t num_bytes, std::string* out) mutable {
      *out += bytes.substr(at, static_cast<size_t>(num_bytes));
      at += static_cast<size_t>(num_bytes);
      return absl::OkStatus();
    };
    data.push_back(std::move(storage));
  }
  return WriteTorchFile(path, graph, data);
}

// The trained weights of each flat tensor on one rank, in order: written down here once more.
inline std::vector<std::vector<const Weight*>> FlatsOnOneRank(const Model& model) {
  std::vector<std::vector<const Weight*>> flats;
  for (int group = 0; group < model.num_groups; ++group) {
    std::vector<const Weight*> members;
    int64_t all = 0, filled = 0;
    for (const Weight& weight : model.weights) {
      if (weight.group == group) members.push_back(&weight), all += weight.num_elements;
    }
    bool is_open = false;
    for (const Weight* weight : members) {
      if (!is_open) flats.emplace_back();
      flats.back().push_back(weight);
      filled += weight->num_elements;
      is_open = model.stage != 3 || all <= model.sub_group_size || filled < model.sub_group_size;
      if (!is_open) filled = 0;
    }
  }
  return flats;
}

inline PickleId AddConfig(const Model& model, PickleGraph* graph) {
  const PickleId zero =
      AddDict(graph, {{"stage", graph->AddInteger(model.stage)},
                      {"sub_group_size", graph->AddInteger(model.sub_group_size)},
                      {"parameter_alignment", graph->AddBool(model.aligned)},
                      {"round_robin_gradients", graph->AddBool(model.round_robin)}});
  return AddDict(graph, {{"zero_optimization", zero},
                         {"bf16", AddDict(graph, {{"enabled", graph->AddBool(true)}})}});
}

// Model states of one rank.
inline absl::Status WriteModelStates(const Model& model, const std::string& path) {
  PickleGraph graph;
  std::map<std::string, std::string> storages;
  std::vector<std::pair<std::string, PickleId>> module, frozen, fragments;
  const auto shape_of = [&](const Weight& weight) {
    std::vector<PickleId> extents;
    for (const int64_t extent : weight.shape) extents.push_back(graph.AddInteger(extent));
    return graph.AddCall(graph.AddGlobal("torch", "Size"),
                         {graph.AddItems(PickleKind::kTuple, extents)});
  };
  for (const Weight& weight : model.weights) {
    const std::string key = absl::StrCat(storages.size());
    const std::string& bytes = storages[key] = model.stage == 3 ? "" : weight.stored;
    module.emplace_back(
        weight.name,
        AddTorchTensor(&graph, key, DType::kBFloat16, static_cast<int64_t>(bytes.size()) / 2, 0,
                       model.stage == 3 ? std::vector<int64_t>{0} : weight.shape));
    if (weight.group >= 0) continue;
    frozen.emplace_back(weight.name, shape_of(weight));
    if (model.stage != 3) continue;
    const std::string fragment = absl::StrCat(storages.size());
    storages[fragment] = weight.stored;
    fragments.emplace_back(
        weight.name, AddTorchTensor(&graph, fragment, DType::kBFloat16, weight.num_elements, 0,
                                    {weight.num_elements}));
  }
  std::vector<PickleId> shapes;
  for (const auto& flat : FlatsOnOneRank(model)) {
    std::vector<std::pair<std::string, PickleId>> group;
    for (const Weight* weight : flat) group.emplace_back(weight->name, shape_of(*weight));
    shapes.push_back(AddOrderedDict(&graph, group));
  }
  graph.set_root(
      AddDict(&graph, {{"module", AddOrderedDict(&graph, module)},
                       {"buffer_names", AddIntegers(&graph, {})},
                       {"param_shapes", graph.AddItems(PickleKind::kList, shapes)},
                       {"frozen_param_shapes", AddOrderedDict(&graph, frozen)},
                       {"frozen_param_fragments",
                        model.stage == 3 ? AddOrderedDict(&graph, fragments) : graph.AddNone()},
                       {"shared_params", AddDict(&graph)},
                       {"global_steps", graph.AddInteger(4)},
                       {"dp_world_size", graph.AddInteger(1)},
                       {"ds_config", AddConfig(model, &graph)},
                       {"ds_version", graph.AddText("0.19.8")}}));
  return WriteFile(path, graph, storages);
}

inline absl::Status WriteOptimizer(const Model& model, const std::string& path) {
  PickleGraph graph;
  std::vector<PickleId> groups, states, paddings;
  const auto flats = FlatsOnOneRank(model);
  for (int group = 0; group < model.num_groups; ++group) {
    std::vector<int64_t> members;
    for (size_t flat = 0; flat < flats.size(); ++flat) {
      if (flats[flat][0]->group == group) members.push_back(static_cast<int64_t>(flat));
    }
    groups.push_back(
        AddDict(&graph, {{"lr", graph.AddFloat(group)}, {"params", AddIntegers(&graph, members)}}));
  }
  for (size_t flat = 0; flat < flats.size(); ++flat) {
    states.push_back(graph.AddInteger(static_cast<int64_t>(flat)));
    states.push_back(AddDict(&graph, {{"step", graph.AddInteger(4)},
                                      {"exp_avg", graph.AddNone()},
                                      {"exp_avg_sq", graph.AddNone()}}));
    std::vector<int64_t> padding;
    int64_t at = 0;
    for (const Weight* weight : flats[flat]) {
      at += weight->num_elements;
      const bool is_last = weight == flats[flat].back();
      padding.push_back(model.aligned && !is_last ? (8 - at % 8) % 8 : 0);
      at += padding.back();
    }
    paddings.push_back(AddIntegers(&graph, padding));
  }
  std::vector<std::pair<std::string, PickleId>> entries = {
      {"zero_stage", graph.AddInteger(model.stage)}};
  const PickleId list = graph.AddItems(PickleKind::kList, groups);
  if (model.stage == 3) {
    const PickleId state = graph.AddItems(PickleKind::kDict, states);
    entries.emplace_back("partition_count", graph.AddInteger(1));
    entries.emplace_back("optimizer_state_dict",
                         AddDict(&graph, {{"state", state}, {"param_groups", list}}));
    entries.emplace_back("fp32_flat_groups", graph.AddNone());
  } else {
    entries.emplace_back("partition_count", AddIntegers(&graph, {1}));
    entries.emplace_back("group_paddings", AddIntegers(&graph, {}));
    entries.emplace_back("param_alignment_paddings", graph.AddItems(PickleKind::kList, paddings));
  }
  entries.emplace_back("param_groups", list);
  graph.set_root(AddDict(&graph, entries));
  return WriteFile(path, graph, {});
}

// The universal form of what one rank saved.
inline absl::Status WriteUniversal(const Model& model, const std::string& folder) {
  std::filesystem::create_directories(folder + "/zero");
  const std::string prefix = model.stage == 3 ? "zero_pp_rank_0_" : "";
  if (absl::Status made =
          WriteModelStates(model, absl::StrCat(folder, "/", prefix, "mp_rank_00_model_states.pt"));
      !made.ok()) {
    return made;
  }
  for (const Weight& weight : model.weights) {
    if (weight.group < 0) continue;
    const std::string own = absl::StrCat(folder, "/zero/", weight.name);
    std::filesystem::create_directories(own);
    for (int state = 0; state < 3; ++state) {
      PickleGraph graph;
      const PickleId tensor = AddTorchTensor(&graph, "0", DType::kFloat32, weight.num_elements, 0,
                                             {weight.num_elements});
      graph.set_root(model.stage == 3 ? tensor : AddDict(&graph, {{"param", tensor}}));
      if (absl::Status made = WriteFile(absl::StrCat(own, "/", kStates[state], ".pt"), graph,
                                        {{"0", weight.states[state]}});
          !made.ok()) {
        return made;
      }
    }
    PickleGraph step;
    step.set_root(step.AddInteger(4));
    if (model.stage == 3) continue;
    if (absl::Status made = WriteFile(own + "/step.pt", step, {}); !made.ok()) return made;
  }
  return WriteOptimizer(model, folder + "/zero/optimizer_state.pt");
}

}  // namespace zerocast

#endif  // ZEROCAST_TESTS_CLIENT_FORMATS_DEEPSPEED_UNIVERSAL_MODEL_H_
