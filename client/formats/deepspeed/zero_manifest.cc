#include "client/formats/deepspeed/zero_manifest.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <set>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "client/formats/checkpoint.h"
#include "client/formats/deepspeed/find_checkpoints.h"
#include "client/formats/deepspeed/zero_files.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/base/utf8.h"
#include "server/plan/flat_group.h"

namespace zerocast {
namespace {

class ManifestMaker {
 public:
  explicit ManifestMaker(const ZeroCheckpoint& checkpoint) : checkpoint_(checkpoint) {}

  Manifest Run(const std::string& folder) {
    AddWeights();
    AddPlaces();
    SortTensors();
    AddFiles(folder);
    manifest_.engine = std::move(engine_);
    return std::move(manifest_);
  }

 private:
  // The number of a new tensor: `num_elements` from the extent's first on.
  int32_t AddTensor(std::string name, const ZeroExtent& extent, int64_t num_elements) {
    ManifestTensor tensor;
    tensor.tensor.name = std::move(name);
    tensor.tensor.dtype = extent.dtype;
    tensor.tensor.shape = {num_elements};
    tensor.file = checkpoint_.storages[static_cast<size_t>(extent.storage)].file;
    tensor.file_begin = extent.file_begin;
    tensor.file_end = extent.file_begin + num_elements * SizeOf(extent.dtype);
    manifest_.tensors.push_back(std::move(tensor));
    return static_cast<int32_t>(manifest_.tensors.size()) - 1;
  }

  void AddWeights() {
    engine_.tag = checkpoint_.tag;
    engine_.stage = checkpoint_.stage;
    engine_.world_size = checkpoint_.world_size;
    engine_.is_universal = checkpoint_.is_universal;
    engine_.global_steps = checkpoint_.global_steps;
    engine_.optimizer_step = checkpoint_.optimizer_step;
    engine_.states = checkpoint_.state_names;
    engine_.round_robin_gradients = checkpoint_.settings.round_robin_gradients;
    engine_.parameter_alignment = checkpoint_.settings.parameter_alignment;
    AddFlats();
    // By name, in the order of the state dict.
    std::unordered_map<std::string, const ZeroParameter*> parameters;
    for (const ZeroParameter& parameter : checkpoint_.parameters) {
      parameters.emplace(parameter.name, &parameter);
    }
    std::unordered_map<std::string, const ZeroBuffer*> buffers;
    for (const ZeroBuffer& buffer : checkpoint_.buffers) buffers.emplace(buffer.name, &buffer);
    for (const std::string& name : checkpoint_.module_names) {
      if (const auto found = parameters.find(name); found != parameters.end()) {
        weight_of_.emplace(name, engine_.weights.size());
        AddParameter(*found->second);
      } else if (const auto buffer = buffers.find(name); buffer != buffers.end()) {
        AddBuffer(*buffer->second);
      }
    }
  }

  // The flat tensors that parameters lie in, without the padding behind the last of those.
  void AddFlats() {
    std::vector<int64_t> ends(checkpoint_.flats.size(), 0);
    std::vector<const std::string*> names(checkpoint_.flats.size(), nullptr);
    for (const ZeroParameter& parameter : checkpoint_.parameters) {
      for (const ZeroSlice& slice : parameter.slices) {
        int64_t& end = ends[static_cast<size_t>(slice.flat)];
        end = std::max(end, slice.flat_offset + slice.num_elements);
        names[static_cast<size_t>(slice.flat)] = &parameter.name;
      }
    }
    flat_number_.assign(checkpoint_.flats.size(), -1);
    const auto num_sub_groups = static_cast<size_t>(std::max(checkpoint_.num_sub_groups, 1));
    for (size_t k = 0; k < checkpoint_.flats.size(); ++k) {
      if (ends[k] == 0) continue;
      const ZeroFlat& flat = checkpoint_.flats[k];
      flat_number_[k] = static_cast<int32_t>(engine_.flats.size());
      std::vector<int32_t>& tensors = engine_.flats.emplace_back();
      for (size_t state = 0; state < flat.states.size(); ++state) {
        const std::string name =
            checkpoint_.is_universal
                ? absl::StrCat(checkpoint_.state_names[state], " of ", *names[k])
                : absl::StrCat(checkpoint_.state_names[state], " of rank ", flat.rank,
                               ", flat tensor ", k % num_sub_groups);
        tensors.push_back(AddTensor(name, flat.states[state], ends[k]));
      }
    }
  }

