#include "client/formats/deepspeed/reshard.h"

#include <algorithm>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "client/formats/deepspeed/pickle_view.h"
#include "client/formats/deepspeed/shard_layout.h"
#include "client/formats/deepspeed/torch_draft.h"
#include "client/formats/deepspeed/zero_graph.h"
#include "client/formats/deepspeed/zero_write.h"
#include "client/formats/output_folder.h"
#include "client/formats/pickle_edit.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"

namespace zerocast {
namespace {

class Resharder {
 public:
  Resharder(const ZeroCheckpoint& checkpoint, ShardLayout layout,
            const PieceCopier::Options& options)
      : sources_(checkpoint),
        layout_(std::move(layout)),
        about_to_(options.about_to),
        copier_(sources_.checkpoint(), options),
        writer_(&copier_) {}

  absl::Status Write(const std::string& folder) {
    ZC_RETURN_IF_ERROR(WriteModelStates(folder));
    ZC_RETURN_IF_ERROR(WriteOptimizerStates(folder));
    return writer_.Finish();
  }
  const FilesWriter& writer() const { return writer_; }

 private:
  const ZeroCheckpoint& checkpoint() const { return sources_.checkpoint(); }
  const ZeroParameter& At(int32_t parameter) const {
    return checkpoint().parameters[static_cast<size_t>(parameter)];
  }
  int64_t num_ranks() const { return layout_.world_size; }

  absl::Status WriteModelStates(const std::string& folder);
  absl::Status WriteOptimizerStates(const std::string& folder);

  // optimizer_state_dict of rank 0 in a file as an engine saves it, whatever form it was read from.
  PickleId ImportOptimizer();
  absl::Status CheckPaddings(PickleId state_dict) const;
  // The states of the base optimizer, which are the same on all ranks but for their bytes.
  absl::Status AddStates(PickleId state_dict);
  // One of them: what rank 0 has of the flat tensor that `was`, an entry of its dict, says.
  absl::StatusOr<PickleId> AddState(size_t flat, const TorchFile& file, PickleId was);
  absl::StatusOr<PickleId> AddUniversalState(size_t flat);
  PickleId AddMoment(size_t flat, size_t state);
  // The masters of one rank.
  PickleId AddMasters(int64_t rank);
  int64_t MasterElements(const FlatLayout& flat, int64_t rank) const {
    return flat.partition - (layout_.stage == 3 ? 0 : EndPadding(flat, rank));
  }
  absl::StatusOr<DType> DTypeOf(const FlatLayout& flat, size_t state) const;
  // A rank's flat tensor of a state.
  DraftStorage FlatStorage(size_t flat, int64_t rank, size_t state) const;

