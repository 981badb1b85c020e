#include "server/plan/compose.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "kernels/base/status_macros.h"
#include "kernels/copy/algebra.h"
#include "server/base/errors.h"
#include "server/conversion/explain.h"
#include "server/plan/assemble.h"
#include "server/plan/flat_group.h"
#include "server/plan/shape.h"

namespace zerocast {
namespace {

absl::Status Contradiction(const EngineWeight& weight, absl::string_view what) {
  return WithReason(absl::InvalidArgumentError(
                        absl::StrCat("manifest.engine: weight '", weight.name, "' ", what)),
                    "INVALID_FIELDS");
}

// Puts the pieces of one weight one behind the other as boxes.
class BoxMaker {
 public:
  BoxMaker(const Manifest& manifest, const EngineWeight& weight, int64_t target_offset)
      : manifest_(manifest), weight_(weight), target_offset_(target_offset) {}

  absl::Status Add(int32_t tensor, int64_t offset, int64_t num_elements) {
    if (tensor < 0 || tensor >= static_cast<int64_t>(manifest_.tensors.size())) {
      return Contradiction(weight_, absl::StrCat("has a piece of tensor ", tensor, " of ",
                                                 manifest_.tensors.size()));
    }
    int64_t size = 0;
    const std::vector<int64_t>& shape = manifest_.tensors[static_cast<size_t>(tensor)].tensor.shape;
    if (!CheckedElements(shape, &size) || offset < 0 || num_elements < 1 ||
        num_elements > size - offset) {
      return Contradiction(weight_, absl::StrCat("has a piece of ", num_elements, " elements from ",
                                                 offset, " on of a tensor of ", size));
    }
    const BoxDim dim = {num_elements, 1, 1};
    ZC_ASSIGN_OR_RETURN(
        Box box, MakeBox(tensor, offset, target_offset_ + added_, absl::MakeConstSpan(&dim, 1)));
    boxes_.push_back(box);
    added_ += num_elements;
    return absl::OkStatus();
  }

  // The boxes, which must hold all elements of the weight.
  absl::StatusOr<std::vector<Box>> Take(int64_t num_elements) {
    if (added_ != num_elements) {
      return Contradiction(weight_,
                           absl::StrCat("has ", num_elements, " elements, its pieces ", added_));
    }
    MergeBoxes(&boxes_);
    return std::move(boxes_);
  }

 private:
  const Manifest& manifest_;
  const EngineWeight& weight_;
  const int64_t target_offset_;
  int64_t added_ = 0;
  std::vector<Box> boxes_;
};

absl::StatusOr<int64_t> ElementsOf(const EngineWeight& weight) {
  int64_t num_bytes = 0, num_elements = 0;
  if (!CheckedBytes(weight.shape, weight.dtype, &num_bytes) ||
      !CheckedElements(weight.shape, &num_elements)) {
    return Contradiction(weight, absl::StrCat("of shape ", ShapeAsText(weight.shape), " and dtype ",
                                              DTypeName(weight.dtype), " is no tensor"));
  }
  return num_elements;
}

// All elements of `weight` in state `state`, from element `target_offset` of the target on.
absl::StatusOr<std::vector<Box>> StateBoxes(const Manifest& manifest, const EngineWeight& weight,
                                            size_t state, int64_t target_offset) {
  ZC_ASSIGN_OR_RETURN(const int64_t num_elements, ElementsOf(weight));
  const EngineCheckpoint& engine = *manifest.engine;
  BoxMaker maker(manifest, weight, target_offset);
  for (const FlatPiece& piece : weight.in_states) {
    if (piece.flat < 0 || piece.flat >= static_cast<int64_t>(engine.flats.size()) ||
        engine.flats[static_cast<size_t>(piece.flat)].size() != engine.states.size()) {
      return Contradiction(weight, absl::StrCat("has a piece of flat tensor ", piece.flat, " of ",
                                                engine.flats.size()));
    }
    ZC_RETURN_IF_ERROR(maker.Add(engine.flats[static_cast<size_t>(piece.flat)][state],
                                 piece.flat_offset, piece.num_elements));
  }
  return maker.Take(num_elements);
}

absl::StatusOr<std::vector<Box>> StoredBoxes(const Manifest& manifest, const EngineWeight& weight) {
  ZC_ASSIGN_OR_RETURN(const int64_t num_elements, ElementsOf(weight));
  BoxMaker maker(manifest, weight, 0);
  for (const TensorPiece& piece : weight.stored) {
    ZC_RETURN_IF_ERROR(maker.Add(piece.tensor, piece.tensor_offset, piece.num_elements));
  }
  return maker.Take(num_elements);
}

std::vector<int32_t> SourcesOf(const std::vector<Box>& boxes) {
  std::vector<int32_t> sources;
  for (const Box& box : boxes) sources.push_back(box.source);
  std::sort(sources.begin(), sources.end());
  sources.erase(std::unique(sources.begin(), sources.end()), sources.end());
  return sources;
}

// A trained parameter that the model has.
struct Trained {
  const EngineWeight* weight = nullptr;
  const Target* target = nullptr;
};

class StateTargets {
 public:
  explicit StateTargets(Plan* plan)
      : plan_(*plan), manifest_(*plan->manifest), engine_(*plan->manifest->engine) {}

