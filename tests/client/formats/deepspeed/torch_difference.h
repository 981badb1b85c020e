#ifndef ZEROCAST_TESTS_CLIENT_FORMATS_DEEPSPEED_TORCH_DIFFERENCE_H_
#define ZEROCAST_TESTS_CLIENT_FORMATS_DEEPSPEED_TORCH_DIFFERENCE_H_

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/formats/file.h"
#include "client/formats/torch_file.h"

namespace zerocast {

// How two files of torch.save differ: a line "PATH WHAT" for each value that is not the same, where
// PATH is its keys and indices joined by dots.  Types, keys and their order, numbers, names, and
// tensors' dtype, shape, requires_grad, attributes and bytes are compared; where storages lie and
// who shares one are not.
class TorchDifference {
 public:
  static std::vector<std::string> Between(const std::string& one, const std::string& other) {
    TorchDifference difference;
    for (const auto& [side, path] :
         {std::make_pair(&difference.one_, one), std::make_pair(&difference.other_, other)}) {
      auto input = InputFile::Open(path);
      if (!input.ok()) return {std::string(input.status().message())};
      auto file = TorchFile::Read(*input);
      if (!file.ok()) return {std::string(file.status().message())};
      side->push_back({*std::move(input), *std::move(file)});
      for (size_t k = 0; k < side->back().file.storages().size(); ++k) {
        const auto checked =
            side->back().file.CheckStorage(side->back().input, static_cast<int32_t>(k));
        if (!checked.ok()) return {std::string(checked.message())};
      }
    }
    difference.Compare(difference.one_[0].file.root(), difference.other_[0].file.root(), "");
    return difference.lines_;
  }

 private:
  struct Side {
    InputFile input;
    TorchFile file;
    const PickleNode& node(PickleId id) const { return file.graph().node(id); }
  };

  void Note(const std::string& path, absl::string_view what) {
    lines_.push_back(absl::StrCat(path.empty() ? "." : path, " ", what));
  }

  static std::string Bytes(const Side& side, const TorchTensor& tensor) {
    const auto bytes =
        side.input.Read(tensor.file_begin, tensor.num_elements == 0 ? 0 : tensor.extent_bytes);
    return bytes.ok() ? *bytes : std::string(bytes.status().message());
  }

  void CompareTensors(PickleId a, PickleId b, const std::string& path) {
    const auto one = one_[0].file.Tensor(a, path), other = other_[0].file.Tensor(b, path);
    if (!one.ok() || !other.ok()) return Note(path, "no tensor");
    if (one->dtype != other->dtype) Note(path, "dtype");
    if (one->shape != other->shape) return Note(path, "shape");
    if (one->requires_grad != other->requires_grad) Note(path, "requires_grad");
    const auto has_attributes = [](const Side& side, PickleId id) {
      return side.file.graph().IsCallOf(id, "torch._tensor", "_rebuild_from_type_v2");
    };
    if (has_attributes(one_[0], a) != has_attributes(other_[0], b)) Note(path, "attributes");
    if (Bytes(one_[0], *one) != Bytes(other_[0], *other)) Note(path, "bytes");
  }

  // A key as text.
  static std::string KeyOf(const Side& side, PickleId key) {
    const PickleNode& node = side.node(key);
    return node.kind == PickleKind::kText ? std::string(node.text) : absl::StrCat(node.integer);
  }

  void CompareDicts(PickleId a, PickleId b, const std::string& path) {
    std::vector<std::pair<std::string, PickleId>> ours, theirs;
    const auto list = [](const Side& side, PickleId id, auto* out) {
      const std::vector<PickleId>& items = *side.file.graph().DictItems(id);
      for (size_t k = 0; k < items.size(); k += 2) {
        out->emplace_back(KeyOf(side, items[k]), items[k + 1]);
      }
    };
    list(one_[0], a, &ours);
    list(other_[0], b, &theirs);
    std::vector<std::string> order_a, order_b;
    for (const auto& each : ours) order_a.push_back(each.first);
    for (const auto& each : theirs) order_b.push_back(each.first);
    std::set<std::string> keys(order_a.begin(), order_a.end());
    keys.insert(order_b.begin(), order_b.end());
    for (const std::string& key : keys) {
      const auto find = [&](const auto& entries) {
        for (const auto& [name, value] : entries) {
          if (name == key) return value;
        }
        return kNoValue;
      };
      const std::string below = path.empty() ? key : absl::StrCat(path, ".", key);
      const PickleId x = find(ours), y = find(theirs);
      if (x == kNoValue || y == kNoValue) {
        Note(below, x == kNoValue ? "is only in the second" : "is only in the first");
      } else {
        Compare(x, y, below);
      }
    }
    if (order_a.size() == order_b.size() && keys.size() == order_a.size() && order_a != order_b) {
      Note(path, "order");
    }
  }

  void CompareLists(const std::vector<PickleId>& a, const std::vector<PickleId>& b,
                    const std::string& path) {
    if (a.size() != b.size()) return Note(path, "length");
    for (size_t k = 0; k < a.size(); ++k) {
      Compare(a[k], b[k], path.empty() ? absl::StrCat(k) : absl::StrCat(path, ".", k));
    }
  }

  // Recursive: DeepSpeed's files are shallow trees.
  void Compare(PickleId a, PickleId b, const std::string& path) {
    if (a == kNoValue || b == kNoValue) {
      if (a != b) Note(path, "type");
      return;
    }
    const bool is_tensor = one_[0].file.IsTensor(a);
    if (is_tensor != other_[0].file.IsTensor(b)) return Note(path, "type");
    if (is_tensor) return CompareTensors(a, b, path);
    const PickleNode &one = one_[0].node(a), &other = other_[0].node(b);
    if (one.kind != other.kind) return Note(path, "type");
    if (one_[0].file.graph().DictItems(a) != nullptr &&
        other_[0].file.graph().DictItems(b) != nullptr) {
      CompareDicts(a, b, path);
      if (one.call != nullptr) CompareLists(one.call->states, other.call->states, path + ".state");
      return;
    }
    if (one.integer != other.integer || one.text != other.text || one.name != other.name ||
        !(one.real == other.real)) {
      return Note(path, "value");
    }
    CompareLists(one.items, other.items, path);
    if (one.call == nullptr) return;
    Compare(one.call->function, other.call->function, path);
    Compare(one.call->arguments, other.call->arguments, path);
    if (one.call->is_new != other.call->is_new) Note(path, "type");
    CompareLists(one.call->states, other.call->states, path);
  }

  std::vector<Side> one_, other_;  // one each
  std::vector<std::string> lines_;
};

}  // namespace zerocast

#endif  // ZEROCAST_TESTS_CLIENT_FORMATS_DEEPSPEED_TORCH_DIFFERENCE_H_
