#include "client/formats/deepspeed/zero_states.h"

#include <cmath>
#include <cstring>
#include <unordered_set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/formats/deepspeed/pickle_view.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"

namespace zerocast {
namespace {

constexpr int kMaxStage = 3;
constexpr int64_t kMaxStepStorageBytes = 1 << 16;
constexpr size_t kMaxMoments = 64;  // tensors that an optimizer keeps of a parameter; Adam has 2

absl::Status Unsupported(absl::string_view path, absl::string_view what) {
  return WithReason(absl::UnimplementedError(absl::StrCat("read ", path, ": ", what)),
                    "UNSUPPORTED");
}

// The entries of a dict by name.
class Fields {
 public:
  using Entries = std::vector<std::pair<std::string, PickleId>>;
  explicit Fields(Entries entries) : entries_(std::move(entries)) {}

  PickleId operator[](absl::string_view key) const {
    for (const auto& [name, value] : entries_) {
      if (name == key) return value;
    }
    return kNoValue;
  }
  bool Has(absl::string_view key) const { return (*this)[key] != kNoValue; }

 private:
  Entries entries_;  // a file's top level has some twenty
};

class StatesReader {
 public:
  explicit StatesReader(const InputFile& input) : input_(input) {}

  absl::Status Open() {
    ZC_ASSIGN_OR_RETURN(TorchFile file, TorchFile::Read(input_));
    ZC_RETURN_IF_ERROR(CheckHarmless(file));
    file_ = std::make_shared<const TorchFile>(std::move(file));
    view_ = std::make_unique<const PickleView>(*file_);
    return absl::OkStatus();
  }

  absl::StatusOr<ModelStates> Model();
  absl::StatusOr<OptimStates> Optim();

 private:
  const PickleView& view() const { return *view_; }

  absl::StatusOr<int64_t> IntegerOr(PickleId id, absl::string_view what, int64_t missing) const {
    return view().IsNone(id) ? missing : view().Integer(id, what);
  }
  absl::StatusOr<std::vector<NamedShape>> Shapes(PickleId id, absl::string_view what) const;
  absl::StatusOr<ZeroSettings> Settings(PickleId config) const;
  // Whether a function of torch would make a tensor of some kind of it (_rebuild_qtensor).
  bool IsRebuilt(PickleId id) const;
  absl::Status Module(PickleId id, ModelStates* states) const;
  // The flat groups, moments and paddings of `states_dict`.
  absl::Status Groups(const Fields& fields, OptimStates* states) const;
  absl::Status Moments(PickleId base_optimizer, OptimStates* states) const;

