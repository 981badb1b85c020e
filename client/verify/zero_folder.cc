#include "client/verify/zero_folder.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/verify/open_file.h"
#include "client/verify/torch_reader.h"
#include "kernels/base/status_macros.h"

namespace zerocast::verify {
namespace {

using Kind = TorchNode::Kind;

// A parameter as param_shapes lists it, with what of a flat tensor is its own.
struct Listed {
  std::string name;
  Shape shape;
  size_t list = 0;  // of param_shapes: a sub-group, or a group
};

class FolderReader {
 public:
  FolderReader(std::string folder, std::string tag) : folder_(std::move(folder)) {
    if (std::filesystem::is_directory(folder_ + "/" + tag)) folder_ += "/" + tag;
  }

  absl::StatusOr<ZeroFolderContent> Run() {
    ZC_RETURN_IF_ERROR(ReadFiles());
    const TorchNode& zero = models_[0]["ds_config"]["zero_optimization"];
    content_.round_robin_gradients = zero["round_robin_gradients"].number != 0;
    content_.parameter_alignment = zero["parameter_alignment"].number != 0;
    ListTrained();
    ZC_RETURN_IF_ERROR(AddModule());
    ZC_RETURN_IF_ERROR(is_universal_ ? AddUniversalStates()
                       : stage3_     ? AddStatesOfStage3()
                                     : AddStatesBelow());
    AddPlaces();
    for (ZeroWeight& weight : content_.weights) {
      if (weight.group >= 0) weight.value = weight.states["fp32"];
    }
    return std::move(content_);
  }

 private:
  bool Exists(const std::string& name) const {
    return std::filesystem::exists(folder_ + "/" + name);
  }

  absl::Status ReadFiles() {
    const auto read = [this](const std::string& name,
                             std::vector<TorchNode>* nodes) -> absl::Status {
      ZC_ASSIGN_OR_RETURN(TorchNode node, ReadTorchTree(folder_ + "/" + name));
      nodes->push_back(std::move(node));
      return absl::OkStatus();
    };
    const std::string whole = "mp_rank_00_model_states.pt";
    stage3_ = !Exists(whole);
    if (!stage3_) ZC_RETURN_IF_ERROR(read(whole, &models_));
    for (int rank = 0;; ++rank) {
      const std::string name = absl::StrCat("zero_pp_rank_", rank, "_mp_rank_00_model_states.pt");
      if (!stage3_ || !Exists(name)) break;
      ZC_RETURN_IF_ERROR(read(name, &models_));
    }
    if (models_.empty()) return Corrupt(folder_, "it holds no model states");
    is_universal_ = Exists("zero");
    if (is_universal_) {
      ZC_ASSIGN_OR_RETURN(optimizer_, ReadTorchTree(folder_ + "/zero/optimizer_state.pt"));
      return absl::OkStatus();
    }
    for (int rank = 0;; ++rank) {
      const std::string name = absl::StrCat("zero_pp_rank_", rank, "_mp_rank_00_optim_states.pt");
      if (Exists(name)) {
        ZC_RETURN_IF_ERROR(read(name, &optimizers_));
      } else if (Exists("bf16_" + name)) {
        ZC_RETURN_IF_ERROR(read("bf16_" + name, &optimizers_));
      } else {
        return absl::OkStatus();
      }
    }
  }

  static Shape ShapeOf(const TorchNode& node) {
    Shape shape;
    for (const auto& [index, extent] : node.children) shape.push_back(extent.number);
    return shape;
  }

  void ListTrained() {
    const TorchNode& lists = models_[0]["param_shapes"];
    for (size_t list = 0; list < lists.children.size(); ++list) {
      for (const auto& [name, shape] : lists.children[list].second.children) {
        trained_.push_back({name, ShapeOf(shape), list});
      }
    }
  }