  void AddParameter(const ZeroParameter& parameter) {
    EngineWeight weight;
    weight.name = parameter.name;
    weight.shape = parameter.shape;
    weight.aliases = parameter.aliases;
    weight.dtype = parameter.dtype;
    if (weight.dtype == DType::kInvalid) {
      weight.dtype = parameter.stored.empty() ? DType::kFloat32 : parameter.stored[0].from.dtype;
    }
    if (parameter.is_trained && !checkpoint_.state_names.empty()) weight.group = parameter.group;
    for (const ZeroSlice& slice : parameter.slices) {
      weight.in_states.push_back(
          {flat_number_[static_cast<size_t>(slice.flat)], slice.flat_offset, slice.num_elements});
    }
    // Of a trained one the masters say more.
    for (size_t k = 0; weight.in_states.empty() && k < parameter.stored.size(); ++k) {
      const ZeroExtent& from = parameter.stored[k].from;
      const std::string name = parameter.stored.size() == 1
                                   ? parameter.name
                                   : absl::StrCat(parameter.name, " of rank ", k);
      weight.stored.push_back({AddTensor(name, from, from.num_elements), 0, from.num_elements});
    }
    engine_.weights.push_back(std::move(weight));
  }

  void AddBuffer(const ZeroBuffer& buffer) {
    EngineWeight weight;
    weight.name = buffer.name;
    weight.shape = buffer.shape;
    weight.dtype = buffer.value.dtype;
    weight.is_buffer = true;
    const int64_t num_elements = buffer.value.num_elements;
    if (num_elements > 0) {
      weight.stored.push_back(
          {AddTensor(buffer.name, buffer.value, num_elements), 0, num_elements});
    }
    engine_.weights.push_back(std::move(weight));
  }

  // The places in the optimizer's groups, which flat tensors below stage 3 may have in another
  // order.
  void AddPlaces() {
    std::map<int32_t, std::vector<size_t>> groups;  // weights in the order of the flat tensors
    for (const ZeroParameter& parameter : checkpoint_.parameters) {
      const auto found = weight_of_.find(parameter.name);
      if (found == weight_of_.end() || engine_.weights[found->second].group < 0) continue;
      groups[parameter.group].push_back(found->second);
    }
    const bool in_turn = checkpoint_.settings.round_robin_gradients && checkpoint_.stage < 3;
    for (const auto& [group, members] : groups) {
      const std::vector<int32_t> places =
          FlatOrder(static_cast<int32_t>(members.size()), checkpoint_.world_size, in_turn);
      for (size_t k = 0; k < members.size(); ++k) engine_.weights[members[k]].place = places[k];
    }
  }

  void SortTensors() {
    std::vector<int32_t> order(manifest_.tensors.size());
    std::iota(order.begin(), order.end(), 0);
    const auto key = [this](int32_t number) {
      const ManifestTensor& tensor = manifest_.tensors[static_cast<size_t>(number)];
      return std::tie(tensor.file, tensor.file_begin, tensor.tensor.name);
    };
    std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return key(a) < key(b); });
    // What several weights share is in one entry of the file each, the first that has room.
    std::set<std::pair<int64_t, size_t>> taken;  // where each layer of the file at hand ends
    std::set<size_t> free;                       // layers that end before the tensor at hand
    size_t num_layers = 0;
    int32_t file = -1;
    for (const int32_t number : order) {
      ManifestTensor& tensor = manifest_.tensors[static_cast<size_t>(number)];
      if (tensor.file != file) {
        taken.clear();
        free.clear();
        num_layers = 0;
      }
      file = tensor.file;
      while (!taken.empty() && taken.begin()->first <= tensor.file_begin) {
        free.insert(taken.begin()->second);
        taken.erase(taken.begin());
      }
      if (free.empty()) free.insert(num_layers++);
      const size_t layer = *free.begin();
      free.erase(free.begin());
      taken.emplace(tensor.file_end, layer);
      entries_.emplace(std::make_pair(file, layer), 0);
      layers_.emplace(number, layer);
    }
    int32_t next = 0;
    for (auto& [place, entry] : entries_) entry = next++;
    for (size_t k = 0; k < manifest_.tensors.size(); ++k) {
      ManifestTensor& tensor = manifest_.tensors[k];
      tensor.file = entries_.at({tensor.file, layers_.at(static_cast<int32_t>(k))});
    }
    std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return key(a) < key(b); });
    std::vector<int32_t> place_of(order.size());
    std::vector<ManifestTensor> sorted;
    for (size_t k = 0; k < order.size(); ++k) {
      place_of[static_cast<size_t>(order[k])] = static_cast<int32_t>(k);
      sorted.push_back(std::move(manifest_.tensors[static_cast<size_t>(order[k])]));
    }
    manifest_.tensors = std::move(sorted);
    for (std::vector<int32_t>& flat : engine_.flats) {
      for (int32_t& tensor : flat) tensor = place_of[static_cast<size_t>(tensor)];
    }
    for (EngineWeight& weight : engine_.weights) {
      for (TensorPiece& piece : weight.stored) {
        piece.tensor = place_of[static_cast<size_t>(piece.tensor)];
      }
    }
  }

  // Those that hold tensors.
  void AddFiles(const std::string& folder) {
    const std::string in_folder =
        folder == checkpoint_.folder ? "" : absl::StrCat(checkpoint_.tag, "/");
    for (const auto& [place, entry] : entries_) {
      const ZeroFile& file = checkpoint_.files[static_cast<size_t>(place.first)];
      manifest_.files.push_back({std::string(absl::StripPrefix(file.path, in_folder)),
                                 file.num_bytes, file.mtime_ns, file.header_digest});
    }
  }

  const ZeroCheckpoint& checkpoint_;
  Manifest manifest_;
  EngineCheckpoint engine_;
  std::vector<int32_t> flat_number_;  // by the checkpoint's flat: in engine_.flats, or -1
  std::unordered_map<std::string, size_t> weight_of_;
  std::map<std::pair<int32_t, size_t>, int32_t> entries_;  // by file and layer: in files
  std::unordered_map<int32_t, size_t> layers_;             // by tensor
};