  const InputFile& input_;
  std::shared_ptr<const TorchFile> file_;
  std::unique_ptr<const PickleView> view_;  // one for all: it counts
};

absl::StatusOr<std::vector<NamedShape>> StatesReader::Shapes(PickleId id,
                                                             absl::string_view what) const {
  std::vector<NamedShape> shapes;
  ZC_ASSIGN_OR_RETURN(const auto entries, view().Dict(id, what));
  for (const auto& [name, value] : entries) {
    ZC_ASSIGN_OR_RETURN(std::vector<int64_t> shape,
                        view().Shape(value, absl::StrCat(what, "[", name, "]")));
    shapes.push_back({name, std::move(shape)});
  }
  return shapes;
}

absl::StatusOr<ZeroSettings> StatesReader::Settings(PickleId config) const {
  const PickleGraph& graph = file_->graph();
  ZeroSettings settings;
  // The config is the user's own JSON: what is not as DeepSpeed would take it is left at default.
  const auto flag = [&](PickleId section, absl::string_view key) {
    const PickleId value = graph.Find(section, key);
    return value != kNoValue && graph.node(value).kind == PickleKind::kBool &&
           graph.node(value).integer != 0;
  };
  settings.bf16 = flag(graph.Find(config, "bf16"), "enabled") ||
                  flag(graph.Find(config, "bfloat16"), "enabled");
  settings.fp16 = flag(graph.Find(config, "fp16"), "enabled");
  const PickleId zero = graph.Find(config, "zero_optimization");
  settings.round_robin_gradients = flag(zero, "round_robin_gradients");
  settings.parameter_alignment = flag(zero, "parameter_alignment");
  if (const PickleId size = graph.Find(zero, "sub_group_size"); size != kNoValue) {
    const PickleNode& value = graph.node(size);
    constexpr double kMost = 9.2e18;  // DeepSpeed takes 1e9, a float, too
    if (value.kind == PickleKind::kInteger && value.integer > 0) {
      settings.sub_group_size = value.integer;
    } else if (value.kind == PickleKind::kFloat && value.real >= 1 && value.real < kMost) {
      settings.sub_group_size = static_cast<int64_t>(value.real);
    }
  }
  return settings;
}

bool StatesReader::IsRebuilt(PickleId id) const {
  const PickleGraph& graph = file_->graph();
  if (graph.node(id).kind != PickleKind::kCall) return false;
  const PickleNode& function = graph.node(graph.node(id).call->function);
  return function.kind == PickleKind::kGlobal && absl::StartsWith(function.name, "_rebuild_");
}

absl::Status StatesReader::Module(PickleId id, ModelStates* states) const {
  if (view().IsNone(id)) return absl::OkStatus();
  std::unordered_set<std::string> weights(states->buffer_names.begin(), states->buffer_names.end());
  for (const NamedShape& named : states->frozen_shapes) weights.insert(named.name);
  for (const auto& group : states->param_shapes) {
    for (const NamedShape& named : group) weights.insert(named.name);
  }
  ZC_ASSIGN_OR_RETURN(const auto entries, view().Dict(id, "module"));
  for (const auto& [name, value] : entries) {
    // What Tensor() cannot read is an error where it is a weight; modules keep other things, too.
    if (!file_->IsTensor(value) && weights.count(name) == 0 && !IsRebuilt(value)) {
      states->other_values.push_back(name);
      continue;
    }
    ZC_ASSIGN_OR_RETURN(TorchTensor tensor,
                        file_->Tensor(value, absl::StrCat("module[", name, "]")));
    states->module.push_back({name, std::move(tensor)});
  }
  return absl::OkStatus();
}

absl::StatusOr<ModelStates> StatesReader::Model() {
  ModelStates states;
  states.file = file_;
  ZC_ASSIGN_OR_RETURN(auto entries, view().Dict(file_->root(), "the file's object"));
  const Fields fields(std::move(entries));
  if (!fields.Has("module")) {
    return view().Wrong(file_->root(), "the file's object", "a dict with \"module\"");
  }
  for (const absl::string_view key : {"ds_autoep_layers", "autoep_layers"}) {
    if (!view().IsNone(fields[key])) {
      return Unsupported(input_.path(),
                         "a checkpoint of AutoEP, whose experts have partitions of "
                         "their own");
    }
  }
  const struct {
    absl::string_view key;
    int64_t* value;
  } numbers[] = {{"global_steps", &states.global_steps},
                 {"global_samples", &states.global_samples},
                 {"skipped_steps", &states.skipped_steps},
                 {"dp_world_size", &states.world_size}};
  for (const auto& number : numbers) {
    ZC_ASSIGN_OR_RETURN(*number.value, IntegerOr(fields[number.key], number.key, -1));
  }
  ZC_ASSIGN_OR_RETURN(const int64_t mp_world_size,
                      IntegerOr(fields["mp_world_size"], "mp_world_size", 1));
  if (mp_world_size > 1) {
    return Unsupported(input_.path(),
                       absl::StrCat("mp_world_size is ", mp_world_size,
                                    ", a checkpoint of tensor parallelism; only data-parallel ones "
                                    "(ZeRO stages 0 to 3) are read"));
  }
  if (!view().IsNone(fields["ds_version"])) {
    ZC_ASSIGN_OR_RETURN(states.version, view().Text(fields["ds_version"], "ds_version"));
  }
  ZC_ASSIGN_OR_RETURN(states.settings, Settings(fields["ds_config"]));
  if (!view().IsNone(fields["param_shapes"])) {
    states.has_param_shapes = true;
    ZC_ASSIGN_OR_RETURN(const std::vector<PickleId> groups,
                        view().List(fields["param_shapes"], "param_shapes"));
    for (const PickleId group : groups) {
      ZC_ASSIGN_OR_RETURN(
          std::vector<NamedShape> shapes,
          Shapes(group, absl::StrCat("param_shapes[", states.param_shapes.size(), "]")));
      states.param_shapes.push_back(std::move(shapes));
    }
  }
  if (!view().IsNone(fields["frozen_param_shapes"])) {
    ZC_ASSIGN_OR_RETURN(states.frozen_shapes,
                        Shapes(fields["frozen_param_shapes"], "frozen_param_shapes"));
  } else {
    states.says_no_frozen_shapes = fields.Has("frozen_param_shapes");
  }
  if (!view().IsNone(fields["frozen_param_fragments"])) {
    ZC_ASSIGN_OR_RETURN(const auto fragments,
                        view().Dict(fields["frozen_param_fragments"], "frozen_param_fragments"));
    for (const auto& [name, value] : fragments) {
      ZC_ASSIGN_OR_RETURN(TorchTensor tensor,
                          file_->Tensor(value, absl::StrCat("frozen_param_fragments[", name, "]")));
      states.frozen_fragments.push_back({name, std::move(tensor)});
    }
  }
  if (!view().IsNone(fields["shared_params"])) {
    ZC_ASSIGN_OR_RETURN(const auto shared, view().Dict(fields["shared_params"], "shared_params"));
    for (const auto& [alias, value] : shared) {
      ZC_ASSIGN_OR_RETURN(std::string name,
                          view().Text(value, absl::StrCat("shared_params[", alias, "]")));
      states.shared.emplace_back(alias, std::move(name));
    }
  }
  if (!view().IsNone(fields["buffer_names"])) {
    ZC_ASSIGN_OR_RETURN(const std::vector<PickleId> names,
                        view().List(fields["buffer_names"], "buffer_names"));
    for (const PickleId name : names) {
      ZC_ASSIGN_OR_RETURN(std::string text, view().Text(name, "a name in buffer_names"));
      states.buffer_names.push_back(std::move(text));
    }
  }
  ZC_RETURN_IF_ERROR(Module(fields["module"], &states));
  return states;
}

absl::StatusOr<std::vector<std::vector<int64_t>>> MembersOf(const PickleView& view,
                                                            PickleId param_groups,
                                                            std::vector<PickleId>* groups) {
  std::vector<std::vector<int64_t>> members;
  ZC_ASSIGN_OR_RETURN(*groups, view.List(param_groups, "param_groups"));
  for (const PickleId group : *groups) {
    const std::string what = absl::StrCat("param_groups[", members.size(), "]");
    ZC_ASSIGN_OR_RETURN(auto entries, view.Dict(group, what));
    const Fields fields(std::move(entries));
    ZC_ASSIGN_OR_RETURN(std::vector<int64_t> indices,
                        view.Integers(fields["params"], absl::StrCat(what, "[params]")));
    members.push_back(std::move(indices));
  }
  return members;
}

absl::Status StatesReader::Moments(PickleId base_optimizer, OptimStates* states) const {
  if (view().IsNone(base_optimizer)) return absl::OkStatus();
  if (file_->graph().node(base_optimizer).kind == PickleKind::kList) {
    return Unsupported(input_.path(),
                       "an elastic checkpoint (zero_optimization.elastic_checkpoint), which "
                       "DeepSpeed deprecated; save it again without");
  }
  ZC_ASSIGN_OR_RETURN(auto entries, view().Dict(base_optimizer, "the base optimizer's state dict"));
  const Fields fields(std::move(entries));
  std::vector<PickleId> groups;
  ZC_ASSIGN_OR_RETURN(states->group_members, MembersOf(view(), fields["param_groups"], &groups));
  for (const PickleId group : groups) {
    // DeepSpeed's own Adam keeps the step here.
    const PickleId step = file_->graph().Find(group, "step");
    if (step == kNoValue || states->step >= 0) continue;
    ZC_ASSIGN_OR_RETURN(states->step, ReadStep(input_, *file_, step));
  }
  ZC_ASSIGN_OR_RETURN(const auto by_index, view().DictOfIntegers(fields["state"], "state"));
  for (const auto& [index, value] : by_index) {
    const std::string what = absl::StrCat("state[", index, "]");
    if (index < 0 || index >= static_cast<int64_t>(states->flat.size())) {
      return view().Wrong(value, what, absl::StrCat("at most ", states->flat.size(), " states"));
    }
    ZC_ASSIGN_OR_RETURN(const auto named, view().Dict(value, what));
    for (const auto& [name, item] : named) {
      if (name == "step") {
        if (states->step < 0) {
          ZC_ASSIGN_OR_RETURN(states->step, ReadStep(input_, *file_, item));
        }
        continue;
      }
      if (!file_->IsTensor(item)) continue;
      ZC_ASSIGN_OR_RETURN(TorchTensor tensor,
                          file_->Tensor(item, absl::StrCat(what, "[", name, "]")));
      if (tensor.shape.empty()) continue;
      std::vector<NamedTensor>& moments = states->moments[static_cast<size_t>(index)];
      if (moments.size() == kMaxMoments) {
        return view().Wrong(value, what, absl::StrCat("at most ", kMaxMoments, " tensors"));
      }
      moments.push_back({name, std::move(tensor)});
    }
  }
  return absl::OkStatus();
}

absl::Status StatesReader::Groups(const Fields& fields, OptimStates* states) const {
  const bool is_stage_3 = states->stage == kMaxStage;
  const absl::string_view flat_key =
      is_stage_3 ? "fp32_flat_groups" : "single_partition_of_fp32_groups";
  ZC_ASSIGN_OR_RETURN(const std::vector<PickleId> groups, view().List(fields[flat_key], flat_key));
  for (const PickleId group : groups) {
    ZC_ASSIGN_OR_RETURN(
        TorchTensor tensor,
        file_->Tensor(group, absl::StrCat(flat_key, "[", states->flat.size(), "]")));
    states->flat.push_back(std::move(tensor));
  }
  states->moments.resize(states->flat.size());
  if (!view().IsNone(fields["group_paddings"])) {
    ZC_ASSIGN_OR_RETURN(states->group_paddings,
                        view().Integers(fields["group_paddings"], "group_paddings"));
  }
  if (!view().IsNone(fields["param_alignment_paddings"])) {
    ZC_ASSIGN_OR_RETURN(
        const std::vector<PickleId> lists,
        view().List(fields["param_alignment_paddings"], "param_alignment_paddings"));
    for (const PickleId list : lists) {
      ZC_ASSIGN_OR_RETURN(
          std::vector<int64_t> paddings,
          view().Integers(list, absl::StrCat("param_alignment_paddings[",
                                             states->alignment_paddings.size(), "]")));
      states->alignment_paddings.push_back(std::move(paddings));
    }
  }
  return Moments(fields[is_stage_3 ? "optimizer_state_dict" : "base_optimizer_state"], states);
}

absl::StatusOr<OptimStates> StatesReader::Optim() {
  OptimStates states;
  states.file = file_;
  ZC_ASSIGN_OR_RETURN(auto outer, view().Dict(file_->root(), "the file's object"));
  const PickleId state_dict = Fields(std::move(outer))["optimizer_state_dict"];
  ZC_ASSIGN_OR_RETURN(auto entries, view().Dict(state_dict, "optimizer_state_dict"));
  const Fields fields(std::move(entries));
  if (!fields.Has("zero_stage")) {
    return Unsupported(input_.path(),
                       "optimizer states without zero_stage: DeepSpeed's bf16 optimizer (stage 1 "
                       "with data_types.grad_accum_dtype \"fp32\", or stage 0), whose layout "
                       "zerocast does not read");
  }
  ZC_ASSIGN_OR_RETURN(const int64_t stage, view().Integer(fields["zero_stage"], "zero_stage"));
  if (stage < 1 || stage > kMaxStage) {
    return view().Wrong(fields["zero_stage"], "zero_stage", "1, 2 or 3");
  }
  states.stage = static_cast<int>(stage);
  const PickleId count = fields["partition_count"];
  if (!view().IsNone(count) && file_->graph().node(count).kind == PickleKind::kList) {
    ZC_ASSIGN_OR_RETURN(const std::vector<int64_t> counts,
                        view().Integers(count, "partition_count"));
    for (const int64_t each : counts) {
      if (each != counts[0]) {
        return Unsupported(input_.path(),
                           "partition_count differs by group: a checkpoint of expert parallelism; "
                           "only data-parallel ones (ZeRO stages 0 to 3) are read");
      }
      states.world_size = each;
    }
  } else {
    ZC_ASSIGN_OR_RETURN(states.world_size, IntegerOr(count, "partition_count", -1));
  }
  ZC_RETURN_IF_ERROR(Groups(fields, &states));
  return states;
}

}  // namespace

absl::StatusOr<double> ReadStep(const InputFile& input, const TorchFile& file, PickleId value) {
  const PickleView view(file);
  const PickleGraph& graph = file.graph();
  if (!file.IsTensor(value)) {
    if (graph.node(value).kind == PickleKind::kFloat) return graph.node(value).real;
    ZC_ASSIGN_OR_RETURN(const int64_t step, view.Integer(value, "step"));
    return static_cast<double>(step);
  }
  ZC_ASSIGN_OR_RETURN(const TorchTensor tensor, file.Tensor(value, "step"));
  if (tensor.num_elements != 1) return view.Wrong(value, "step", "a tensor of one element");
  // Nobody copies the number and compares its CRC then.
  if (file.storages()[static_cast<size_t>(tensor.storage)].num_bytes <= kMaxStepStorageBytes) {
    ZC_RETURN_IF_ERROR(file.CheckStorage(input, tensor.storage));
  }
  ZC_ASSIGN_OR_RETURN(const std::string bytes, input.Read(tensor.file_begin, SizeOf(tensor.dtype)));
  double step = 0;
  if (tensor.dtype == DType::kFloat32) {
    float number;
    std::memcpy(&number, bytes.data(), sizeof(number));
    step = static_cast<double>(number);
  } else if (tensor.dtype == DType::kInt64) {
    int64_t number;
    std::memcpy(&number, bytes.data(), sizeof(number));
    step = static_cast<double>(number);
  } else if (tensor.dtype == DType::kInt32) {
    int32_t number;
    std::memcpy(&number, bytes.data(), sizeof(number));
    step = static_cast<double>(number);
  } else {
    return view.Wrong(value, "step", "a tensor of float32, int32 or int64");
  }
  if (!std::isfinite(step)) return view.Wrong(value, "step", "a finite number");
  return step;
}

absl::StatusOr<ModelStates> ReadModelStates(const InputFile& file) {
  StatesReader reader(file);
  ZC_RETURN_IF_ERROR(reader.Open());
  return reader.Model();
}

absl::StatusOr<OptimStates> ReadOptimStates(const InputFile& file) {
  StatesReader reader(file);
  ZC_RETURN_IF_ERROR(reader.Open());
  return reader.Optim();
}

absl::StatusOr<std::vector<std::vector<int64_t>>> ReadGroupMembers(const TorchFile& file,
                                                                   PickleId param_groups) {
  std::vector<PickleId> groups;
  return MembersOf(PickleView(file), param_groups, &groups);
}

}  // namespace zerocast