  // All weights, in the order of the state dict, with values of those that are not trained.
  absl::Status AddModule() {
    std::map<std::string, const Listed*> trained;
    for (const Listed& listed : trained_) trained[listed.name] = &listed;
    std::map<std::string, std::string> holders;
    for (const auto& [alias, name] : models_[0]["shared_params"].children) {
      holders[alias] = name.text;
    }
    std::vector<std::string> buffers;
    for (const auto& [index, name] : models_[0]["buffer_names"].children) {
      buffers.push_back(name.text);
    }
    const TorchNode& frozen = models_[0]["frozen_param_shapes"];
    for (const auto& [name, node] : models_[0]["module"].children) {
      if (node.kind != Kind::kTensor || holders.count(name) != 0) continue;
      ZeroWeight weight;
      weight.name = name;
      weight.dtype = node.tensor.dtype;
      weight.is_buffer = std::find(buffers.begin(), buffers.end(), name) != buffers.end();
      const auto found = trained.find(name);
      const bool is_placeholder = stage3_ && !weight.is_buffer;
      if (found != trained.end()) {
        weight.shape = found->second->shape;
      } else if (is_placeholder) {
        if (frozen[name].kind != Kind::kMany) continue;
        weight.shape = ShapeOf(frozen[name]);
        ZC_RETURN_IF_ERROR(AddFragments(&weight));
      } else {
        weight.shape = node.tensor.shape;
        weight.value = {{node.tensor, 0, NumElements(weight.shape)}};
      }
      for (const auto& [alias, holder] : holders) {
        if (holder == name) weight.aliases.push_back(alias);
      }
      number_of_[name] = content_.weights.size();
      content_.weights.push_back(std::move(weight));
    }
    return absl::OkStatus();
  }

  // A frozen parameter of stage 3 lies in equal parts in the files of all ranks.
  absl::Status AddFragments(ZeroWeight* weight) const {
    int64_t left = NumElements(weight->shape);
    for (size_t rank = 0; rank < models_.size() && left > 0; ++rank) {
      const TorchNode& node = models_[rank]["frozen_param_fragments"][weight->name];
      if (node.kind != Kind::kTensor) break;
      const int64_t count = std::min(left, NumElements(node.tensor.shape));
      weight->value.push_back({node.tensor, 0, count});
      left -= count;
    }
    if (left == 0 || weight->value.empty()) return absl::OkStatus();
    return Corrupt(folder_, absl::StrCat("frozen ", weight->name, " lacks ", left, " elements"));
  }

  ZeroWeight* WeightOf(const Listed& listed) {
    const auto found = number_of_.find(listed.name);
    return found == number_of_.end() ? nullptr : &content_.weights[found->second];
  }

  // The tensors of a flat tensor by state.
  std::map<std::string, StoredTensor> StatesOf(const TorchNode& master,
                                               const TorchNode& moments) const {
    std::map<std::string, StoredTensor> states;
    if (master.kind == Kind::kTensor) states["fp32"] = master.tensor;
    for (const auto& [name, node] : moments.children) {
      if (node.kind == Kind::kTensor && node.tensor.shape.size() == 1) states[name] = node.tensor;
    }
    return states;
  }

  absl::Status AddStatesOfStage3() {
    const auto num_ranks = static_cast<int64_t>(optimizers_.size());
    if (num_ranks == 0) return absl::OkStatus();
    std::map<size_t, int64_t> group_of;  // sub-group -> group
    const TorchNode& base = optimizers_[0]["optimizer_state_dict"]["optimizer_state_dict"];
    for (size_t group = 0; group < base["param_groups"].children.size(); ++group) {
      for (const auto& [index, member] :
           base["param_groups"].children[group].second["params"].children) {
        group_of[static_cast<size_t>(member.number)] = static_cast<int64_t>(group);
      }
    }
    std::map<size_t, int64_t> at;  // by sub-group
    for (const Listed& listed : trained_) {
      const int64_t size = NumElements(listed.shape);
      const int64_t part = (size + num_ranks - 1) / num_ranks;
      ZeroWeight* const weight = WeightOf(listed);
      if (weight == nullptr) return Corrupt(folder_, "module lacks " + listed.name);
      weight->group = group_of[listed.list];
      for (int64_t rank = 0; rank < num_ranks; ++rank) {
        const int64_t count = std::min(part, size - rank * part);
        if (count <= 0) break;
        const TorchNode& saved = optimizers_[static_cast<size_t>(rank)]["optimizer_state_dict"];
        const std::string number = absl::StrCat(listed.list);
        for (const auto& [name, tensor] :
             StatesOf(saved["fp32_flat_groups"][number],
                      saved["optimizer_state_dict"]["state"][number])) {
          weight->states[name].push_back({tensor, at[listed.list], count});
        }
      }
      at[listed.list] += part;
    }
    return absl::OkStatus();
  }

