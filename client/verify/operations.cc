#include "client/verify/operations.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "client/verify/dequantize.h"
#include "kernels/base/status_macros.h"

namespace zerocast::verify {
namespace {

using Results = std::vector<NamedTensors>;
using absl::InvalidArgumentError;

void Store(std::string pattern, Tensor tensor, Results* results) {
  NamedTensors made{std::move(pattern), {}, /*single=*/true};
  made.tensors.push_back(std::move(tensor));
  for (NamedTensors& other : *results) {
    if (other.pattern == made.pattern) {
      other = std::move(made);
      return;
    }
  }
  results->push_back(std::move(made));
}

std::string WithIndex(const std::string& pattern, size_t index) {
  return absl::StrReplaceAll(pattern, {{"*", absl::StrCat(index)}});
}

absl::Status Refused() { return InvalidArgumentError("not defined for these patterns"); }

// The one tensor of operations that take no more.
absl::StatusOr<const Tensor*> OnlyTensor(const Results& input) {
  if (input.size() != 1 || input[0].tensors.empty()) return Refused();
  return &input[0].tensors[0];
}

absl::StatusOr<std::string> OnlyName(const OperationContext& context) {
  if (context.targets.size() == 1) return context.targets[0];
  if (context.sources.size() == 1) return context.sources[0];
  return Refused();
}

absl::StatusOr<Results> Stack(const Op& op, Results input, const OperationContext& context) {
  Results results;
  const bool alone = input.size() == 1;
  if (alone && context.targets.size() != 1) return Refused();
  for (NamedTensors& named : input) {
    std::string pattern = alone ? context.targets[0] : named.pattern;
    if (named.single) {
      Store(std::move(pattern), std::move(named.tensors[0]), &results);
      continue;
    }
    ZC_ASSIGN_OR_RETURN(Tensor stacked, StackTensors(named.tensors, op.dim));
    Store(std::move(pattern), std::move(stacked), &results);
  }
  return results;
}

absl::StatusOr<Results> Unstack(const Op& op, const Results& input,
                                const OperationContext& context) {
  Results results;
  if (input.size() == 1 && context.targets.size() != 1) return Refused();
  for (const NamedTensors& named : input) {
    if (named.tensors.empty()) return Refused();
    ZC_ASSIGN_OR_RETURN(std::vector<Tensor> pieces, UnbindTensor(named.tensors[0], op.dim));
    for (size_t i = 0; i < pieces.size(); ++i) {
      Store(WithIndex(input.size() == 1 ? context.targets[0] : named.pattern, i),
            std::move(pieces[i]), &results);
    }
  }
  return results;
}

// The tensors of all sources, in the order in which the rule names its sources.
absl::StatusOr<Results> Cat(const Op& op, Results input, const OperationContext& context) {
  if (context.targets.size() != 1) return Refused();
  std::vector<Tensor> tensors;
  for (const std::string& source : context.sources) {
    for (NamedTensors& named : input) {
      if (named.pattern != source) continue;
      for (Tensor& tensor : named.tensors) tensors.push_back(std::move(tensor));
      named.tensors.clear();
    }
  }
  ZC_ASSIGN_OR_RETURN(Tensor joined, CatTensors(tensors, op.dim));
  Results results;
  Store(context.targets[0], std::move(joined), &results);
  return results;
}

// The count that the text part of the config gives.
absl::StatusOr<int64_t> Count(const std::string& attribute, const nlohmann::json& config) {
  const nlohmann::json* text = &config;
  if (const auto part = config.find("text_config"); part != config.end() && part->is_object()) {
    text = &*part;
  }
  const auto count = text->find(attribute);
  // More pieces than any tensor has would only exhaust the memory.
  if (count == text->end() || !count->is_number_unsigned() || count->get<uint64_t>() < 1 ||
      count->get<uint64_t>() > 1'000'000) {
    return InvalidArgumentError(absl::StrCat("the config has no count '", attribute, "'"));
  }
  return count->get<int64_t>();
}

absl::StatusOr<Results> Chunk(const Op& op, const Results& input, const OperationContext& context) {
  ZC_ASSIGN_OR_RETURN(const Tensor* tensor, OnlyTensor(input));
  std::vector<std::string> names = context.targets;
  if (!op.count_attr.empty()) {
    if (names.size() != 1) return Refused();
    ZC_ASSIGN_OR_RETURN(const int64_t count, Count(op.count_attr, *context.config));
    names.clear();
    for (int64_t i = 0; i < count; ++i) names.push_back(WithIndex(context.targets[0], i));
  }
  ZC_ASSIGN_OR_RETURN(std::vector<Tensor> pieces,
                      ChunkTensor(*tensor, static_cast<int64_t>(names.size()), op.dim));
  Results results;
  for (size_t i = 0; i < pieces.size(); ++i) Store(names[i], std::move(pieces[i]), &results);
  return results;
}

absl::StatusOr<const Shape*> ModelShape(const OperationContext& context, const std::string& name) {
  const auto found = context.model_shapes->find(name);
  if (found == context.model_shapes->end()) {
    return InvalidArgumentError(absl::StrCat("the shape of '", name, "' is not known"));
  }
  return &found->second;
}

absl::StatusOr<Results> SplitByTarget(const Op& op, const Results& input,
                                      const OperationContext& context) {
  ZC_ASSIGN_OR_RETURN(const Tensor* tensor, OnlyTensor(input));
  Shape sizes;
  for (const std::string& target : context.targets) {
    ZC_ASSIGN_OR_RETURN(const Shape* shape,
                        ModelShape(context, absl::StrReplaceAll(context.full_name,
                                                                {{context.targets[0], target}})));
    const auto rank = static_cast<int64_t>(shape->size());
    if (op.dim < -rank || op.dim >= rank) return Refused();
    sizes.push_back((*shape)[op.dim < 0 ? op.dim + rank : op.dim]);
  }
  ZC_ASSIGN_OR_RETURN(std::vector<Tensor> pieces, SplitTensor(*tensor, sizes, op.dim));
  Results results;
  for (size_t i = 0; i < pieces.size(); ++i) {
    Store(context.targets[i], std::move(pieces[i]), &results);
  }
  return results;
}

absl::StatusOr<Results> Transpose(const Op& op, const Results& input,
                                  const OperationContext& context) {
  ZC_ASSIGN_OR_RETURN(std::string name, OnlyName(context));
  ZC_ASSIGN_OR_RETURN(const Tensor* tensor, OnlyTensor(input));
  Results results;
  if (op.check_dims) {
    ZC_ASSIGN_OR_RETURN(const Shape* shape, ModelShape(context, context.full_name));
    if (*shape == tensor->shape) {
      Store(std::move(name), *tensor, &results);
      return results;
    }
  }
  ZC_ASSIGN_OR_RETURN(Tensor transposed, TransposeTensor(*tensor, op.a, op.b));
  Store(std::move(name), std::move(transposed), &results);
  return results;
}

absl::StatusOr<Results> Interleave(const Op& op, const Results& input,
                                   const OperationContext& context) {
  if (input.empty() || input[0].tensors.empty()) return Refused();
  ZC_ASSIGN_OR_RETURN(Tensor tensor, InterleaveTensor(input[0].tensors[0], op.dim, op.inverse));
  Results results;
  Store(context.targets[0], std::move(tensor), &results);
  return results;
}

// The heads of the config, or of the part of it that the operation names; configs know them by
// several names.
absl::StatusOr<int64_t> Heads(const Op& op, const nlohmann::json& whole) {
  const nlohmann::json* config = &whole;
  if (!op.subconfig.empty() && whole.contains(op.subconfig) && whole[op.subconfig].is_object()) {
    config = &whole[op.subconfig];
  }
  for (const char* name : {"num_attention_heads", "num_heads", "n_heads", "n_head"}) {
    const auto heads = config->find(name);
    if (heads == config->end()) continue;
    if (!heads->is_number_unsigned() || heads->get<uint64_t>() < 1 ||
        heads->get<uint64_t>() > 1'000'000) {
      return InvalidArgumentError(absl::StrCat("the config's ", name, " is not a count"));
    }
    return heads->get<int64_t>();
  }
  return 1;
}

absl::StatusOr<Results> PermuteRope(const Op& op, Results input, const OperationContext& context) {
  ZC_ASSIGN_OR_RETURN(const int64_t heads, Heads(op, *context.config));
  if (context.sources.size() != 1 && context.targets.size() != 1) return Refused();
  const bool to_target = context.sources.size() == 1 && context.targets.size() == 1;
  Results results;
  for (NamedTensors& named : input) {
    const bool chosen = op.only.empty() ||
                        std::any_of(op.only.begin(), op.only.end(), [&](const std::string& part) {
                          return absl::StrContains(named.pattern, part);
                        });
    if (named.tensors.size() != 1) return Refused();
    Tensor tensor = std::move(named.tensors[0]);
    if (chosen) {
      ZC_ASSIGN_OR_RETURN(tensor, PermuteRopeTensor(tensor, heads, op.inverse));
    }
    Store(to_target ? context.targets[0] : named.pattern, std::move(tensor), &results);
  }
  return results;
}

// Every source's list is cut into as many runs as there are targets; a target is its runs of all
// sources, each stacked, joined.
absl::StatusOr<Results> ErnieFuseSplit(const Op& op, const Results& input,
                                       const OperationContext& context) {
  const size_t num_targets = context.targets.size();
  Results results;
  for (size_t t = 0; t < num_targets; ++t) {
    std::vector<Tensor> runs;
    for (const std::string& source : context.sources) {
      const NamedTensors* const named = Under(input, source);
      if (named == nullptr) return InvalidArgumentError(absl::StrCat("no tensor for ", source));
      const size_t count = named->tensors.size();
      const size_t run = (count + num_targets - 1) / num_targets;
      const size_t begin = std::min(count, t * run), end = std::min(count, begin + run);
      ZC_ASSIGN_OR_RETURN(
          Tensor stacked,
          StackTensors(absl::MakeSpan(named->tensors).subspan(begin, end - begin), op.dim));
      runs.push_back(std::move(stacked));
    }
    ZC_ASSIGN_OR_RETURN(Tensor joined, CatTensors(runs, op.concat_dim));
    Store(context.targets[t], std::move(joined), &results);
  }
  return results;
}

absl::StatusOr<Results> ErnieSplitDecouple(const Op& op, const Results& input,
                                           const OperationContext& context) {
  const size_t num_targets = context.targets.size();
  std::vector<std::vector<Tensor>> lists(num_targets);
  for (const std::string& source : context.sources) {
    const NamedTensors* const named = Under(input, source);
    if (named == nullptr || named->tensors.empty()) {
      return InvalidArgumentError(absl::StrCat("no tensor for ", source));
    }
    ZC_ASSIGN_OR_RETURN(
        std::vector<Tensor> pieces,
        ChunkTensor(named->tensors[0], static_cast<int64_t>(num_targets), op.concat_dim));
    if (pieces.size() < num_targets) {
      return InvalidArgumentError(absl::StrCat(source, " has too few pieces"));
    }
    for (size_t t = 0; t < num_targets; ++t) {
      ZC_ASSIGN_OR_RETURN(std::vector<Tensor> singles, UnbindTensor(pieces[t], op.dim));
      for (Tensor& single : singles) lists[t].push_back(std::move(single));
    }
  }
  Results results;
  for (size_t t = 0; t < num_targets; ++t) {
    for (size_t i = 0; i < lists[t].size(); ++i) {
      Store(WithIndex(context.targets[t], i), std::move(lists[t][i]), &results);
    }
  }
  return results;
}

// The elements stay where they are; the shape, or nothing, changes.
absl::StatusOr<Results> Reshape(const Op& op, const Results& input,
                                const OperationContext& context) {
  ZC_ASSIGN_OR_RETURN(std::string name, OnlyName(context));
  ZC_ASSIGN_OR_RETURN(const Tensor* tensor, OnlyTensor(input));
  Tensor reshaped = *tensor;
  Shape shape = reshaped.shape;
  if (op.kind == OpKind::kConv3dToLinear && shape.size() != 2) {
    if (shape.size() != 5) return Refused();
    shape = {shape[0], shape[1] * shape[2] * shape[3] * shape[4]};
  } else if (op.kind == OpKind::kLinearToConv3d) {
    if (shape.size() != 2 || op.kernel.size() != 3) return Refused();
    shape = {shape[0], op.in_channels, op.kernel[0], op.kernel[1], op.kernel[2]};
  }
  if (NumElements(shape) != NumElements(reshaped.shape)) {
    return InvalidArgumentError(
        absl::StrCat("shape ", ShapeText(reshaped.shape), " does not become ", ShapeText(shape)));
  }
  reshaped.shape = std::move(shape);
  Results results;
  Store(std::move(name), std::move(reshaped), &results);
  return results;
}

}  // namespace

const NamedTensors* Under(const Results& input, const std::string& pattern) {
  const auto found = std::find_if(input.begin(), input.end(), [&](const NamedTensors& named) {
    return named.pattern == pattern;
  });
  return found == input.end() ? nullptr : &*found;
}

absl::StatusOr<std::vector<NamedTensors>> RunOperation(const Op& op,
                                                       std::vector<NamedTensors> input,
                                                       const OperationContext& context) {
  switch (op.kind) {
    case OpKind::kStack:
      return Stack(op, std::move(input), context);
    case OpKind::kUnstack:
      return Unstack(op, input, context);
    case OpKind::kCat:
      return Cat(op, std::move(input), context);
    case OpKind::kChunk:
      return Chunk(op, input, context);
    case OpKind::kSplitByTarget:
      return SplitByTarget(op, input, context);
    case OpKind::kTranspose:
      return Transpose(op, input, context);
    case OpKind::kInterleave:
      return Interleave(op, input, context);
    case OpKind::kPermuteRope:
      return PermuteRope(op, std::move(input), context);
    case OpKind::kErnieFuseSplit:
      return ErnieFuseSplit(op, input, context);
    case OpKind::kErnieSplitDecouple:
      return ErnieSplitDecouple(op, input, context);
    case OpKind::kConv3dToLinear:
    case OpKind::kLinearToConv3d:
    case OpKind::kAlign16:
      return Reshape(op, input, context);
    case OpKind::kFp8Dequantize:
    case OpKind::kMxfp4Dequantize:
      return RunDequantize(op, input, context);
  }
  return InvalidArgumentError("an unknown operation");
}

}  // namespace zerocast::verify