  Sources sources_;
  const ShardLayout layout_;
  const FileObserver about_to_;
  PieceCopier copier_;
  FilesWriter writer_;
  TorchDraft optimizer_;
  std::vector<std::vector<std::string>> keys_;  // of storages, by flat tensor and state
  std::vector<std::vector<DType>> dtypes_;      // the same
};

absl::Status Resharder::WriteModelStates(const std::string& folder) {
  const TorchFile& file = *checkpoint().model_file;
  TorchDraft draft;
  const PickleId root = draft.Import(file, file.root(), &sources_);
  draft.graph().set_root(root);
  SetModelLayout(checkpoint(), layout_, &draft.graph(), root);
  if (layout_.stage != 3) {
    return writer_.Add(absl::StrCat(folder, "/mp_rank_00_model_states.pt"), draft.graph(),
                       draft.KeptStorages());
  }
  struct Fragment {
    const ZeroParameter* parameter = nullptr;
    DType dtype = DType::kInvalid;
    std::string key;
  };
  std::vector<Fragment> fragments;
  const PickleId saved = file.graph().Find(file.root(), "frozen_param_fragments");
  if (file.graph().DictItems(saved) != nullptr) {
    std::vector<std::pair<std::string, PickleId>> entries;
    for (const ZeroParameter& parameter : checkpoint().parameters) {
      const PickleId fragment = file.graph().Find(saved, parameter.name);
      if (parameter.is_trained || fragment == kNoValue) continue;
      ZC_ASSIGN_OR_RETURN(const TorchTensor tensor, file.Tensor(fragment, parameter.name));
      fragments.push_back({&parameter, tensor.dtype, draft.NewKey()});
      const int64_t part = PartitionElements(parameter.num_elements, num_ranks());
      entries.emplace_back(parameter.name,
                           draft.AddTensor(fragments.back().key, tensor.dtype, part, {part}));
    }
    ReplaceItem(&draft.graph(), root, "frozen_param_fragments",
                AddOrderedDict(&draft.graph(), entries));
  }
  const std::vector<DraftStorage> kept = draft.KeptStorages();
  for (int64_t rank = 0; rank < num_ranks(); ++rank) {
    std::vector<DraftStorage> storages = kept;
    for (const Fragment& fragment : fragments) {
      const int64_t elements = fragment.parameter->num_elements;
      const int64_t part = PartitionElements(elements, num_ranks());
      const int64_t here = std::clamp<int64_t>(elements - rank * part, 0, part);
      DraftStorage storage;
      storage.key = fragment.key;
      AppendElements(checkpoint(), *fragment.parameter, -1, rank * part, here, fragment.dtype,
                     &storage);
      AppendZeros(part - here, fragment.dtype, &storage);
      storages.push_back(std::move(storage));
    }
    // _get_shared_params names ties on rank 0 alone.
    if (rank == 1) ReplaceItem(&draft.graph(), root, "shared_params", AddDict(&draft.graph()));
    ZC_RETURN_IF_ERROR(
        writer_.Add(absl::StrCat(folder, "/zero_pp_rank_", rank, "_mp_rank_00_model_states.pt"),
                    draft.graph(), std::move(storages)));
  }
  return absl::OkStatus();
}

PickleId Resharder::ImportOptimizer() {
  const TorchFile& file = *checkpoint().optimizer_file;
  const PickleId imported = optimizer_.Import(file, file.root(), &sources_);
  PickleGraph& graph = optimizer_.graph();
  if (!checkpoint().is_universal) {
    graph.set_root(imported);
    return graph.Find(imported, "optimizer_state_dict");
  }
  UndoUniversalOptimizer(layout_.stage, &graph, imported);
  const TorchFile& model = *checkpoint().model_file;
  std::vector<std::pair<std::string, PickleId>> entries = {{"optimizer_state_dict", imported}};
  for (const char* key : {"ds_config", "ds_version"}) {
    const PickleId value = model.graph().Find(model.root(), key);
    if (value != kNoValue) entries.emplace_back(key, optimizer_.Import(model, value, &sources_));
  }
  graph.set_root(AddDict(&graph, entries));
  return imported;
}

absl::Status Resharder::CheckPaddings(PickleId state_dict) const {
  const auto saved = AlignmentPaddings(optimizer_.graph(), state_dict);
  if (saved.empty()) {
    if (layout_.stage == 3 || !checkpoint().settings.parameter_alignment) return absl::OkStatus();
  } else {
    ZC_ASSIGN_OR_RETURN(const ShardLayout own, LayOutShards(checkpoint(), checkpoint().world_size));
    bool is_same = saved.size() == own.flats.size();
    for (size_t k = 0; is_same && k < saved.size(); ++k)
      is_same = saved[k] == own.flats[k].paddings;
    if (is_same) return absl::OkStatus();
  }
  return WithReason(
      absl::FailedPreconditionError(absl::StrCat(
          "reshard ", checkpoint().folder, "/", checkpoint().tag,
          ": its param_alignment_paddings are not those of its ds_config (parameter_alignment ",
          checkpoint().settings.parameter_alignment ? "true" : "false",
          "), so those of another world size cannot be known")),
      "UNSUPPORTED");
}

absl::StatusOr<DType> Resharder::DTypeOf(const FlatLayout& flat, size_t state) const {
  DType dtype = DType::kInvalid;
  for (const int32_t parameter : flat.parameters) {
    for (const ZeroSlice& slice : At(parameter).slices) {
      const DType here = checkpoint().flats[static_cast<size_t>(slice.flat)].states[state].dtype;
      if (dtype == DType::kInvalid) dtype = here;
      if (here == dtype) continue;
      return WithReason(absl::DataLossError(absl::StrCat(
                            "reshard ", checkpoint().folder, "/", checkpoint().tag, ": ",
                            checkpoint().state_names[state], " of ", At(parameter).name, " is ",
                            DTypeName(here), " here and ", DTypeName(dtype), " there")),
                        "CHECKPOINT_CORRUPT");
    }
  }
  // A group whose parameters have no elements: as DeepSpeed makes masters.
  return dtype == DType::kInvalid ? DType::kFloat32 : dtype;
}

PickleId Resharder::AddMoment(size_t flat, size_t state) {
  const int64_t elements = layout_.flats[flat].partition;
  return optimizer_.AddTensor(keys_[flat][state], dtypes_[flat][state], elements, {elements});
}

absl::StatusOr<PickleId> Resharder::AddState(size_t flat, const TorchFile& file, PickleId was) {
  PickleGraph& graph = optimizer_.graph();
  ZC_ASSIGN_OR_RETURN(const auto entries, PickleView(file).Dict(was, "state"));
  std::vector<std::pair<std::string, PickleId>> state;
  for (const auto& [name, value] : entries) {
    size_t index = 1;
    while (index < checkpoint().state_names.size() && checkpoint().state_names[index] != name) {
      ++index;
    }
    if (index < checkpoint().state_names.size()) {
      state.emplace_back(name, AddMoment(flat, index));
      continue;
    }
    if (name != "step" && file.IsTensor(value)) return RefuseStates(checkpoint(), {name});
    // A tensor of its own for each, since the optimizer counts it up in place.
    state.emplace_back(name, optimizer_.Import(file, value, &sources_));
  }
  return AddDict(&graph, state);
}

absl::StatusOr<PickleId> Resharder::AddUniversalState(size_t flat) {
  std::vector<std::pair<std::string, PickleId>> state;
  const std::vector<int32_t>& parameters = layout_.flats[flat].parameters;
  const auto first = std::find_if(parameters.begin(), parameters.end(),
                                  [this](int32_t k) { return At(k).num_elements > 0; });
  if (checkpoint().optimizer_step >= 0 && first != parameters.end()) {
    const std::string& name = At(*first).name;
    ZC_ASSIGN_OR_RETURN(const auto file,
                        sources_.Read(absl::StrCat("zero/", name, "/step.pt"), about_to_));
    state.emplace_back("step", optimizer_.Import(*file, file->root(), &sources_));
  }
  for (size_t index = 1; index < checkpoint().state_names.size(); ++index) {
    state.emplace_back(checkpoint().state_names[index], AddMoment(flat, index));
  }
  return AddDict(&optimizer_.graph(), state);
}

absl::Status Resharder::AddStates(PickleId state_dict) {
  PickleGraph& graph = optimizer_.graph();
  for (const FlatLayout& flat : layout_.flats) {
    keys_.emplace_back();
    dtypes_.emplace_back();
    for (size_t state = 0; state < checkpoint().state_names.size(); ++state) {
      ZC_ASSIGN_OR_RETURN(const DType dtype, DTypeOf(flat, state));
      keys_.back().push_back(optimizer_.NewKey());
      dtypes_.back().push_back(dtype);
    }
  }
  const TorchFile& file = *checkpoint().optimizer_file;
  const OptimizerKeys names = OptimizerKeysOf(layout_.stage);
  // What rank 0 has of the first flat tensor of each group.
  std::map<int32_t, PickleId> was;
  const bool is_spread = checkpoint().is_universal && layout_.stage != 3;
  if (!is_spread) {
    const PickleId old_dict = checkpoint().is_universal
                                  ? file.root()
                                  : file.graph().Find(file.root(), "optimizer_state_dict");
    ZC_ASSIGN_OR_RETURN(
        const auto states,
        PickleView(file).DictOfIntegers(
            file.graph().Find(file.graph().Find(old_dict, names.base), "state"), "state"));
    const std::vector<int32_t> groups = GroupsOfFlats(checkpoint());
    for (const auto& [index, value] : states) {
      if (index < 0 || index >= static_cast<int64_t>(groups.size())) continue;
      was.emplace(groups[static_cast<size_t>(index)], value);
    }
  }
  std::vector<PickleId> items;
  for (size_t flat = 0; flat < layout_.flats.size(); ++flat) {
    PickleId state = kNoValue;
    if (is_spread) {
      ZC_ASSIGN_OR_RETURN(state, AddUniversalState(flat));
    } else {
      const auto found = was.find(layout_.flats[flat].group);
      if (found == was.end()) continue;  // no step was taken yet
      ZC_ASSIGN_OR_RETURN(state, AddState(flat, file, found->second));
    }
    items.push_back(graph.AddInteger(static_cast<int64_t>(flat)));
    items.push_back(state);
  }
  ReplaceItem(&graph, graph.Find(state_dict, names.base), "state",
              graph.AddItems(PickleKind::kDict, std::move(items)));
  return absl::OkStatus();
}

PickleId Resharder::AddMasters(int64_t rank) {
  std::vector<PickleId> masters;
  for (size_t flat = 0; flat < layout_.flats.size(); ++flat) {
    const int64_t elements = MasterElements(layout_.flats[flat], rank);
    masters.push_back(
        optimizer_.AddTensor(keys_[flat][0], dtypes_[flat][0], elements, {elements}, true));
  }
  return optimizer_.graph().AddItems(PickleKind::kList, std::move(masters));
}

DraftStorage Resharder::FlatStorage(size_t flat, int64_t rank, size_t state) const {
  const FlatLayout& layout = layout_.flats[flat];
  const DType dtype = dtypes_[flat][state];
  DraftStorage storage;
  storage.key = keys_[flat][state];
  int64_t at = 0;
  for (const FlatPart& part : PartsOf(checkpoint(), layout_, layout, rank)) {
    AppendZeros(part.flat_offset - at, dtype, &storage);
    AppendElements(checkpoint(), At(part.parameter), static_cast<int>(state), part.offset,
                   part.num_elements, dtype, &storage);
    at = part.flat_offset + part.num_elements;
  }
  const int64_t elements = state == 0 ? MasterElements(layout, rank) : layout.partition;
  AppendZeros(elements - at, dtype, &storage);
  return storage;
}

absl::Status Resharder::WriteOptimizerStates(const std::string& folder) {
  const PickleId state_dict = ImportOptimizer();
  PickleGraph& graph = optimizer_.graph();
  ZC_RETURN_IF_ERROR(CheckPaddings(state_dict));
  ZC_RETURN_IF_ERROR(AddStates(state_dict));
  SetOptimizerLayout(layout_, &graph, state_dict);
  const absl::string_view flat_key = OptimizerKeysOf(layout_.stage).flat;
  ReplaceItem(&graph, state_dict, flat_key, AddMasters(0));
  const std::vector<DraftStorage> kept = optimizer_.KeptStorages();
  const bool is_bf16 =
      checkpoint().is_universal ? checkpoint().settings.bf16 : checkpoint().has_bf16_prefix;
  for (int64_t rank = 0; rank < num_ranks(); ++rank) {
    if (layout_.stage != 3) ReplaceItem(&graph, state_dict, flat_key, AddMasters(rank));
    SetRankLayout(checkpoint(), layout_, rank, &graph, state_dict);
    std::vector<DraftStorage> storages = kept;
    for (size_t flat = 0; flat < layout_.flats.size(); ++flat) {
      for (size_t state = 0; state < keys_[flat].size(); ++state) {
        storages.push_back(FlatStorage(flat, rank, state));
      }
    }
    ZC_RETURN_IF_ERROR(
        writer_.Add(absl::StrCat(folder, "/", is_bf16 ? "bf16_" : "", "zero_pp_rank_", rank,
                                 "_mp_rank_00_optim_states.pt"),
                    graph, std::move(storages)));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<WrittenCheckpoint> ReshardCheckpoint(const ZeroCheckpoint& checkpoint,
                                                    int64_t world_size, const OutputFolder& folder,
                                                    const PieceCopier::Options& options) {
  ZC_ASSIGN_OR_RETURN(ShardLayout layout, LayOutShards(checkpoint, world_size));
  ZC_RETURN_IF_ERROR(CheckWritable(checkpoint));
  WrittenCheckpoint written;
  written.tag = checkpoint.tag;
  if (checkpoint.is_universal) {
    written.tag = std::string(absl::StripSuffix(written.tag, "_universal"));
    if (written.tag.empty()) written.tag = checkpoint.tag;
  }
  ZC_RETURN_IF_ERROR(folder.MakeFolder(written.tag));
  Resharder resharder(checkpoint, std::move(layout), options);
  ZC_RETURN_IF_ERROR(resharder.Write(folder.File(written.tag)));
  ZC_RETURN_IF_ERROR(WriteLatest(folder.File("latest"), written.tag));
  written.num_files = resharder.writer().num_files() + 1;
  written.num_bytes = resharder.writer().num_bytes();
  return written;
}

}  // namespace zerocast
