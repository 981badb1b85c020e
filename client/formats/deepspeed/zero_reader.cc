#include "client/formats/deepspeed/zero_reader.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/base/utf8.h"

namespace zerocast {
namespace {

// Ranks whose missing files are named one by one: a number in one file must not make a million
// messages.
constexpr int64_t kMaxMissingNamed = 16;

}  // namespace

absl::Status ZeroReader::Corrupt(absl::string_view file, absl::string_view what) const {
  return WithReason(absl::DataLossError(absl::StrCat("read ", file, ": ", EscapeControls(what))),
                    "CHECKPOINT_CORRUPT");
}

std::string ZeroReader::PathOf(const std::string& name) const {
  return absl::StrCat(result_.folder, "/", result_.tag, "/", name);
}

absl::Status ZeroReader::MissingFile(const std::string& name, int64_t rank,
                                     absl::string_view known) const {
  return WithReason(
      absl::NotFoundError(absl::StrCat(PathOf(name), " is missing: ", known,
                                       ", and each has saved its own part; copy it from the node "
                                       "of rank ",
                                       rank, " or take another checkpoint")),
      "CHECKPOINT_NOT_FOUND");
}

absl::StatusOr<ZeroReader::Opened> ZeroReader::Open(const std::string& name) {
  auto file = InputFile::Open(PathOf(name), about_to_);
  if (!file.ok()) {
    return absl::IsNotFound(file.status()) ? WithReason(file.status(), "CHECKPOINT_NOT_FOUND")
                                           : file.status();
  }
  const int32_t index = static_cast<int32_t>(result_.files.size());
  result_.files.push_back(
      {absl::StrCat(result_.tag, "/", name), file->num_bytes(), file->mtime_ns()});
  return Opened{index, *std::move(file)};
}

bool ZeroReader::ReadModel(const std::string& name, ModelStates* states, int32_t* file) {
  const absl::Status status = [&]() -> absl::Status {
    ZC_ASSIGN_OR_RETURN(const Opened opened, Open(name));
    *file = opened.index;
    ZC_ASSIGN_OR_RETURN(*states, ReadModelStates(opened.file));
    NoteDigest(opened, *states->file);
    return absl::OkStatus();
  }();
  if (!status.ok()) Note(status);
  return status.ok();
}

bool ZeroReader::ReadOptim(const std::string& name, OptimStates* states, int32_t* file) {
  const absl::Status status = [&]() -> absl::Status {
    ZC_ASSIGN_OR_RETURN(const Opened opened, Open(name));
    *file = opened.index;
    ZC_ASSIGN_OR_RETURN(*states, ReadOptimStates(opened.file));
    NoteDigest(opened, *states->file);
    return absl::OkStatus();
  }();
  if (!status.ok()) Note(status);
  return status.ok();
}

absl::StatusOr<ZeroExtent> ZeroReader::Extent(const TorchFile& file, int32_t index,
                                              const TorchTensor& tensor, absl::string_view what) {
  if (!tensor.is_contiguous) {
    return Corrupt(file.path(), absl::StrCat(what, " has gaps between its elements"));
  }
  if (tensor.dtype == DType::kInvalid) {
    return Corrupt(file.path(), absl::StrCat(what, " is of a type that zerocast has not"));
  }
  const auto [place, is_new] = storage_of_.emplace(std::make_pair(index, tensor.storage),
                                                   static_cast<int32_t>(result_.storages.size()));
  if (is_new) {
    const TorchStorage& storage = file.storages()[static_cast<size_t>(tensor.storage)];
    result_.storages.push_back({index, storage.file_begin, storage.num_bytes, file.has_crcs(),
                                file.StorageCrc(tensor.storage)});
  }
  return ZeroExtent{place->second, tensor.file_begin, tensor.num_elements, tensor.dtype};
}

absl::Status ZeroReader::CheckSameSave(const ModelStates& states, int rank) const {
  const std::string& path = states.file->path();
  if (states.global_steps != model_.global_steps) {
    return Corrupt(path,
                   absl::StrCat("global_steps is ", states.global_steps, ", in ", model_name_, " ",
                                model_.global_steps, ": the folder holds files of two saves"));
  }
  if (states.world_size != model_.world_size) {
    return Corrupt(path,
                   absl::StrCat("dp_world_size is ", states.world_size, ", in ", model_name_, " ",
                                model_.world_size, ": the folder holds files of two saves"));
  }
  if (states.param_shapes != model_.param_shapes || states.frozen_shapes != model_.frozen_shapes) {
    return Corrupt(path, absl::StrCat("the parameters' names or shapes are not those of ",
                                      model_name_, ": rank ", rank, " saved another model"));
  }
  return absl::OkStatus();
}

absl::Status ZeroReader::CheckSameOptimizer(const OptimStates& states, int rank) const {
  const std::string& path = states.file->path();
  const auto differs = [&](absl::string_view what, const auto& here, const auto& there) {
    return Corrupt(path, absl::StrCat(what, " is ", here, ", in ", optim_name_, " ", there,
                                      ": the folder holds files of two saves (rank ", rank, ")"));
  };
  if (states.stage != optim_.stage) return differs("zero_stage", states.stage, optim_.stage);
  if (states.world_size != optim_.world_size) {
    return differs("partition_count", states.world_size, optim_.world_size);
  }
  if (states.step != optim_.step) {
    return differs("the step", absl::StrFormat("%.17g", states.step),
                   absl::StrFormat("%.17g", optim_.step));
  }
  if (states.flat.size() != optim_.flat.size()) {
    return differs("the number of flat tensors", states.flat.size(), optim_.flat.size());
  }
  return absl::OkStatus();
}

absl::Status ZeroReader::AddFlats(const OptimStates& states, int32_t file, int rank) {
  for (size_t group = 0; group < states.flat.size(); ++group) {
    // By rank and group where every rank's file is there; else they are not laid out.
    ZeroFlat& flat = result_.flats.emplace_back();
    flat.rank = rank;
    ZC_ASSIGN_OR_RETURN(ZeroExtent master, Extent(*states.file, file, states.flat[group],
                                                  absl::StrCat("the fp32 flat tensor ", group)));
    flat.states.push_back(master);
    for (size_t state = 1; state < result_.state_names.size(); ++state) {
      const std::string& name = result_.state_names[state];
      const auto& moments = states.moments[group];
      const auto found = std::find_if(moments.begin(), moments.end(),
                                      [&](const NamedTensor& m) { return m.name == name; });
      if (found == moments.end()) {
        return Corrupt(states.file->path(),
                       absl::StrCat("there is no ", name, " for flat tensor ", group,
                                    ", which others of the checkpoint have"));
      }
      ZC_ASSIGN_OR_RETURN(
          const ZeroExtent extent,
          Extent(*states.file, file, found->tensor, absl::StrCat(name, " of flat tensor ", group)));
      flat.states.push_back(extent);
    }
  }
  return absl::OkStatus();
}

void ZeroReader::ReadRanks() {
  for (size_t rank = 1; rank < names_.model_states.size(); ++rank) {
    if (names_.model_states[rank].empty()) continue;  // noted with the number of ranks
    ModelStates states;
    int32_t file = 0;
    if (!ReadModel(names_.model_states[rank], &states, &file)) continue;
    if (absl::Status same = CheckSameSave(states, static_cast<int>(rank)); !same.ok()) {
      Note(std::move(same));
      continue;
    }
    for (const NamedTensor& fragment : states.frozen_fragments) {
      auto extent = Extent(*states.file, file, fragment.tensor,
                           absl::StrCat("frozen_param_fragments[", fragment.name, "]"));
      if (!extent.ok()) {
        Note(extent.status());
        continue;
      }
      fragments_[fragment.name].emplace_back(static_cast<int64_t>(rank), *extent);
    }
  }
}

void ZeroReader::ReadOptimRanks() {
  bool is_first = true;
  for (size_t rank = 0; rank < names_.optim_states.size(); ++rank) {
    if (names_.optim_states[rank].empty()) continue;
    OptimStates states;
    int32_t file = 0;
    if (!ReadOptim(names_.optim_states[rank], &states, &file)) continue;
    if (is_first) {
      is_first = false;
      optim_ = states;
      optim_name_ = names_.optim_states[rank];
      result_.state_names = {"fp32"};
      for (size_t group = 0; group < states.moments.size(); ++group) {
        for (const NamedTensor& moment : states.moments[group]) {
          const bool is_by_element =
              moment.tensor.num_elements >= states.flat[group].num_elements &&
              moment.tensor.shape.size() == 1;
          std::vector<std::string>& names =
              is_by_element ? result_.state_names : result_.other_states;
          if (std::find(names.begin(), names.end(), moment.name) == names.end()) {
            names.push_back(moment.name);
          }
        }
      }
      std::sort(result_.state_names.begin() + 1, result_.state_names.end());
      result_.optimizer_step = states.step;
      result_.stage = states.stage;
      if (rank == 0) result_.optimizer_file = states.file;
    } else if (absl::Status same = CheckSameOptimizer(states, static_cast<int>(rank)); !same.ok()) {
      Note(std::move(same));
      continue;
    }
    if (absl::Status added = AddFlats(states, file, static_cast<int>(rank)); !added.ok()) {
      Note(std::move(added));
    }
  }
}

void ZeroReader::Read(const std::string& folder, const std::string& tag) {
  const absl::StatusOr<ZeroFolder> listed = ListZeroFolder(folder, about_to_);
  if (!listed.ok()) return Note(listed.status());
  const absl::StatusOr<std::string> chosen = ChooseZeroTag(*listed, tag);
  if (!chosen.ok()) return Note(chosen.status());
  ReadTag(listed->folder, *chosen);
}

void ZeroReader::ReadTag(const std::string& folder, const std::string& tag) {
  result_.folder = folder;
  result_.tag = tag;
  absl::StatusOr<ZeroFiles> names = ListZeroFiles(absl::StrCat(folder, "/", tag), about_to_);
  if (!names.ok()) return Note(names.status());
  names_ = *std::move(names);
  result_.is_universal = names_.is_universal;
  result_.has_bf16_prefix = names_.has_bf16_prefix;
  const bool is_partitioned = names_.whole_model_states.empty();
  model_name_ = is_partitioned ? names_.model_states[0] : names_.whole_model_states;
  if (model_name_.empty()) {
    // Without rank 0's nothing says of how many ranks it is.
    return Note(MissingFile("zero_pp_rank_0_mp_rank_00_model_states.pt", 0,
                            "other ranks' files are there"));
  }
  if (!ReadModel(model_name_, &model_, &model_index_)) return;
  result_.model_file = model_.file;
  result_.global_steps = model_.global_steps;
  result_.global_samples = model_.global_samples;
  result_.skipped_steps = model_.skipped_steps;
  result_.version = model_.version;
  result_.settings = model_.settings;
  result_.other_values = model_.other_values;
  if (is_partitioned) result_.stage = 3;

  names_.is_universal ? ReadUniversalOptimizer() : ReadOptimRanks();
  if (!model_.has_param_shapes && !optim_name_.empty()) {
    Note(
        Corrupt(PathOf(model_name_), absl::StrCat("it has no param_shapes, which say what lies in ",
                                                  optim_name_, " beside it")));
  }
  int64_t world_size = model_.world_size;
  if (world_size < 0) world_size = optim_.world_size;
  if (world_size < 0) world_size = static_cast<int64_t>(names_.model_states.size());
  if (world_size < 1 || world_size > (1 << 20)) {
    return Note(Corrupt(PathOf(model_name_),
                        absl::StrCat("dp_world_size is ", world_size, ", expected 1 or more")));
  }
  result_.world_size = static_cast<int32_t>(world_size);
  if (optim_.world_size >= 0 && optim_.world_size != world_size) {
    Note(Corrupt(PathOf(optim_name_),
                 absl::StrCat("partition_count is ", optim_.world_size, ", dp_world_size in ",
                              model_name_, " is ", world_size)));
  }
  // One file of each kind for each rank, and none beyond.
  const auto check_ranks = [&](std::vector<std::string>* list, absl::string_view kind,
                               absl::string_view prefix) {
    for (size_t rank = static_cast<size_t>(world_size); rank < list->size(); ++rank) {
      if ((*list)[rank].empty()) continue;
      Note(Corrupt(PathOf((*list)[rank]),
                   absl::StrCat("the checkpoint is of ", world_size, " ranks (", model_name_,
                                "), this file of rank ", rank, " belongs to another save")));
    }
    list->resize(static_cast<size_t>(world_size));
    const auto missing = std::count(list->begin(), list->end(), "");
    int64_t named = 0;
    for (size_t rank = 0; rank < list->size(); ++rank) {
      if (!(*list)[rank].empty()) continue;
      if (named++ == kMaxMissingNamed) {
        Note(WithReason(
            absl::NotFoundError(absl::StrCat(
                PathOf(std::string(prefix)), "zero_pp_rank_*_mp_rank_00_", kind,
                ".pt: ", missing - kMaxMissingNamed, " more ranks' files are missing, from rank ",
                rank, " on; copy them from their nodes")),
            "CHECKPOINT_NOT_FOUND"));
        break;
      }
      Note(MissingFile(absl::StrCat(prefix, "zero_pp_rank_", rank, "_mp_rank_00_", kind, ".pt"),
                       static_cast<int64_t>(rank),
                       absl::StrCat("the checkpoint is of ", world_size, " ranks")));
    }
  };
  if (is_partitioned) check_ranks(&names_.model_states, "model_states", "");
  if (!names_.is_universal && model_.has_param_shapes) {
    check_ranks(&names_.optim_states, "optim_states", names_.has_bf16_prefix ? "bf16_" : "");
  }
  if (is_partitioned) {
    for (const NamedTensor& fragment : model_.frozen_fragments) {
      auto extent = Extent(*model_.file, model_index_, fragment.tensor,
                           absl::StrCat("frozen_param_fragments[", fragment.name, "]"));
      if (!extent.ok()) {
        Note(extent.status());
        continue;
      }
      fragments_[fragment.name].emplace_back(0, *extent);
    }
    ReadRanks();
  }
  // engine.py, _save_checkpoint: save_frozen_param.
  result_.excludes_frozen =
      result_.stage >= 2 && model_.has_param_shapes && model_.says_no_frozen_shapes;
  if (problems_.empty()) LayOut();
}

absl::StatusOr<ZeroCheckpoint> ReadZeroCheckpoint(const std::string& folder, const std::string& tag,
                                                  const FileObserver& about_to,
                                                  std::vector<absl::Status>* problems) {
  std::vector<absl::Status> own;
  ZeroReader reader(about_to, &own);
  reader.Read(folder, tag);
  if (problems != nullptr) problems->insert(problems->end(), own.begin(), own.end());
  if (!own.empty()) return own[0];
  return reader.TakeResult();
}

std::vector<ZeroPiece> StatePieces(const ZeroCheckpoint& checkpoint, const ZeroParameter& parameter,
                                   size_t state) {
  std::vector<ZeroPiece> pieces;
  pieces.reserve(parameter.slices.size());
  for (const ZeroSlice& slice : parameter.slices) {
    ZeroPiece piece;
    piece.from = checkpoint.flats[static_cast<size_t>(slice.flat)].states[state];
    piece.from.file_begin += slice.flat_offset * SizeOf(piece.from.dtype);
    piece.from.num_elements = slice.num_elements;
    piece.offset = slice.offset;
    pieces.push_back(piece);
  }
  return pieces;
}

}  // namespace zerocast
