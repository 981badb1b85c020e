#include "client/formats/deepspeed/shard_layout.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/plan/flat_group.h"

namespace zerocast {
namespace {

const ZeroParameter& At(const ZeroCheckpoint& checkpoint, int32_t parameter) {
  return checkpoint.parameters[static_cast<size_t>(parameter)];
}

// The parameters of each of the checkpoint's flat tensors, in the order of param_shapes.
std::vector<std::vector<int32_t>> SavedOrder(const ZeroCheckpoint& checkpoint) {
  std::vector<std::vector<int32_t>> order(static_cast<size_t>(checkpoint.num_sub_groups));
  for (size_t k = 0; k < checkpoint.parameters.size(); ++k) {
    const ZeroParameter& parameter = checkpoint.parameters[k];
    if (!parameter.is_trained || parameter.sub_group < 0) continue;
    order[static_cast<size_t>(parameter.sub_group)].push_back(static_cast<int32_t>(k));
  }
  return order;
}

// stage3.py, _create_fp16_sub_groups.
void AddSubGroups(const ZeroCheckpoint& checkpoint, const std::vector<int32_t>& parameters,
                  ShardLayout* layout) {
  const auto part = [&](int32_t parameter) {
    return PartitionElements(At(checkpoint, parameter).num_elements, layout->world_size);
  };
  int64_t all = 0;
  for (const int32_t parameter : parameters) all += part(parameter);
  const int64_t most = checkpoint.settings.sub_group_size;
  FlatLayout flat;
  for (const int32_t parameter : parameters) {
    flat.group = At(checkpoint, parameter).group;
    flat.parameters.push_back(parameter);
    flat.begins.push_back(flat.partition);
    flat.partition += part(parameter);
    const bool is_full = most < all && flat.partition >= most;
    if (!is_full && parameter != parameters.back()) continue;
    flat.used = flat.partition;
    flat.given = flat.parameters;
    layout->flats.push_back(std::move(flat));
    flat = FlatLayout();
  }
}

// The group that the optimizer was given as `given`; false where it is too large (flat_group.h).
bool LayOutGroup(const ZeroCheckpoint& checkpoint, const std::vector<int32_t>& given,
                 int64_t world_size, FlatLayout* flat) {
  const ZeroParameter& first = At(checkpoint, given[0]);
  FlatGroupOptions options;
  options.world_size = world_size;
  options.round_robin_gradients = checkpoint.settings.round_robin_gradients;
  options.alignment = FlatAlignment(checkpoint.settings.parameter_alignment, SizeOf(first.dtype));
  std::vector<int64_t> sizes;
  for (const int32_t parameter : given) sizes.push_back(At(checkpoint, parameter).num_elements);
  FlatGroup group;
  if (!LayOutFlatGroup(sizes, options, &group)) return false;
  flat->group = first.group;
  flat->given = given;
  for (const int32_t place :
       FlatOrder(static_cast<int32_t>(given.size()), world_size, options.round_robin_gradients)) {
    const auto k = static_cast<size_t>(place);
    // What is between the end of the one before and here.
    if (!flat->paddings.empty()) flat->paddings.back() = group.offsets[k] - flat->used;
    flat->parameters.push_back(given[k]);
    flat->begins.push_back(group.offsets[k]);
    flat->paddings.push_back(0);
    flat->used = group.offsets[k] + sizes[k];
  }
  flat->partition = group.num_elements / world_size;
  return true;
}

// `saved`: the order of param_shapes at the checkpoint's own world size.
absl::StatusOr<ShardLayout> LayOut(const ZeroCheckpoint& checkpoint,
                                   const std::vector<std::vector<int32_t>>& saved,
                                   int64_t world_size) {
  ShardLayout layout;
  layout.stage = checkpoint.stage;
  layout.world_size = static_cast<int32_t>(world_size);
  if (checkpoint.stage == 3) {
    for (int32_t group = 0; group < checkpoint.num_groups; ++group) {
      std::vector<int32_t> parameters;
      for (const std::vector<int32_t>& part : saved) {
        if (part.empty() || At(checkpoint, part[0]).group != group) continue;
        parameters.insert(parameters.end(), part.begin(), part.end());
      }
      AddSubGroups(checkpoint, parameters, &layout);
    }
    return layout;
  }
  for (const std::vector<int32_t>& order : saved) {
    const std::vector<int32_t> places =
        FlatOrder(static_cast<int32_t>(order.size()), checkpoint.world_size,
                  checkpoint.settings.round_robin_gradients);
    std::vector<int32_t> given(order.size());
    for (size_t k = 0; k < order.size(); ++k) given[static_cast<size_t>(places[k])] = order[k];
    if (!LayOutGroup(checkpoint, given, world_size, &layout.flats.emplace_back())) {
      return absl::InvalidArgumentError(
          absl::StrCat("lay out ", checkpoint.folder, "/", checkpoint.tag, " for ", world_size,
                       " ranks: a flat tensor would have too many elements"));
    }
  }
  return layout;
}

}  // namespace

absl::StatusOr<ShardLayout> LayOutShards(const ZeroCheckpoint& checkpoint, int64_t world_size) {
  if (world_size < 1 || world_size > kMaxWorldSize) {
    return absl::InvalidArgumentError(absl::StrCat("lay out ", checkpoint.folder, " for ",
                                                   world_size, " ranks: a world size is 1 to ",
                                                   kMaxWorldSize));
  }
  if (checkpoint.stage == 0) {
    return WithReason(
        absl::UnimplementedError(absl::StrCat(
            "lay out ", checkpoint.folder, "/", checkpoint.tag,
            ": it was saved without ZeRO, so nothing in it depends on the world size: load it as "
            "it is")),
        "UNSUPPORTED");
  }
  const std::vector<std::vector<int32_t>> saved = SavedOrder(checkpoint);
  const bool has_empty = std::any_of(saved.begin(), saved.end(),
                                     [](const auto& parameters) { return parameters.empty(); });
  ShardLayout own;
  if (!has_empty) {
    ZC_ASSIGN_OR_RETURN(own, LayOut(checkpoint, saved, checkpoint.world_size));
  }
  bool is_same = own.flats.size() == saved.size();
  for (size_t k = 0; is_same && k < saved.size(); ++k) {
    is_same = own.flats[k].parameters == saved[k];
  }
  if (!is_same) {
    return WithReason(
        absl::FailedPreconditionError(absl::StrCat(
            "lay out ", checkpoint.folder, "/", checkpoint.tag, ": its ", saved.size(),
            " flat tensors a rank are not those that its ds_config gives (sub_group_size ",
            checkpoint.settings.sub_group_size, " on ", checkpoint.world_size, " ranks gives ",
            own.flats.size(), "), so those of another world size cannot be known")),
        "UNSUPPORTED");
  }
  return LayOut(checkpoint, saved, world_size);
}

std::vector<FlatPart> PartsOf(const ZeroCheckpoint& checkpoint, const ShardLayout& layout,
                              const FlatLayout& flat, int64_t rank) {
  std::vector<FlatPart> parts;
  for (size_t k = 0; k < flat.parameters.size(); ++k) {
    const int64_t elements = At(checkpoint, flat.parameters[k]).num_elements;
    FlatPart part;
    part.parameter = flat.parameters[k];
    if (layout.stage == 3) {
      const int64_t size = PartitionElements(elements, layout.world_size);
      part.flat_offset = flat.begins[k];
      part.offset = rank * size;
      part.num_elements = std::min(size, elements - part.offset);
    } else {
      const int64_t begin = rank * flat.partition;
      const int64_t first = std::max(begin, flat.begins[k]);
      part.flat_offset = first - begin;
      part.offset = first - flat.begins[k];
      part.num_elements = std::min(begin + flat.partition, flat.begins[k] + elements) - first;
    }
    if (part.num_elements > 0) parts.push_back(part);
  }
  return parts;
}

int64_t EndPadding(const FlatLayout& flat, int64_t rank) {
  const int64_t left = flat.used - rank * flat.partition;
  return flat.partition - std::clamp<int64_t>(left, 0, flat.partition);
}

}  // namespace zerocast
