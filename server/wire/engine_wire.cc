#include "server/wire/engine_wire.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/plan/shape.h"
#include "server/wire/plan_wire.h"

namespace zerocast {
namespace {

// Groups of an optimizer; a hostile number must not make lists of gigabytes.
constexpr int32_t kMaxGroups = 1 << 20;

class Reader {
 public:
  Reader(const v1::EngineCheckpoint& from, const std::vector<ManifestTensor>& tensors)
      : from_(from), tensors_(tensors) {}

  absl::StatusOr<EngineCheckpoint> Run() {
    ReadNumbers();
    ReadFlats();
    for (int i = 0; i < from_.weights_size() && !full(); ++i) ReadWeight(i);
    if (violations_.empty()) CheckGroups();
    ZC_RETURN_IF_ERROR(InvalidFields(violations_));
    return std::move(to_);
  }

 private:
  bool full() const { return violations_.size() >= kMaxManifestViolations; }
  void Add(absl::string_view field, std::string description) {
    if (!full()) {
      violations_.push_back({absl::StrCat("manifest.engine.", field), std::move(description)});
    }
  }

  void ReadNumbers() {
    to_.tag = from_.tag();
    to_.stage = from_.zero_stage();
    to_.world_size = from_.world_size();
    to_.is_universal = from_.is_universal();
    if (from_.has_global_steps()) to_.global_steps = from_.global_steps();
    if (from_.has_optimizer_step()) to_.optimizer_step = from_.optimizer_step();
    to_.states.assign(from_.states().begin(), from_.states().end());
    to_.round_robin_gradients = from_.round_robin_gradients();
    to_.parameter_alignment = from_.parameter_alignment();
    if (to_.stage < 0 || to_.stage > 3) {
      Add("zero_stage", absl::StrCat("must be 0 to 3, was ", to_.stage));
    }
    if (to_.world_size < 1) {
      Add("world_size", absl::StrCat("must be at least 1, was ", to_.world_size));
    }
    absl::flat_hash_set<absl::string_view> names;
    for (const std::string& state : to_.states) {
      if (state.empty() || !names.insert(state).second) {
        Add("states", absl::StrCat("must be names, each once, has '", state, "'"));
      }
    }
  }

  int64_t SizeOfTensor(int32_t tensor) const {
    int64_t size = 0;
    CheckedElements(tensors_[static_cast<size_t>(tensor)].tensor.shape, &size);
    return size;
  }

  void ReadFlats() {
    for (int i = 0; i < from_.flats_size() && !full(); ++i) {
      const v1::EngineFlat& flat = from_.flats(i);
      const std::string field = absl::StrCat("flats[", i, "].tensors");
      if (flat.tensors_size() != from_.states_size()) {
        Add(field, absl::StrCat("must be one a state: ", from_.states_size(), ", are ",
                                flat.tensors_size()));
        return;
      }
      int64_t least = kTooManyBytes;
      for (const int32_t tensor : flat.tensors()) {
        if (tensor < 0 || tensor >= static_cast<int64_t>(tensors_.size())) {
          Add(field, absl::StrCat("must be in [0, ", tensors_.size(), "), has ", tensor));
          return;
        }
        least = std::min(least, SizeOfTensor(tensor));
      }
      flat_elements_.push_back(least);
      to_.flats.emplace_back(flat.tensors().begin(), flat.tensors().end());
    }
  }

  // Adds a piece's elements to *total; false, with a violation, where it leaves what holds it.
  bool AddPiece(const std::string& field, int64_t offset, int64_t num_elements, int64_t size,
                int64_t* total) {
    if (offset >= 0 && num_elements >= 1 && offset <= size && num_elements <= size - offset &&
        !__builtin_add_overflow(*total, num_elements, total)) {
      return true;
    }
    Add(field, absl::StrCat(num_elements, " elements from ", offset, " on are not in its ", size));
    return false;
  }

