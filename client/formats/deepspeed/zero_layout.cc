// Which elements of the flat tensors are whose.
#include <algorithm>
#include <map>
#include <tuple>
#include <unordered_set>

#include "absl/strings/str_cat.h"
#include "client/formats/deepspeed/zero_reader.h"
#include "kernels/base/status_macros.h"

namespace zerocast {
namespace {

int64_t CountElements(const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (const int64_t extent : shape) count *= extent;  // PickleView::Shape has checked it
  return count;
}

}  // namespace

absl::Status ZeroReader::AddParameter(const NamedShape& named, int32_t group, int32_t sub_group) {
  ZeroParameter parameter;
  parameter.name = named.name;
  parameter.shape = named.shape;
  parameter.num_elements = CountElements(named.shape);
  parameter.is_trained = group >= 0;
  parameter.group = group;
  parameter.sub_group = sub_group;
  if (!parameter_of_.emplace(named.name, static_cast<int32_t>(result_.parameters.size())).second) {
    return Corrupt(PathOf(model_name_), absl::StrCat("parameter ", named.name, " comes twice"));
  }
  result_.parameters.push_back(std::move(parameter));
  return absl::OkStatus();
}

absl::Status ZeroReader::FindGroups(std::vector<int32_t>* group_of) const {
  const size_t num_sub_groups = model_.param_shapes.size();
  group_of->assign(num_sub_groups, -1);
  for (size_t group = 0; group < optim_.group_members.size(); ++group) {
    for (const int64_t member : optim_.group_members[group]) {
      if (member < 0 || member >= static_cast<int64_t>(num_sub_groups) ||
          (*group_of)[static_cast<size_t>(member)] >= 0) {
        return Corrupt(PathOf(optim_name_),
                       absl::StrCat("param_groups[", group, "] lists flat tensor ", member,
                                    ", which comes twice or is none of the ", num_sub_groups,
                                    " of param_shapes"));
      }
      (*group_of)[static_cast<size_t>(member)] = static_cast<int32_t>(group);
    }
  }
  for (size_t sub_group = 0; sub_group < num_sub_groups; ++sub_group) {
    if ((*group_of)[sub_group] >= 0) continue;
    return Corrupt(PathOf(optim_name_), absl::StrCat("flat tensor ", sub_group,
                                                     " is in none of the optimizer's groups"));
  }
  return absl::OkStatus();
}

absl::Status ZeroReader::AddParameters() {
  std::vector<int32_t> group_of;
  if (model_.has_param_shapes) {
    if (!result_.is_universal && optim_.flat.size() != model_.param_shapes.size()) {
      return Corrupt(PathOf(optim_name_),
                     absl::StrCat("it has ", optim_.flat.size(), " flat tensors, ", model_name_,
                                  " says ", model_.param_shapes.size()));
    }
    ZC_RETURN_IF_ERROR(FindGroups(&group_of));
    result_.num_groups = static_cast<int32_t>(optim_.group_members.size());
    result_.num_sub_groups = static_cast<int32_t>(model_.param_shapes.size());
  }
  for (size_t sub_group = 0; sub_group < model_.param_shapes.size(); ++sub_group) {
    for (const NamedShape& named : model_.param_shapes[sub_group]) {
      ZC_RETURN_IF_ERROR(AddParameter(named, group_of[sub_group], static_cast<int32_t>(sub_group)));
    }
  }
  for (const NamedShape& named : model_.frozen_shapes) {
    ZC_RETURN_IF_ERROR(AddParameter(named, -1, -1));
  }
  return absl::OkStatus();
}

absl::Status ZeroReader::CheckFlat(size_t flat, int64_t needed, int64_t whole) const {
  const ZeroFlat& tensors = result_.flats[flat];
  for (size_t state = 0; state < tensors.states.size(); ++state) {
    const int64_t elements = tensors.states[state].num_elements;
    if (elements >= needed && elements <= whole) continue;
    return Corrupt(
        PathOf(names_.optim_states[static_cast<size_t>(tensors.rank)]),
        absl::StrCat(result_.state_names[state], " of flat tensor ",
                     flat % static_cast<size_t>(result_.num_sub_groups), " has ", elements,
                     " elements, its parameters in ", model_name_, " have ", needed));
  }
  return absl::OkStatus();
}

absl::Status ZeroReader::TooManyElements(int32_t group) const {
  return Corrupt(PathOf(model_name_), absl::StrCat("the parameters of param_shapes[", group,
                                                   "] have more than 2^63 elements"));
}

absl::Status ZeroReader::SliceStage3() {
  const int64_t world_size = result_.world_size, num_sub_groups = result_.num_sub_groups;
  std::vector<int64_t> filled(static_cast<size_t>(num_sub_groups), 0);
  for (ZeroParameter& parameter : result_.parameters) {
    if (!parameter.is_trained) continue;
    const int64_t part = PartitionElements(parameter.num_elements, world_size);
    int64_t& offset = filled[static_cast<size_t>(parameter.sub_group)];
    for (int64_t rank = 0; rank < world_size && rank * part < parameter.num_elements; ++rank) {
      parameter.slices.push_back({static_cast<int32_t>(rank * num_sub_groups + parameter.sub_group),
                                  offset, rank * part,
                                  std::min(part, parameter.num_elements - rank * part)});
    }
    if (__builtin_add_overflow(offset, part, &offset)) return TooManyElements(parameter.sub_group);
  }
  for (size_t flat = 0; flat < result_.flats.size(); ++flat) {
    const int64_t needed = filled[flat % filled.size()];
    ZC_RETURN_IF_ERROR(CheckFlat(flat, needed, needed));
  }
  return absl::OkStatus();
}

absl::Status ZeroReader::SliceStage12() {
  const int64_t world_size = result_.world_size, num_groups = result_.num_sub_groups;
  // Where each parameter starts in its group, all ranks' partitions one behind the other.
  std::vector<int64_t> total(static_cast<size_t>(num_groups), 0), begins;
  std::vector<size_t> met(static_cast<size_t>(num_groups), 0);
  for (const ZeroParameter& parameter : result_.parameters) {
    if (!parameter.is_trained) continue;
    const size_t group = static_cast<size_t>(parameter.sub_group);
    begins.push_back(total[group]);
    if (__builtin_add_overflow(total[group], parameter.num_elements, &total[group])) {
      return TooManyElements(parameter.sub_group);
    }
    const auto& paddings = optim_.alignment_paddings;
    const size_t place = met[group]++;
    if (group < paddings.size() && place < paddings[group].size()) {
      if (paddings[group][place] < 0) {
        return Corrupt(PathOf(optim_name_), absl::StrCat("param_alignment_paddings[", group, "][",
                                                         place, "] is negative"));
      }
      // The last one's is not in the flat tensor where the group's own padding takes its place.
      if (__builtin_add_overflow(total[group], paddings[group][place], &total[group])) {
        return TooManyElements(parameter.sub_group);
      }
    }
  }
  // A rank's partition: what it saved of it and the padding that it did not save.
  std::vector<int64_t> part(static_cast<size_t>(num_groups), 0);
  for (size_t flat = 0; flat < result_.flats.size(); ++flat) {
    int64_t& most = part[flat % part.size()];
    for (const ZeroExtent& state : result_.flats[flat].states) {
      most = std::max(most, state.num_elements);
    }
  }
  size_t next = 0;
  for (ZeroParameter& parameter : result_.parameters) {
    if (!parameter.is_trained) continue;
    const int64_t begin = begins[next++], end = begin + parameter.num_elements;
    const int64_t size = part[static_cast<size_t>(parameter.sub_group)];
    for (int64_t at = begin; at < end;) {
      const int64_t rank = size == 0 ? world_size : at / size;
      if (rank >= world_size) {
        return Corrupt(PathOf(optim_name_),
                       absl::StrCat("the flat tensors of group ", parameter.sub_group, " have ",
                                    size, " elements on each of ", world_size,
                                    " ranks, too few for parameter ", parameter.name));
      }
      const int64_t stop = std::min(end, (rank + 1) * size);
      parameter.slices.push_back({static_cast<int32_t>(rank * num_groups + parameter.sub_group),
                                  at - rank * size, at - begin, stop - at});
      at = stop;
    }
  }
  std::vector<int64_t> needed(result_.flats.size(), 0);
  for (const ZeroParameter& parameter : result_.parameters) {
    for (const ZeroSlice& slice : parameter.slices) {
      int64_t& elements = needed[static_cast<size_t>(slice.flat)];
      elements = std::max(elements, slice.flat_offset + slice.num_elements);
    }
  }
  for (size_t flat = 0; flat < result_.flats.size(); ++flat) {
    ZC_RETURN_IF_ERROR(CheckFlat(flat, needed[flat], part[flat % part.size()]));
  }
  return absl::OkStatus();
}

absl::Status ZeroReader::AddFrozenOfStage3() {
  const int64_t world_size = result_.world_size;
  for (ZeroParameter& parameter : result_.parameters) {
    const auto found = fragments_.find(parameter.name);
    if (parameter.is_trained || found == fragments_.end()) continue;
    auto next = found->second.begin();
    const int64_t part = PartitionElements(parameter.num_elements, world_size);
    for (int64_t rank = 0; rank < world_size && rank * part < parameter.num_elements; ++rank) {
      ZeroExtent extent;
      if (next != found->second.end() && next->first == rank) extent = (next++)->second;
      if (extent.num_elements != part) {
        return Corrupt(PathOf(names_.model_states[static_cast<size_t>(rank)]),
                       absl::StrCat("the fragment of frozen parameter ", parameter.name, " has ",
                                    extent.num_elements, " elements, expected ", part));
      }
      extent.num_elements = std::min(part, parameter.num_elements - rank * part);
      parameter.dtype = extent.dtype;
      parameter.stored.push_back({extent, rank * part});
    }
  }
  return absl::OkStatus();
}

absl::Status ZeroReader::AddModuleTensor(const NamedTensor& named) {
  const auto found = parameter_of_.find(named.name);
  if (result_.stage == 3 && found != parameter_of_.end()) {
    // A placeholder of no elements, in the dtype of training.
    result_.parameters[static_cast<size_t>(found->second)].dtype = named.tensor.dtype;
    return absl::OkStatus();
  }
  ZC_ASSIGN_OR_RETURN(const ZeroExtent extent, Extent(*model_.file, model_index_, named.tensor,
                                                      absl::StrCat("module[", named.name, "]")));
  if (found == parameter_of_.end()) {
    // Stage 1 does not list frozen parameters, stage 0 none at all.
    ZC_RETURN_IF_ERROR(AddParameter({named.name, named.tensor.shape}, -1, -1));
    result_.parameters.back().is_trained = !model_.has_param_shapes && result_.stage == 0;
  }
  ZeroParameter& parameter = result_.parameters[static_cast<size_t>(parameter_of_.at(named.name))];
  if (extent.num_elements != parameter.num_elements) {
    return Corrupt(
        PathOf(model_name_),
        absl::StrCat("module[", named.name, "] has ", extent.num_elements,
                     " elements, its shape elsewhere in the file says ", parameter.num_elements));
  }
  parameter.dtype = extent.dtype;
  if (extent.num_elements > 0) parameter.stored = {{extent, 0}};
  return absl::OkStatus();
}

// Without ZeRO the engine does not say which names are of one weight (engine.py, _save_checkpoint:
// shared_params); but torch.save writes their elements once.
void ZeroReader::FindTies() {
  using Place = std::tuple<int64_t, DType, std::vector<int64_t>, std::vector<int64_t>>;
  std::map<Place, std::string> names;
  const std::unordered_set<std::string> buffers(model_.buffer_names.begin(),
                                                model_.buffer_names.end());
  for (const NamedTensor& named : model_.module) {
    const TorchTensor& tensor = named.tensor;
    if (tensor.num_elements == 0 || buffers.count(named.name) != 0) continue;
    const auto [first, is_new] = names.try_emplace(
        Place(tensor.file_begin, tensor.dtype, tensor.shape, tensor.strides), named.name);
    if (!is_new) model_.shared.emplace_back(named.name, first->second);
  }
}

absl::Status ZeroReader::AddModule() {
  if (!model_.has_param_shapes && model_.shared.empty()) FindTies();
  const std::unordered_set<std::string> buffers(model_.buffer_names.begin(),
                                                model_.buffer_names.end());
  std::unordered_map<std::string, std::string> stored_as(model_.shared.begin(),
                                                         model_.shared.end());
  std::unordered_set<std::string> saved;
  for (const NamedTensor& named : model_.module) saved.insert(named.name);
  for (const NamedTensor& named : model_.module) {
    result_.module_names.push_back(named.name);
    if (buffers.count(named.name) != 0) {
      ZC_ASSIGN_OR_RETURN(const ZeroExtent extent,
                          Extent(*model_.file, model_index_, named.tensor,
                                 absl::StrCat("module[", named.name, "]")));
      result_.buffers.push_back({named.name, named.tensor.shape, extent});
      continue;
    }
    const auto alias = stored_as.find(named.name);
    if (alias != stored_as.end() &&
        (parameter_of_.count(alias->second) != 0 || saved.count(alias->second) != 0)) {
      continue;
    }
    // exclude_frozen_parameters leaves out a tied weight under one name, which is then no alias.
    if (result_.stage == 3 && parameter_of_.count(named.name) == 0 &&
        named.tensor.num_elements == 0) {
      // A placeholder whose parameter was left out, or one of no elements: nothing is known of it.
      result_.module_names.pop_back();
      result_.other_values.push_back(named.name);
      continue;
    }
    ZC_RETURN_IF_ERROR(AddModuleTensor(named));
  }
  const std::unordered_set<std::string> listed(result_.module_names.begin(),
                                               result_.module_names.end());
  for (const ZeroParameter& parameter : result_.parameters) {
    if (listed.count(parameter.name) == 0) result_.module_names.push_back(parameter.name);
  }
  return absl::OkStatus();
}

void ZeroReader::AddAliases() {
  for (const auto& [alias, name] : model_.shared) {
    // Those of parameters that were left out are left out as well, as zero_to_fp32 does.
    const auto found = parameter_of_.find(name);
    if (found == parameter_of_.end()) continue;
    result_.parameters[static_cast<size_t>(found->second)].aliases.push_back(alias);
  }
}

void ZeroReader::LayOut() {
  const absl::Status status = [&]() -> absl::Status {
    ZC_RETURN_IF_ERROR(AddParameters());
    if (result_.is_universal) {
      ReadUniversal();
    } else if (model_.has_param_shapes) {
      ZC_RETURN_IF_ERROR(result_.stage == 3 ? SliceStage3() : SliceStage12());
    }
    if (result_.stage == 3) ZC_RETURN_IF_ERROR(AddFrozenOfStage3());
    ZC_RETURN_IF_ERROR(AddModule());
    AddAliases();
    return absl::OkStatus();
  }();
  if (!status.ok()) Note(status);
}

}  // namespace zerocast
