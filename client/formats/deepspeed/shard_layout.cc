#include "client/formats/deepspeed/shard_layout.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"

namespace zerocast {
namespace {

// stage_1_and_2.py: nccl_start_alignment_factor, and the bytes that parameter_alignment aligns to.
constexpr int64_t kAlignmentFactor = 2;
constexpr int64_t kParameterBytes = 16;

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

// round_robin_gradients: those whose index leaves the remainder 0, then 1, ... (stage_1_and_2.py,
// _round_robin_reorder).  result[k]: the index of the one that comes k-th.
std::vector<size_t> RoundRobin(size_t count, int64_t world_size) {
  std::vector<size_t> order;
  const size_t step = static_cast<size_t>(world_size);
  for (size_t first = 0; first < std::min(count, step); ++first) {
    for (size_t k = first; k < count; k += step) order.push_back(k);
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

// stage_1_and_2.py, __init__.
FlatLayout LayOutGroup(const ZeroCheckpoint& checkpoint, std::vector<int32_t> parameters,
                       int64_t world_size) {
  FlatLayout flat;
  flat.group = At(checkpoint, parameters[0]).group;
  const int64_t element_bytes = SizeOf(At(checkpoint, parameters[0]).dtype);
  const int64_t alignment = checkpoint.settings.parameter_alignment && element_bytes > 0
                                ? kParameterBytes / std::gcd(kParameterBytes, element_bytes)
                                : 1;
  for (const int32_t parameter : parameters) {
    flat.begins.push_back(flat.used);
    flat.used += At(checkpoint, parameter).num_elements;
    const int64_t over = flat.used % alignment;
    const bool is_padded = over != 0 && parameter != parameters.back();
    flat.paddings.push_back(is_padded ? alignment - over : 0);
    flat.used += flat.paddings.back();
  }
  flat.parameters = std::move(parameters);
  const int64_t unit = kAlignmentFactor * world_size;
  flat.partition = PartitionElements(flat.used, unit) * kAlignmentFactor;
  return flat;
}

// `saved`: the order of param_shapes at the checkpoint's own world size.
ShardLayout LayOut(const ZeroCheckpoint& checkpoint, const std::vector<std::vector<int32_t>>& saved,
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
    std::vector<int32_t> parameters = order, given = order;
    if (checkpoint.settings.round_robin_gradients) {
      const std::vector<size_t> was = RoundRobin(order.size(), checkpoint.world_size);
      const std::vector<size_t> becomes = RoundRobin(order.size(), world_size);
      for (size_t k = 0; k < order.size(); ++k) given[was[k]] = order[k];
      for (size_t k = 0; k < order.size(); ++k) parameters[k] = given[becomes[k]];
    }
    layout.flats.push_back(LayOutGroup(checkpoint, std::move(parameters), world_size));
    layout.flats.back().given = std::move(given);
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
  const ShardLayout own =
      has_empty ? ShardLayout() : LayOut(checkpoint, saved, checkpoint.world_size);
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
