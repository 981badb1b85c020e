#include "server/conversion/lower.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "kernels/base/status_macros.h"
#include "kernels/copy/algebra.h"
#include "server/conversion/permute.h"
#include "server/conversion/tensor_algebra.h"

namespace zerocast {

const Entry* FindEntry(const Entries& entries, absl::string_view name) {
  for (const Entry& entry : entries) {
    if (entry.name == name) return &entry;
  }
  return nullptr;
}

namespace {

constexpr absl::string_view kUndefined = "Undefined Operation encountered";

absl::Status Undefined() { return absl::InvalidArgumentError(kUndefined); }

bool Contains(absl::string_view text, absl::string_view part) {
  return absl::StrContains(text, part);
}

// Sets `name` to `entry`, in its place where the name is taken, as assigning to a dict does.
void Put(std::string name, Entry entry, Entries* entries) {
  entry.name = std::move(name);
  for (Entry& other : *entries) {
    if (other.name == entry.name) {
      other = std::move(entry);
      return;
    }
  }
  entries->push_back(std::move(entry));
}

void PutOne(std::string name, Value value, Entries* entries) {
  Entry entry;
  entry.values.push_back(std::move(value));
  Put(std::move(name), std::move(entry), entries);
}

std::string Numbered(absl::string_view pattern, size_t index) {
  return absl::StrReplaceAll(pattern, {{"*", absl::StrCat(index)}});
}

// The first tensor of the only entry, which several operations take for their input.
absl::StatusOr<const Value*> First(const Entries& input) {
  if (input.empty() || input[0].values.empty()) {
    return absl::InvalidArgumentError("no tensor was collected");
  }
  return &input[0].values[0];
}

// The name under which an operation of one tensor leaves its result.
absl::StatusOr<std::string> SingleName(const Entries& input, const OpContext& context) {
  if (input.size() != 1) return Undefined();
  if (context.targets.size() == 1) return context.targets[0];
  if (context.sources.size() == 1) return context.sources[0];
  return Undefined();
}

absl::StatusOr<Entries> ApplyStack(const Op& op, const Entries& input, const OpContext& context) {
  Entries result;
  for (const Entry& entry : input) {
    std::string name = entry.name;
    if (input.size() == 1) {
      if (context.targets.size() != 1) return Undefined();
      name = context.targets[0];
    }
    if (!entry.is_list && context.generation != 1) {
      Put(std::move(name), entry, &result);
      continue;
    }
    ZC_ASSIGN_OR_RETURN(Value value, Stack(entry.values, op.dim));
    PutOne(std::move(name), std::move(value), &result);
  }
  return result;
}

// Drops axis `dim`, or in generation 1 every axis of size 1.
void Squeeze(int64_t dim, int generation, std::vector<int64_t>* shape) {
  if (generation == 1) {
    shape->erase(std::remove(shape->begin(), shape->end(), 1), shape->end());
  } else {
    shape->erase(shape->begin() + dim);
  }
}

absl::StatusOr<Entries> ApplyUnstack(const Op& op, const Entries& input, const OpContext& context) {
  Entries result;
  for (const Entry& entry : input) {
    if (entry.values.empty()) return absl::InvalidArgumentError("no tensor was collected");
    const Value& value = entry.values[0];
    if (value.shape.empty()) {
      return absl::InvalidArgumentError("a tensor without axes cannot be unstacked");
    }
    ZC_ASSIGN_OR_RETURN(const int64_t dim,
                        WrapDim(op.dim, static_cast<int64_t>(value.shape.size())));
    if (input.size() == 1 && context.targets.size() != 1) return Undefined();
    const std::string& pattern = input.size() == 1 ? context.targets[0] : entry.name;
    ZC_ASSIGN_OR_RETURN(std::vector<Value> pieces, Chunk(value, value.shape[dim], dim));
    for (size_t i = 0; i < pieces.size(); ++i) {
      Squeeze(dim, context.generation, &pieces[i].shape);
      PutOne(Numbered(pattern, i), std::move(pieces[i]), &result);
    }
  }
  return result;
}

absl::StatusOr<Entries> ApplyCat(const Op& op, const Entries& input, const OpContext& context) {
  if (context.targets.size() != 1) return Undefined();
  std::vector<Value> values;
  // In the order of the rule's sources, whatever the order in which tensors were met.
  std::vector<absl::string_view> taken;
  for (const std::string& source : context.sources) {
    const Entry* const entry = FindEntry(input, source);
    const bool twice = std::find(taken.begin(), taken.end(), source) != taken.end();
    if (entry == nullptr || (twice && context.generation != 1)) {
      if (context.generation != 1) continue;
      return absl::InvalidArgumentError(absl::StrCat("no tensor was collected for '", source, "'"));
    }
    taken.push_back(source);
    values.insert(values.end(), entry->values.begin(), entry->values.end());
  }
  ZC_ASSIGN_OR_RETURN(Value value, Cat(values, op.dim));
  Entries result;
  PutOne(context.targets[0], std::move(value), &result);
  return result;
}

// The value of `name` in the config or in its text_config, where it is an integer.
absl::StatusOr<int64_t> TextConfigCount(const OpContext& context, const std::string& name) {
  const nlohmann::json* config = context.config;
  if (config != nullptr) {
    const auto text = config->find("text_config");
    if (text != config->end() && text->is_object()) config = &*text;
    const auto count = config->find(name);
    if (count != config->end() && count->is_number_integer()) {
      const auto number = count->get<int64_t>();
      if (number >= 1 && number <= kMaxBoxesPerTarget) return number;
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat("the config has no usable count '", name, "' (1 to ", kMaxBoxesPerTarget, ")"));
}

absl::StatusOr<Entries> ApplyChunk(const Op& op, const Entries& input, const OpContext& context) {
  if (input.size() > 1 || (context.generation == 1 && context.targets.size() == 1)) {
    return Undefined();
  }
  ZC_ASSIGN_OR_RETURN(const Value* value, First(input));
  std::vector<std::string> names(context.targets.begin(), context.targets.end());
  if (!op.count_attr.empty()) {
    if (context.targets.size() > 1) return Undefined();
    ZC_ASSIGN_OR_RETURN(const int64_t count, TextConfigCount(context, op.count_attr));
    names.clear();
    for (int64_t i = 0; i < count; ++i) names.push_back(Numbered(context.targets[0], i));
  }
  ZC_ASSIGN_OR_RETURN(std::vector<Value> pieces,
                      Chunk(*value, static_cast<int64_t>(names.size()), op.dim));
  Entries result;
  for (size_t i = 0; i < pieces.size(); ++i) {
    PutOne(names[i], std::move(pieces[i]), &result);
  }
  return result;
}

// The model's shape of `name`.
absl::StatusOr<const std::vector<int64_t>*> ModelShape(const OpContext& context,
                                                       absl::string_view name) {
  const std::vector<int64_t>* const shape = context.model_shape(name);
  if (shape != nullptr) return shape;
  if (context.model_known) {
    return absl::InvalidArgumentError(absl::StrCat("the model has no '", name, "'"));
  }
  return absl::UnimplementedError(
      absl::StrCat("needs the shape of '", name, "' in the model; give a model spec"));
}

absl::StatusOr<Entries> ApplySplit(const Op& op, const Entries& input, const OpContext& context) {
  if (input.size() > 1) return Undefined();
  ZC_ASSIGN_OR_RETURN(const Value* value, First(input));
  std::vector<int64_t> sizes;
  for (const std::string& target : context.targets) {
    const std::string name = absl::StrReplaceAll(context.full_name, {{context.targets[0], target}});
    ZC_ASSIGN_OR_RETURN(const std::vector<int64_t>* shape, ModelShape(context, name));
    ZC_ASSIGN_OR_RETURN(const int64_t dim, WrapDim(op.dim, static_cast<int64_t>(shape->size())));
    if (shape->empty()) {
      return absl::InvalidArgumentError(absl::StrCat("'", name, "' has no axis to split by"));
    }
    sizes.push_back((*shape)[dim]);
  }
  ZC_ASSIGN_OR_RETURN(std::vector<Value> pieces, Split(*value, sizes, op.dim));
  Entries result;
  for (size_t i = 0; i < pieces.size(); ++i) {
    PutOne(context.targets[i], std::move(pieces[i]), &result);
  }
  return result;
}

absl::StatusOr<Entries> ApplyTranspose(const Op& op, const Entries& input,
                                       const OpContext& context) {
  ZC_ASSIGN_OR_RETURN(std::string name, SingleName(input, context));
  ZC_ASSIGN_OR_RETURN(const Value* value, First(input));
  Entries result;
  if (op.check_dims) {
    ZC_ASSIGN_OR_RETURN(const std::vector<int64_t>* shape, ModelShape(context, context.full_name));
    if (*shape == value->shape) {
      PutOne(std::move(name), *value, &result);
      return result;
    }
  }
  ZC_ASSIGN_OR_RETURN(Value transposed, Transpose(*value, op.a, op.b));
  PutOne(std::move(name), std::move(transposed), &result);
  return result;
}

absl::StatusOr<Entries> ApplyInterleave(const Op& op, const Entries& input,
                                        const OpContext& context) {
  ZC_ASSIGN_OR_RETURN(const Value* value, First(input));
  ZC_ASSIGN_OR_RETURN(Value result_value, Interleave(*value, op.dim, op.inverse));
  Entries result;
  PutOne(context.targets[0], std::move(result_value), &result);
  return result;
}

absl::StatusOr<Entries> ApplyPermuteRope(const Op& op, const Entries& input,
                                         const OpContext& context) {
  ZC_ASSIGN_OR_RETURN(const int64_t heads, AttentionHeads(op, context));
  Entries result;
  for (const Entry& entry : input) {
    const size_t sources = context.sources.size(), targets = context.targets.size();
    std::string name = entry.name;
    if (sources == 1 && targets == 1) {
      name = context.targets[0];
    } else if (sources != 1 && targets != 1) {
      return Undefined();
    }
    const bool permuted = op.only.empty() ||
                          std::any_of(op.only.begin(), op.only.end(),
                                      [&](const auto& part) { return Contains(entry.name, part); });
    if (!permuted) {
      Put(std::move(name), entry, &result);
      continue;
    }
    if (entry.values.size() != 1) {
      return absl::InvalidArgumentError("PermuteForRope expects a single tensor per key.");
    }
    ZC_ASSIGN_OR_RETURN(Value value, PermuteRope(entry.values[0], heads, op.inverse));
    PutOne(std::move(name), std::move(value), &result);
  }
  return result;
}

absl::Status MissingPattern(absl::string_view pattern, const Entries& input) {
  std::string found;
  for (const Entry& entry : input) absl::StrAppend(&found, found.empty() ? "" : ", ", entry.name);
  return absl::InvalidArgumentError(absl::StrCat("Expected pattern ", pattern,
                                                 " in collected tensors but only found tensors "
                                                 "for: ",
                                                 found));
}

absl::StatusOr<Entries> ApplyErnieFuseSplit(const Op& op, const Entries& input,
                                            const OpContext& context) {
  const size_t targets = context.targets.size();
  std::vector<std::vector<Value>> fused(targets);
  for (const std::string& source : context.sources) {
    const Entry* const entry = FindEntry(input, source);
    if (entry == nullptr) return MissingPattern(source, input);
    const std::vector<Value>& values = entry->values;
    const size_t run = (values.size() + targets - 1) / targets;
    for (size_t t = 0; t < targets; ++t) {
      const size_t begin = std::min(t * run, values.size());
      const size_t end = std::min(begin + run, values.size());
      ZC_ASSIGN_OR_RETURN(Value stacked,
                          Stack(absl::MakeSpan(values).subspan(begin, end - begin), op.dim));
      fused[t].push_back(std::move(stacked));
    }
  }
  Entries result;
  for (size_t t = 0; t < targets; ++t) {
    ZC_ASSIGN_OR_RETURN(Value value, Cat(fused[t], op.concat_dim));
    PutOne(context.targets[t], std::move(value), &result);
  }
  return result;
}

absl::StatusOr<Entries> ApplyErnieSplitDecouple(const Op& op, const Entries& input,
                                                const OpContext& context) {
  const size_t targets = context.targets.size();
  std::vector<std::vector<Value>> lists(targets);  // target -> its tensors, sources in order
  for (const std::string& source : context.sources) {
    const Entry* const entry = FindEntry(input, source);
    if (entry == nullptr || entry->values.empty()) return MissingPattern(source, input);
    ZC_ASSIGN_OR_RETURN(std::vector<Value> pieces,
                        Chunk(entry->values[0], static_cast<int64_t>(targets), op.concat_dim));
    if (pieces.size() < targets) {
      return absl::InvalidArgumentError(
          absl::StrCat("'", source, "' of shape ", ShapeText(entry->values[0].shape),
                       " cannot be cut into ", targets, " pieces along ", op.concat_dim));
    }
    for (size_t t = 0; t < targets; ++t) {
      ZC_ASSIGN_OR_RETURN(const int64_t dim,
                          WrapDim(op.dim, static_cast<int64_t>(pieces[t].shape.size())));
      const int64_t count = pieces[t].shape[dim];
      if (count == 0) continue;
      ZC_ASSIGN_OR_RETURN(std::vector<Value> singles, Chunk(pieces[t], count, dim));
      for (Value& single : singles) {
        single.shape.erase(single.shape.begin() + dim);
        lists[t].push_back(std::move(single));
      }
    }
  }
  Entries result;
  for (size_t t = 0; t < targets; ++t) {
    for (size_t i = 0; i < lists[t].size(); ++i) {
      PutOne(Numbered(context.targets[t], i), std::move(lists[t][i]), &result);
    }
  }
  return result;
}

// Operations that only change the shape, or nothing.
absl::StatusOr<Entries> ApplyReshape(const Op& op, const Entries& input, const OpContext& context) {
  ZC_ASSIGN_OR_RETURN(std::string name, SingleName(input, context));
  ZC_ASSIGN_OR_RETURN(const Value* value, First(input));
  Value reshaped = *value;
  std::vector<int64_t>& shape = reshaped.shape;
  if (op.kind == OpKind::kConv3dToLinear) {
    if (shape.size() == 5) {
      shape = {shape[0], Product(absl::MakeSpan(shape).subspan(1))};
    } else if (shape.size() != 2) {
      return absl::InvalidArgumentError(
          absl::StrCat("Conv3dToLinear expects a 5D or 2D tensor, got ", shape.size(), "D"));
    }
  } else if (op.kind == OpKind::kLinearToConv3d) {
    if (shape.empty()) {
      return absl::InvalidArgumentError("LinearToConv3d expects a tensor with axes, got a scalar");
    }
    std::vector<int64_t> wanted = {shape[0], op.in_channels};
    wanted.insert(wanted.end(), op.kernel.begin(), op.kernel.end());
    int64_t numel = 1;
    bool fits = op.kernel.size() == 3;
    for (int64_t size : wanted) {
      fits = fits && size >= 0 && !__builtin_mul_overflow(numel, size, &numel);
    }
    if (!fits || numel != Product(shape)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "Cannot reshape tensor with shape ", ShapeText(shape), " into ", ShapeText(wanted)));
    }
    shape = std::move(wanted);
  }
  Entries result;
  PutOne(std::move(name), std::move(reshaped), &result);
  return result;
}

}  // namespace