  absl::Status Run() {
    ZC_RETURN_IF_ERROR(FindTrained());
    std::vector<Target> targets;
    for (size_t state = 0; state < engine_.states.size(); ++state) {
      ZC_RETURN_IF_ERROR(IsFlat() ? AddGroups(state, &targets) : AddByName(state, &targets));
    }
    for (Target& target : targets) plan_.targets.push_back(std::move(target));
    return LayOutArena(&plan_);
  }

 private:
  bool IsFlat() const { return plan_.layout.zero_stage == 1 || plan_.layout.zero_stage == 2; }

  absl::Status FindTrained() {
    absl::flat_hash_map<absl::string_view, const Target*> by_name;
    for (const Target& target : plan_.targets) {
      by_name.emplace(target.name, &target);
      for (const std::string& alias : target.aliases) by_name.emplace(alias, &target);
    }
    std::vector<std::string> misfits;
    for (const EngineWeight& weight : engine_.weights) {
      if (weight.group < 0) continue;
      auto found = by_name.find(weight.name);
      for (size_t i = 0; found == by_name.end() && i < weight.aliases.size(); ++i) {
        found = by_name.find(weight.aliases[i]);
      }
      if (found == by_name.end()) continue;
      if (!found->second->is_filled || found->second->shape != weight.shape) {
        misfits.push_back(weight.name);
        continue;
      }
      trained_.push_back({&weight, found->second});
    }
    if (misfits.empty()) return absl::OkStatus();
    return WithReason(
        absl::FailedPreconditionError(absl::StrCat(
            "plan the optimizer's states: the model does not take ", misfits.size(),
            " of the trained parameters as they are, so that their states fit nowhere (",
            Abridged(misfits, ", "), "); load the weights alone (--no-optimizer)")),
        "WEIGHTS_INCOMPLETE");
  }

  // The dtype of a state's tensors; float32 where there is none to ask.
  absl::StatusOr<DType> DTypeOf(const std::vector<Box>& boxes, absl::string_view name) const {
    DType dtype = DType::kInvalid;
    for (const Box& box : boxes) {
      const DType stored = manifest_.tensors[static_cast<size_t>(box.source)].tensor.dtype;
      if (dtype != DType::kInvalid && stored != dtype) {
        return WithReason(absl::InvalidArgumentError(absl::StrCat("manifest.engine: '", name,
                                                                  "' is made of ", DTypeName(dtype),
                                                                  " and of ", DTypeName(stored))),
                          "INVALID_FIELDS");
      }
      dtype = stored;
    }
    return dtype == DType::kInvalid ? DType::kFloat32 : dtype;
  }

  Target NewTarget(size_t state, absl::string_view name) const {
    Target target;
    target.name = absl::StrCat("optimizer/", engine_.states[state], "/", name);
    target.is_state = target.is_filled = true;
    return target;
  }

  absl::Status AddByName(size_t state, std::vector<Target>* out) const {
    for (const Trained& trained : trained_) {
      Target target = NewTarget(state, trained.target->name);
      target.shape = trained.weight->shape;
      ZC_ASSIGN_OR_RETURN(target.boxes, StateBoxes(manifest_, *trained.weight, state, 0));
      ZC_ASSIGN_OR_RETURN(target.dtype, DTypeOf(target.boxes, target.name));
      out->push_back(std::move(target));
    }
    return absl::OkStatus();
  }