  absl::Status AddStatesBelow() {
    if (optimizers_.empty()) return absl::OkStatus();
    const TorchNode& first = optimizers_[0]["optimizer_state_dict"];
    std::map<size_t, int64_t> at, met;  // by group
    for (const Listed& listed : trained_) {
      const std::string number = absl::StrCat(listed.list);
      ZeroWeight* const weight = WeightOf(listed);
      if (weight == nullptr) return Corrupt(folder_, "module lacks " + listed.name);
      weight->group = static_cast<int64_t>(listed.list);
      const int64_t begin = at[listed.list], end = begin + NumElements(listed.shape);
      // The ranks' parts one behind the other; masters are saved without the padding at the end.
      std::map<std::string, int64_t> behind;  // by state
      for (const TorchNode& optimizer : optimizers_) {
        const TorchNode& saved = optimizer["optimizer_state_dict"];
        for (const auto& [name, tensor] :
             StatesOf(saved["single_partition_of_fp32_groups"][number],
                      saved["base_optimizer_state"]["state"][number])) {
          const int64_t before = behind[name], size = NumElements(tensor.shape);
          behind[name] += size;
          const int64_t from = std::max(begin, before), to = std::min(end, before + size);
          if (from < to) weight->states[name].push_back({tensor, from - before, to - from});
        }
      }
      const TorchNode& paddings = first["param_alignment_paddings"][number];
      at[listed.list] = end + paddings[absl::StrCat(met[listed.list]++)].number;
    }
    return absl::OkStatus();
  }

  absl::Status AddUniversalStates() {
    std::map<size_t, int64_t> group_of;
    const TorchNode& groups = optimizer_["param_groups"];
    for (size_t group = 0; group < groups.children.size(); ++group) {
      for (const auto& [index, member] : groups.children[group].second["params"].children) {
        group_of[static_cast<size_t>(member.number)] = static_cast<int64_t>(group);
      }
    }
    for (const Listed& listed : trained_) {
      ZeroWeight* const weight = WeightOf(listed);
      if (weight == nullptr) return Corrupt(folder_, "module lacks " + listed.name);
      weight->group = group_of[listed.list];
      const std::string folder = folder_ + "/zero/" + listed.name;
      for (const auto& entry : std::filesystem::directory_iterator(folder)) {
        const std::string state = entry.path().stem();
        if (state == "step") continue;
        ZC_ASSIGN_OR_RETURN(const TorchNode tree, ReadTorchTree(entry.path()));
        const TorchNode& node = tree.kind == Kind::kTensor ? tree : tree["param"];
        if (node.kind != Kind::kTensor) return Corrupt(entry.path().string(), "it has no tensor");
        weight->states[state] = {{node.tensor, 0, NumElements(listed.shape)}};
      }
    }
    return absl::OkStatus();
  }

  // param_shapes of stages 1 and 2 has a group's members in the order of the flat tensor.
  void AddPlaces() {
    std::map<int64_t, std::vector<ZeroWeight*>> groups;
    for (const Listed& listed : trained_) {
      ZeroWeight* const weight = WeightOf(listed);
      if (weight != nullptr && weight->group >= 0) groups[weight->group].push_back(weight);
    }
    const int64_t world_size = models_[0]["dp_world_size"].number;
    for (auto& [group, members] : groups) {
      const std::vector<int64_t> places = InTurn(static_cast<int64_t>(members.size()), world_size,
                                                 !stage3_ && content_.round_robin_gradients);
      for (size_t k = 0; k < members.size(); ++k) members[k]->place = places[k];
    }
  }

  std::string folder_;
  bool stage3_ = false, is_universal_ = false;
  std::vector<TorchNode> models_, optimizers_;  // by rank
  TorchNode optimizer_;                         // of the universal form
  std::vector<Listed> trained_;
  std::map<std::string, size_t> number_of_;  // in content_.weights
  ZeroFolderContent content_;
};

}  // namespace

absl::StatusOr<ZeroFolderContent> ReadZeroFolder(const std::string& folder,
                                                 const std::string& tag) {
  return FolderReader(folder, tag).Run();
}

absl::StatusOr<std::string> ReadRuns(const std::vector<StoredRun>& runs) {
  std::string bytes;
  for (const StoredRun& run : runs) {
    const int64_t size = SizeOf(run.tensor.dtype);
    if (!run.tensor.strides.empty() || run.first < 0 ||
        run.count > NumElements(run.tensor.shape) - run.first) {
      return Corrupt(run.tensor.path, "a tensor of it is too small, or has gaps");
    }
    ZC_ASSIGN_OR_RETURN(const OpenFile file, OpenFile::Open(run.tensor.path));
    ZC_ASSIGN_OR_RETURN(const std::string part,
                        file.Read(run.tensor.file_begin + run.first * size, run.count * size));
    bytes += part;
  }
  return bytes;
}

std::vector<int64_t> InTurn(int64_t size, int64_t world_size, bool round_robin_gradients) {
  std::vector<int64_t> places;
  for (int64_t place = 0; place < size; ++place) places.push_back(place);
  if (!round_robin_gradients) return places;
  std::stable_sort(places.begin(), places.end(),
                   [world_size](int64_t a, int64_t b) { return a % world_size < b % world_size; });
  return places;
}

}  // namespace zerocast::verify
