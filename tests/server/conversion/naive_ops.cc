#include "tests/server/conversion/naive_ops.h"

#include <algorithm>
#include <functional>
#include <utility>

namespace zerocast {
namespace {

using Index = std::vector<int64_t>;
using MaybeTensor = std::optional<NaiveTensor>;
using MaybeTensors = std::optional<std::vector<NaiveTensor>>;
using MaybeEntries = std::optional<NaiveEntries>;

int64_t Count(const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;
  return count;
}

int64_t At(const NaiveTensor& tensor, const Index& index) {
  int64_t place = 0;
  for (size_t k = 0; k < index.size(); ++k) place = place * tensor.shape[k] + index[k];
  return tensor.data.at(static_cast<size_t>(place));
}

// The tensor whose element at each index is `element(index)`.
NaiveTensor Make(std::vector<int64_t> shape, const std::function<int64_t(const Index&)>& element) {
  NaiveTensor tensor;
  tensor.shape = std::move(shape);
  for (int64_t i = 0; i < Count(tensor.shape); ++i) {
    Index index(tensor.shape.size());
    int64_t rest = i;
    for (size_t k = index.size(); k-- > 0;) {
      index[k] = rest % tensor.shape[k];
      rest /= tensor.shape[k];
    }
    tensor.data.push_back(element(index));
  }
  return tensor;
}

// `dim` counted from the front; nothing where the tensor has no such axis.
std::optional<int64_t> Wrap(int64_t dim, size_t rank) {
  const auto size = static_cast<int64_t>(rank);
  if (dim < -size || dim >= size) return std::nullopt;
  return dim < 0 ? dim + size : dim;
}

MaybeTensor Stack(const std::vector<NaiveTensor>& tensors, int64_t dim) {
  if (tensors.empty()) return std::nullopt;
  for (const NaiveTensor& tensor : tensors) {
    if (tensor.shape != tensors[0].shape) return std::nullopt;
  }
  const auto at = Wrap(dim, tensors[0].shape.size() + 1);
  if (!at) return std::nullopt;
  std::vector<int64_t> shape = tensors[0].shape;
  shape.insert(shape.begin() + *at, static_cast<int64_t>(tensors.size()));
  return Make(std::move(shape), [&](Index index) {
    const int64_t which = index[*at];
    index.erase(index.begin() + *at);
    return At(tensors[which], index);
  });
}

MaybeTensor Cat(const std::vector<NaiveTensor>& tensors, int64_t dim) {
  if (tensors.empty()) return std::nullopt;
  const auto at = Wrap(dim, tensors[0].shape.size());
  if (!at) return std::nullopt;
  std::vector<int64_t> shape = tensors[0].shape;
  shape[*at] = 0;
  for (const NaiveTensor& tensor : tensors) {
    if (tensor.shape.size() != shape.size()) return std::nullopt;
    for (size_t k = 0; k < shape.size(); ++k) {
      if (static_cast<int64_t>(k) != *at && tensor.shape[k] != shape[k]) return std::nullopt;
    }
    shape[*at] += tensor.shape[*at];
  }
  return Make(std::move(shape), [&](Index index) {
    size_t which = 0;
    while (index[*at] >= tensors[which].shape[*at]) index[*at] -= tensors[which++].shape[*at];
    return At(tensors[which], index);
  });
}

NaiveTensor Narrow(const NaiveTensor& tensor, int64_t dim, int64_t begin, int64_t size) {
  std::vector<int64_t> shape = tensor.shape;
  shape[dim] = size;
  return Make(std::move(shape), [&](Index index) {
    index[dim] += begin;
    return At(tensor, index);
  });
}

MaybeTensors Split(const NaiveTensor& tensor, const std::vector<int64_t>& sizes, int64_t dim) {
  const auto at = Wrap(dim, tensor.shape.size());
  int64_t sum = 0;
  for (const int64_t size : sizes) sum += size;
  if (!at || sum != tensor.shape[*at]) return std::nullopt;
  std::vector<NaiveTensor> pieces;
  int64_t begin = 0;
  for (const int64_t size : sizes) {
    pieces.push_back(Narrow(tensor, *at, begin, size));
    begin += size;
  }
  return pieces;
}

MaybeTensors Chunk(const NaiveTensor& tensor, int64_t count, int64_t dim) {
  const auto at = Wrap(dim, tensor.shape.size());
  if (!at) return std::nullopt;
  const int64_t all = tensor.shape[*at], piece = (all + count - 1) / count;
  std::vector<int64_t> sizes;
  for (int64_t done = 0; done < all; done += piece) sizes.push_back(std::min(piece, all - done));
  return Split(tensor, sizes, dim);
}

MaybeTensors Unbind(const NaiveTensor& tensor, int64_t dim) {
  const auto at = Wrap(dim, tensor.shape.size());
  if (!at) return std::nullopt;
  std::vector<NaiveTensor> pieces;
  for (int64_t i = 0; i < tensor.shape[*at]; ++i) {
    std::vector<int64_t> shape = tensor.shape;
    shape.erase(shape.begin() + *at);
    pieces.push_back(Make(std::move(shape), [&](Index index) {
      index.insert(index.begin() + *at, i);
      return At(tensor, index);
    }));
  }
  return pieces;
}

MaybeTensor Transpose(const NaiveTensor& tensor, int64_t a, int64_t b) {
  const size_t rank =
      std::max<size_t>(tensor.shape.size(), 1);  // torch: a scalar has one axis here
  const auto from = Wrap(a, rank), to = Wrap(b, rank);
  if (!from || !to) return std::nullopt;
  if (tensor.shape.empty()) return tensor;
  std::vector<int64_t> shape = tensor.shape;
  std::swap(shape[*from], shape[*to]);
  return Make(std::move(shape), [&](Index index) {
    std::swap(index[*from], index[*to]);
    return At(tensor, index);
  });
}

// Within each of `parts` equal parts of axis `dim`, of n elements each: out[c*n/2 + i] = in[2i +
// c].
MaybeTensor Pairs(const NaiveTensor& tensor, int64_t dim, int64_t parts, bool inverse) {
  const int64_t all = tensor.shape[dim];
  if (all % (2 * parts) != 0) return std::nullopt;
  const int64_t n = all / parts;
  return Make(tensor.shape, [&](Index index) {
    const int64_t part = index[dim] / n, within = index[dim] % n;
    const int64_t from =
        inverse ? within % 2 * (n / 2) + within / 2 : within % (n / 2) * 2 + within / (n / 2);
    index[dim] = part * n + from;
    return At(tensor, index);
  });
}

std::string Numbered(std::string pattern, size_t number) {
  for (size_t at; (at = pattern.find('*')) != std::string::npos;) {
    pattern.replace(at, 1, std::to_string(number));
  }
  return pattern;
}

NaiveEntry One(std::string name, NaiveTensor tensor) {
  return {std::move(name), false, {std::move(tensor)}};
}

// As a Python dictionary: a name that is there keeps its place and gets the new value.
void Put(NaiveEntry entry, NaiveEntries* entries) {
  for (NaiveEntry& other : *entries) {
    if (other.name != entry.name) continue;
    other = std::move(entry);
    return;
  }
  entries->push_back(std::move(entry));
}

const NaiveEntry* Find(const NaiveEntries& entries, const std::string& name) {
  for (const NaiveEntry& entry : entries) {
    if (entry.name == name) return &entry;
  }
  return nullptr;
}

// The name of what an operation on one tensor makes.
std::optional<std::string> SingleName(const NaiveEntries& input, const NaiveContext& context) {
  if (input.size() != 1) return std::nullopt;
  if (context.targets.size() == 1) return context.targets[0];
  if (context.sources.size() == 1) return context.sources[0];
  return std::nullopt;
}

MaybeEntries RunStack(const Op& op, const NaiveEntries& input, const NaiveContext& context) {
  NaiveEntries result;
  for (const NaiveEntry& entry : input) {
    if (input.size() == 1 && context.targets.size() != 1) return std::nullopt;
    MaybeTensor tensor = entry.is_list ? Stack(entry.tensors, op.dim) : entry.tensors[0];
    if (!tensor) return std::nullopt;
    Put(One(input.size() == 1 ? context.targets[0] : entry.name, *std::move(tensor)), &result);
  }
  return result;
}

MaybeEntries RunUnstack(const Op& op, const NaiveEntries& input, const NaiveContext& context) {
  NaiveEntries result;
  for (const NaiveEntry& entry : input) {
    MaybeTensors pieces = Unbind(entry.tensors[0], op.dim);
    if (!pieces || (input.size() == 1 && context.targets.size() != 1)) return std::nullopt;
    for (size_t i = 0; i < pieces->size(); ++i) {
      const std::string& name = input.size() == 1 ? context.targets[0] : entry.name;
      Put(One(Numbered(name, i), (*pieces)[i]), &result);
    }
  }
  return result;
}

MaybeEntries RunCat(const Op& op, const NaiveEntries& input, const NaiveContext& context) {
  if (context.targets.size() != 1) return std::nullopt;
  std::vector<NaiveTensor> tensors;
  for (const std::string& source : context.sources) {
    const NaiveEntry* const entry = Find(input, source);
    if (entry == nullptr) continue;
    tensors.insert(tensors.end(), entry->tensors.begin(), entry->tensors.end());
  }
  MaybeTensor joined = Cat(tensors, op.dim);
  if (!joined) return std::nullopt;
  return NaiveEntries{One(context.targets[0], *std::move(joined))};
}

MaybeEntries RunChunk(const Op& op, const NaiveEntries& input, const NaiveContext& context) {
  if (input.size() != 1) return std::nullopt;
  std::vector<std::string> names = context.targets;
  if (!op.count_attr.empty()) {
    if (names.size() != 1) return std::nullopt;
    names.clear();
    for (int64_t i = 0; i < context.count; ++i) {
      names.push_back(Numbered(context.targets[0], static_cast<size_t>(i)));
    }
  }
  MaybeTensors pieces = Chunk(input[0].tensors[0], static_cast<int64_t>(names.size()), op.dim);
  if (!pieces) return std::nullopt;
  NaiveEntries result;
  for (size_t i = 0; i < pieces->size(); ++i) Put(One(names[i], (*pieces)[i]), &result);
  return result;
}

MaybeEntries RunSplit(const Op& op, const NaiveEntries& input, const NaiveContext& context) {
  if (input.size() != 1) return std::nullopt;
  std::vector<int64_t> sizes;
  for (const std::string& target : context.targets) {
    std::string name = context.full_name;
    const size_t at = name.find(context.targets[0]);
    name.replace(at, context.targets[0].size(), target);
    const auto shape = context.model.find(name);
    if (shape == context.model.end()) return std::nullopt;
    const auto dim = Wrap(op.dim, shape->second.size());
    if (!dim) return std::nullopt;
    sizes.push_back(shape->second[*dim]);
  }
  MaybeTensors pieces = Split(input[0].tensors[0], sizes, op.dim);
  if (!pieces) return std::nullopt;
  NaiveEntries result;
  for (size_t i = 0; i < pieces->size(); ++i) Put(One(context.targets[i], (*pieces)[i]), &result);
  return result;
}

MaybeEntries RunTranspose(const Op& op, const NaiveEntries& input, const NaiveContext& context) {
  const auto name = SingleName(input, context);
  if (!name) return std::nullopt;
  const NaiveTensor& tensor = input[0].tensors[0];
  if (op.check_dims) {
    const auto shape = context.model.find(context.full_name);
    if (shape == context.model.end()) return std::nullopt;
    if (shape->second == tensor.shape) return NaiveEntries{One(*name, tensor)};
  }
  MaybeTensor swapped = Transpose(tensor, op.a, op.b);
  if (!swapped) return std::nullopt;
  return NaiveEntries{One(*name, *std::move(swapped))};
}

MaybeEntries RunRope(const Op& op, const NaiveEntries& input, const NaiveContext& context) {
  const size_t num_sources = context.sources.size(), num_targets = context.targets.size();
  NaiveEntries result;
  for (const NaiveEntry& entry : input) {
    std::string name = entry.name;
    if (num_sources == 1 && num_targets == 1) {
      name = context.targets[0];
    } else if (num_sources > 1 && num_targets > 1) {
      return std::nullopt;
    }
    bool chosen = op.only.empty();
    for (const std::string& part : op.only) chosen |= entry.name.find(part) != std::string::npos;
    if (!chosen) {
      Put({name, entry.is_list, entry.tensors}, &result);
      continue;
    }
    if (entry.tensors.size() > 1 || entry.tensors[0].shape.empty()) return std::nullopt;
    MaybeTensor tensor = entry.tensors[0];
    if (tensor->shape.size() == 1 || tensor->shape.size() == 2) {
      tensor = Pairs(entry.tensors[0], 0, context.heads, op.inverse);
    }
    if (!tensor) return std::nullopt;
    Put(One(name, *std::move(tensor)), &result);
  }
  return result;
}

MaybeEntries RunFuse(const Op& op, const NaiveEntries& input, const NaiveContext& context) {
  const size_t parts = context.targets.size();
  std::vector<std::vector<NaiveTensor>> of_target(parts);
  for (const std::string& source : context.sources) {
    const NaiveEntry* const entry = Find(input, source);
    if (entry == nullptr) return std::nullopt;
    const size_t run = (entry->tensors.size() + parts - 1) / parts;
    for (size_t t = 0; t < parts; ++t) {
      const size_t begin = std::min(t * run, entry->tensors.size());
      const size_t end = std::min(begin + run, entry->tensors.size());
      MaybeTensor stacked =
          Stack({entry->tensors.begin() + begin, entry->tensors.begin() + end}, op.dim);
      if (!stacked) return std::nullopt;
      of_target[t].push_back(*std::move(stacked));
    }
  }
  NaiveEntries result;
  for (size_t t = 0; t < parts; ++t) {
    MaybeTensor joined = Cat(of_target[t], op.concat_dim);
    if (!joined) return std::nullopt;
    Put(One(context.targets[t], *std::move(joined)), &result);
  }
  return result;
}

MaybeEntries RunDecouple(const Op& op, const NaiveEntries& input, const NaiveContext& context) {
  const size_t parts = context.targets.size();
  std::vector<std::vector<NaiveTensor>> lists(parts);
  for (const std::string& source : context.sources) {
    const NaiveEntry* const entry = Find(input, source);
    if (entry == nullptr) return std::nullopt;
    MaybeTensors pieces = Chunk(entry->tensors[0], static_cast<int64_t>(parts), op.concat_dim);
    if (!pieces || pieces->size() < parts) return std::nullopt;
    for (size_t t = 0; t < parts; ++t) {
      MaybeTensors single = Unbind((*pieces)[t], op.dim);
      if (!single) return std::nullopt;
      lists[t].insert(lists[t].end(), single->begin(), single->end());
    }
  }
  NaiveEntries result;
  for (size_t t = 0; t < parts; ++t) {
    for (size_t i = 0; i < lists[t].size(); ++i) {
      Put(One(Numbered(context.targets[t], i), lists[t][i]), &result);
    }
  }
  return result;
}

MaybeEntries RunReshape(const Op& op, const NaiveEntries& input, const NaiveContext& context) {
  const auto name = SingleName(input, context);
  if (!name) return std::nullopt;
  NaiveTensor tensor = input[0].tensors[0];
  const size_t rank = tensor.shape.size();
  if (op.kind == OpKind::kConv3dToLinear) {
    if (rank != 2 && rank != 5) return std::nullopt;
    tensor.shape = {tensor.shape[0], Count(tensor.shape) / tensor.shape[0]};
  } else if (op.kind == OpKind::kLinearToConv3d) {
    if (rank == 0) return std::nullopt;
    const std::vector<int64_t> shape = {tensor.shape[0], op.in_channels, op.kernel[0], op.kernel[1],
                                        op.kernel[2]};
    if (Count(shape) != Count(tensor.shape)) return std::nullopt;
    tensor.shape = shape;
  }
  return NaiveEntries{One(*name, std::move(tensor))};
}

}  // namespace

std::optional<NaiveEntries> RunNaive(const Op& op, const NaiveEntries& input,
                                     const NaiveContext& context) {
  switch (op.kind) {
    case OpKind::kStack:
      return RunStack(op, input, context);
    case OpKind::kUnstack:
      return RunUnstack(op, input, context);
    case OpKind::kCat:
      return RunCat(op, input, context);
    case OpKind::kChunk:
      return RunChunk(op, input, context);
    case OpKind::kSplitByTarget:
      return RunSplit(op, input, context);
    case OpKind::kTranspose:
      return RunTranspose(op, input, context);
    case OpKind::kInterleave: {
      const NaiveTensor& tensor = input[0].tensors[0];
      const auto dim = Wrap(op.dim, tensor.shape.size());
      const MaybeTensor moved = dim ? Pairs(tensor, *dim, 1, op.inverse) : std::nullopt;
      if (!moved) return std::nullopt;
      return NaiveEntries{One(context.targets[0], *moved)};
    }
    case OpKind::kPermuteRope:
      return RunRope(op, input, context);
    case OpKind::kErnieFuseSplit:
      return RunFuse(op, input, context);
    case OpKind::kErnieSplitDecouple:
      return RunDecouple(op, input, context);
    case OpKind::kConv3dToLinear:
    case OpKind::kLinearToConv3d:
    case OpKind::kAlign16:
      return RunReshape(op, input, context);
    case OpKind::kFp8Dequantize:
    case OpKind::kMxfp4Dequantize:
      break;
  }
  return std::nullopt;
}

}  // namespace zerocast