  absl::Status AddGroups(size_t state, std::vector<Target>* out) const {
    int32_t num_groups = 0;
    for (const Trained& trained : trained_) {
      num_groups = std::max(num_groups, trained.weight->group + 1);
    }
    std::vector<std::vector<Trained>> groups(static_cast<size_t>(num_groups));
    for (const Trained& trained : trained_) {
      groups[static_cast<size_t>(trained.weight->group)].push_back(trained);
    }
    for (size_t group = 0; group < groups.size(); ++group) {
      if (groups[group].empty()) continue;
      std::sort(groups[group].begin(), groups[group].end(), [](const Trained& a, const Trained& b) {
        return a.weight->place < b.weight->place;
      });
      Target target = NewTarget(state, absl::StrCat(group));
      ZC_RETURN_IF_ERROR(FillGroup(groups[group], state, &target));
      out->push_back(std::move(target));
    }
    return absl::OkStatus();
  }

  absl::Status FillGroup(const std::vector<Trained>& members, size_t state, Target* target) const {
    const Layout& layout = plan_.layout;
    FlatGroupOptions options;
    options.world_size = layout.world_size;
    options.round_robin_gradients =
        layout.round_robin_gradients.value_or(engine_.round_robin_gradients);
    options.alignment =
        FlatAlignment(layout.parameter_alignment.value_or(engine_.parameter_alignment),
                      SizeOf(members[0].target->dtype));
    std::vector<int64_t> sizes;
    for (const Trained& member : members) {
      ZC_ASSIGN_OR_RETURN(const int64_t size, ElementsOf(*member.weight));
      sizes.push_back(size);
    }
    FlatGroup group;
    if (!LayOutFlatGroup(sizes, options, &group)) {
      return Contradiction(*members[0].weight, "is in a group of too many elements");
    }
    std::vector<std::pair<int64_t, int64_t>> filled;
    for (size_t k = 0; k < members.size(); ++k) {
      ZC_ASSIGN_OR_RETURN(const std::vector<Box> boxes,
                          StateBoxes(manifest_, *members[k].weight, state, group.offsets[k]));
      target->boxes.insert(target->boxes.end(), boxes.begin(), boxes.end());
      filled.emplace_back(group.offsets[k], group.offsets[k] + sizes[k]);
      target->aliases.push_back(members[k].target->name);
    }
    MergeBoxes(&target->boxes);
    std::sort(filled.begin(), filled.end());
    int64_t at = 0;
    for (const auto& [begin, end] : filled) {
      if (begin > at) target->gaps.push_back({at, begin - at});
      at = end;
    }
    if (group.num_elements > at) target->gaps.push_back({at, group.num_elements - at});
    target->shape = {group.num_elements};
    ZC_ASSIGN_OR_RETURN(target->dtype, DTypeOf(target->boxes, target->name));
    return absl::OkStatus();
  }

  Plan& plan_;
  const Manifest& manifest_;
  const EngineCheckpoint& engine_;
  std::vector<Trained> trained_;  // in the order of the engine's weights
};

}  // namespace

ModelSpec SpecOfEngine(const EngineCheckpoint& engine) {
  ModelSpec spec;
  for (const EngineWeight& weight : engine.weights) {
    (weight.is_buffer ? spec.buffers : spec.params)
        .push_back({weight.name, weight.shape, weight.dtype});
    for (const std::string& alias : weight.aliases) spec.tied[alias] = weight.name;
  }
  return spec;
}

absl::StatusOr<Conversion> ComposeWeights(const Manifest& manifest,
                                          absl::Span<const SpecTensor> names) {
  absl::flat_hash_set<absl::string_view> wanted;
  for (const SpecTensor& tensor : names) wanted.insert(tensor.name);
  Conversion conversion;
  for (const EngineWeight& weight : manifest.engine->weights) {
    ConvertedTensor tensor;
    tensor.name = weight.name;
    for (size_t i = 0; !wanted.contains(tensor.name) && i < weight.aliases.size(); ++i) {
      if (wanted.contains(weight.aliases[i])) tensor.name = weight.aliases[i];
    }
    if (!wanted.contains(tensor.name)) {
      conversion.unexpected.push_back(weight.name);
      continue;
    }
    ZC_ASSIGN_OR_RETURN(const int64_t num_elements, ElementsOf(weight));
    const bool from_masters = !weight.in_states.empty();
    // The engine saved no value of it: it is missing.
    if (num_elements > 0 && !from_masters && weight.stored.empty()) continue;
    ZC_ASSIGN_OR_RETURN(tensor.boxes, from_masters ? StateBoxes(manifest, weight, 0, 0)
                                                   : StoredBoxes(manifest, weight));
    tensor.shape = weight.shape;
    tensor.dtype = weight.dtype;
    tensor.sources = SourcesOf(tensor.boxes);
    conversion.tensors.push_back(std::move(tensor));
  }
  return conversion;
}

absl::Status AddStateTargets(Plan* plan) { return StateTargets(plan).Run(); }

}  // namespace zerocast