  void ReadWeight(int i) {
    const v1::EngineWeight& from = from_.weights(i);
    const std::string field = absl::StrCat("weights[", i, "] ('", from.name(), "')");
    EngineWeight weight;
    weight.name = from.name();
    weight.shape.assign(from.shape().begin(), from.shape().end());
    weight.dtype = DTypeFromProto(from.dtype());
    weight.aliases.assign(from.aliases().begin(), from.aliases().end());
    weight.is_buffer = from.is_buffer();
    weight.group = from.group_number() - 1;
    weight.place = weight.group < 0 ? -1 : from.place();
    int64_t num_bytes = 0, num_elements = 0;
    if (!CheckedBytes(weight.shape, weight.dtype, &num_bytes) ||
        !CheckedElements(weight.shape, &num_elements)) {
      return Add(field, "has a shape or dtype of no tensor");
    }
    if (weight.name.empty() || !names_.insert(from.name()).second) {
      Add(absl::StrCat(field, ".name"), "must not be empty, nor another's");
    }
    for (const std::string& alias : from.aliases()) {
      if (alias.empty() || !names_.insert(alias).second) {
        Add(absl::StrCat(field, ".aliases"),
            absl::StrCat("must not be empty, nor another's, has '", alias, "'"));
      }
    }
    if (weight.group < -1 || weight.group >= kMaxGroups) {
      Add(absl::StrCat(field, ".group_number"),
          absl::StrCat("must be in [0, ", kMaxGroups, "], was ", from.group_number()));
    }
    int64_t in_states = 0, stored = 0;
    for (const v1::FlatPiece& piece : from.in_states()) {
      if (piece.flat() < 0 || piece.flat() >= static_cast<int64_t>(flat_elements_.size())) {
        return Add(absl::StrCat(field, ".in_states"),
                   absl::StrCat("must be of flats in [0, ", flat_elements_.size(), "), has ",
                                piece.flat()));
      }
      if (!AddPiece(absl::StrCat(field, ".in_states"), piece.flat_offset(), piece.num_elements(),
                    flat_elements_[static_cast<size_t>(piece.flat())], &in_states)) {
        return;
      }
      weight.in_states.push_back({piece.flat(), piece.flat_offset(), piece.num_elements()});
    }
    for (const v1::TensorPiece& piece : from.stored()) {
      if (piece.tensor() < 0 || piece.tensor() >= static_cast<int64_t>(tensors_.size())) {
        return Add(
            absl::StrCat(field, ".stored"),
            absl::StrCat("must be of tensors in [0, ", tensors_.size(), "), has ", piece.tensor()));
      }
      if (!AddPiece(absl::StrCat(field, ".stored"), piece.tensor_offset(), piece.num_elements(),
                    SizeOfTensor(piece.tensor()), &stored)) {
        return;
      }
      weight.stored.push_back({piece.tensor(), piece.tensor_offset(), piece.num_elements()});
    }
    for (const int64_t count : {in_states, stored}) {
      if (count == 0 || count == num_elements) continue;
      Add(field, absl::StrCat("has ", num_elements, " elements, its pieces ", count));
    }
    const bool has_states = weight.group >= 0 && !to_.states.empty() && num_elements > 0;
    if (has_states != (in_states > 0)) {
      Add(absl::StrCat(field, ".in_states"),
          "must be there for trained parameters, and only those");
    }
    to_.weights.push_back(std::move(weight));
  }

  void CheckGroups() {
    std::vector<std::pair<int32_t, int32_t>> members;
    for (const EngineWeight& weight : to_.weights) {
      if (weight.group >= 0) members.emplace_back(weight.group, weight.place);
    }
    std::sort(members.begin(), members.end());
    for (size_t k = 0; k < members.size(); ++k) {
      const bool is_first = k == 0 || members[k - 1].first != members[k].first;
      if (members[k].second == (is_first ? 0 : members[k - 1].second + 1)) continue;
      return Add("weights",
                 absl::StrCat("group ", members[k].first + 1, " must have the places 0, ",
                              "1, ... once each, has ", members[k].second));
    }
  }

  const v1::EngineCheckpoint& from_;
  const std::vector<ManifestTensor>& tensors_;
  EngineCheckpoint to_;
  std::vector<int64_t> flat_elements_;  // by flat: that each of its states has
  absl::flat_hash_set<absl::string_view> names_;
  std::vector<FieldViolation> violations_;
};

}  // namespace

v1::EngineCheckpoint EngineToProto(const EngineCheckpoint& engine) {
  v1::EngineCheckpoint out;
  out.set_tag(engine.tag);
  out.set_zero_stage(engine.stage);
  out.set_world_size(engine.world_size);
  out.set_is_universal(engine.is_universal);
  if (engine.global_steps >= 0) out.set_global_steps(engine.global_steps);
  if (engine.optimizer_step >= 0) out.set_optimizer_step(engine.optimizer_step);
  for (const std::string& state : engine.states) out.add_states(state);
  for (const std::vector<int32_t>& flat : engine.flats) {
    out.add_flats()->mutable_tensors()->Add(flat.begin(), flat.end());
  }
  for (const EngineWeight& weight : engine.weights) {
    v1::EngineWeight* const to = out.add_weights();
    to->set_name(weight.name);
    to->mutable_shape()->Add(weight.shape.begin(), weight.shape.end());
    to->set_dtype(DTypeToProto(weight.dtype));
    for (const std::string& alias : weight.aliases) to->add_aliases(alias);
    to->set_is_buffer(weight.is_buffer);
    to->set_group_number(weight.group + 1);
    to->set_place(std::max(weight.place, 0));
    for (const FlatPiece& piece : weight.in_states) {
      v1::FlatPiece* const added = to->add_in_states();
      added->set_flat(piece.flat);
      added->set_flat_offset(piece.flat_offset);
      added->set_num_elements(piece.num_elements);
    }
    for (const TensorPiece& piece : weight.stored) {
      v1::TensorPiece* const added = to->add_stored();
      added->set_tensor(piece.tensor);
      added->set_tensor_offset(piece.tensor_offset);
      added->set_num_elements(piece.num_elements);
    }
  }
  out.set_round_robin_gradients(engine.round_robin_gradients);
  out.set_parameter_alignment(engine.parameter_alignment);
  return out;
}

absl::StatusOr<EngineCheckpoint> EngineFromProto(const v1::EngineCheckpoint& engine,
                                                 const std::vector<ManifestTensor>& tensors) {
  return Reader(engine, tensors).Run();
}

}  // namespace zerocast