absl::StatusOr<Entries> ApplyOp(const Op& op, const Entries& input, const OpContext& context) {
  switch (op.kind) {
    case OpKind::kStack:
      return ApplyStack(op, input, context);
    case OpKind::kUnstack:
      return ApplyUnstack(op, input, context);
    case OpKind::kCat:
      return ApplyCat(op, input, context);
    case OpKind::kChunk:
      return ApplyChunk(op, input, context);
    case OpKind::kSplitByTarget:
      return ApplySplit(op, input, context);
    case OpKind::kTranspose:
      return ApplyTranspose(op, input, context);
    case OpKind::kInterleave:
      return ApplyInterleave(op, input, context);
    case OpKind::kPermuteRope:
      return ApplyPermuteRope(op, input, context);
    case OpKind::kErnieFuseSplit:
      return ApplyErnieFuseSplit(op, input, context);
    case OpKind::kErnieSplitDecouple:
      return ApplyErnieSplitDecouple(op, input, context);
    case OpKind::kConv3dToLinear:
    case OpKind::kLinearToConv3d:
    case OpKind::kAlign16:
      return ApplyReshape(op, input, context);
    case OpKind::kFp8Dequantize:
    case OpKind::kMxfp4Dequantize:
      break;  // ApplyDecode's
  }
  return absl::UnimplementedError("the operation is not covered");
}

}  // namespace zerocast