// Whether the library would find weights in a folder with these names (transformers 5.23.0,
// _get_resolved_checkpoint_files).
bool HoldsWeights(const std::vector<std::string>& names) {
  for (const char* const name : {"model.safetensors", "model.safetensors.index.json",
                                 "pytorch_model.bin", "pytorch_model.bin.index.json"}) {
    if (std::binary_search(names.begin(), names.end(), name)) return true;
  }
  return false;
}

// In the words of the library (integrations/deepspeed.py, deepspeed_load_checkpoint).
absl::Status InItsWords(const absl::Status& status, const std::string& folder, bool has_tags) {
  return WithMessage(status, absl::StrCat(has_tags ? "[deepspeed] failed to resume from checkpoint "
                                                   : "Can't find a valid checkpoint at ",
                                          folder, ": ", status.message()));
}

absl::StatusOr<Manifest> ReadZeroManifest(const std::string& folder, const std::string& tag,
                                          const FileObserver& about_to, std::string* digest) {
  const absl::StatusOr<ZeroFolder> found = ListZeroFolder(folder, about_to);
  if (!found.ok()) return InItsWords(found.status(), folder, /*has_tags=*/false);
  const absl::StatusOr<ZeroCheckpoint> checkpoint = ReadZeroCheckpoint(folder, tag, about_to);
  if (!checkpoint.ok()) return InItsWords(checkpoint.status(), folder, !found->tags.empty());
  if (digest != nullptr) {
    ZC_ASSIGN_OR_RETURN(*digest, ZeroDigest(*checkpoint, about_to));
  }
  // Where the tag's own folder was named the files' paths begin there.
  Manifest manifest =
      ZeroManifest(*checkpoint, found->named_tag.empty() ? checkpoint->folder : folder);
  if (checkpoint->excludes_frozen) {
    manifest.note =
        "the checkpoint was saved without frozen parameters (exclude_frozen_parameters); those "
        "that the model may have are not loaded";
  }
  return manifest;
}

}  // namespace

Manifest ZeroManifest(const ZeroCheckpoint& checkpoint, const std::string& folder) {
  return ManifestMaker(checkpoint).Run(folder);
}

absl::StatusOr<Manifest> ReadFolderManifest(const std::string& folder,
                                            const CheckpointChoice& choice,
                                            const FileObserver& about_to, std::string* digest) {
  if (digest != nullptr) digest->clear();
  const bool is_zero = choice.format == CheckpointFormat::kDeepSpeed || !choice.tag.empty();
  const bool is_hub = choice.format == CheckpointFormat::kHuggingFace || !choice.variant.empty();
  if (is_zero && is_hub) {
    return WithReason(absl::InvalidArgumentError(absl::StrCat(
                          "open checkpoint ", folder, ": a tag and DeepSpeed's format, a variant ",
                          "and Hugging Face's exclude each other")),
                      "INVALID_FIELDS");
  }
  if (is_zero) return ReadZeroManifest(folder, choice.tag, about_to, digest);
  if (is_hub) return ReadCheckpointManifest(folder, about_to, choice.variant);
  const absl::StatusOr<std::vector<std::string>> names = ListNames(folder, about_to);
  // What is wrong with the folder itself is told by who reads the usual kind.
  if (!names.ok()) return ReadCheckpointManifest(folder, about_to);
  absl::StatusOr<ZeroFolder> zero = ListZeroFolder(folder, about_to);
  const bool has_zero = zero.ok() && (!zero->tags.empty() || !zero->latest.empty());
  if (!HoldsWeights(*names) && has_zero) return ReadZeroManifest(folder, "", about_to, digest);
  ZC_ASSIGN_OR_RETURN(Manifest manifest, ReadCheckpointManifest(folder, about_to));
  if (has_zero) {
    manifest.note = absl::StrCat(
        "the folder holds Hugging Face's weights and DeepSpeed checkpoints (",
        EscapeControls(absl::StrJoin(zero->tags, ", ")),
        "); the former are loaded, as from_pretrained does: ask for the latter by --format "
        "deepspeed, or by a tag");
  }
  return manifest;
}

}  // namespace zerocast
