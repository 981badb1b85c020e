// The calls that make tensors, as torch/_utils.py and torch/_tensor.py define them.
#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/formats/torch_file.h"
#include "client/formats/torch_types.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/base/utf8.h"

namespace zerocast {
namespace {

constexpr size_t kMaxRank = 64;  // torch's own limit
constexpr int kMaxWrappers = 8;  // a tensor in a parameter in a subclass; files of torch have 2

// Which of the known functions makes a tensor.
enum class Rebuild { kUnknown, kTensor, kTensorV2, kTensorV3, kParameter, kFromType };

Rebuild RebuildOf(const PickleGraph& graph, PickleId function) {
  if (function == kNoValue || graph.node(function).kind != PickleKind::kGlobal) {
    return Rebuild::kUnknown;
  }
  const absl::string_view module = graph.node(function).text, name = graph.node(function).name;
  if (module == "torch._utils") {
    if (name == "_rebuild_tensor") return Rebuild::kTensor;
    if (name == "_rebuild_tensor_v2") return Rebuild::kTensorV2;
    if (name == "_rebuild_tensor_v3") return Rebuild::kTensorV3;
    if (name == "_rebuild_parameter" || name == "_rebuild_parameter_with_state") {
      return Rebuild::kParameter;
    }
  }
  if (module == "torch._tensor" && name == "_rebuild_from_type_v2") return Rebuild::kFromType;
  return Rebuild::kUnknown;
}

// A function and the items of its arguments.
struct MadeBy {
  Rebuild rebuild = Rebuild::kUnknown;
  const std::vector<PickleId>* arguments = nullptr;
};

class TensorReader {
 public:
  TensorReader(const TorchFile& file, absl::string_view what)
      : file_(file), graph_(file.graph()), what_(what) {}

  absl::StatusOr<TorchTensor> Run(PickleId id) {
    ZC_ASSIGN_OR_RETURN(const MadeBy made, Unwrap(id));
    const std::vector<PickleId>& parts = *made.arguments;
    const bool is_v3 = made.rebuild == Rebuild::kTensorV3;
    const size_t least = made.rebuild == Rebuild::kTensor ? 4 : is_v3 ? 7 : 6;
    const size_t most = made.rebuild == Rebuild::kTensor ? 4 : least + 1;
    if (parts.size() < least || parts.size() > most) {
      return Corrupt(absl::StrCat(parts.size(), " arguments make it, expected ", least));
    }
    if (parts.size() > least) ZC_RETURN_IF_ERROR(CheckMetadata(parts[least]));
    tensor_.storage = file_.StorageOf(parts[0]);
    if (tensor_.storage < 0) {
      return Corrupt(absl::StrCat("its storage is ", graph_.Describe(parts[0])));
    }
    if (least > 4) {
      ZC_ASSIGN_OR_RETURN(const bool requires_grad, Flag(parts[4]));
      tensor_.requires_grad |= requires_grad;
    }
    ZC_RETURN_IF_ERROR(ReadType(is_v3 ? parts[6] : kNoValue, parts[0]));
    ZC_ASSIGN_OR_RETURN(tensor_.shape, Numbers(parts[2], "its shape"));
    ZC_ASSIGN_OR_RETURN(tensor_.strides, Numbers(parts[3], "its strides"));
    ZC_ASSIGN_OR_RETURN(const int64_t offset, Number(parts[1], "its offset"));
    ZC_RETURN_IF_ERROR(Place(offset));
    return std::move(tensor_);
  }

 private:
  absl::Status Corrupt(absl::string_view text) const {
    return WithReason(absl::DataLossError(absl::StrCat("read ", file_.path(), ": tensor ",
                                                       EscapeControls(what_), ": ", text)),
                      "CHECKPOINT_CORRUPT");
  }
  absl::Status Unsupported(absl::string_view text) const {
    return WithReason(absl::UnimplementedError(absl::StrCat("read ", file_.path(), ": tensor ",
                                                            EscapeControls(what_), ": ", text)),
                      "UNSUPPORTED");
  }

  // Through parameters and subclasses to the call that names a storage.
  absl::StatusOr<MadeBy> Unwrap(PickleId id) {
    PickleId function = kNoValue, arguments = kNoValue;
    for (int depth = 0; depth < kMaxWrappers; ++depth) {
      if (arguments == kNoValue) {
        const PickleNode& node = graph_.node(id);
        if (node.kind != PickleKind::kCall) {
          return Corrupt(absl::StrCat("a tensor is needed, found ", graph_.Describe(id)));
        }
        function = node.call->function;
        arguments = node.call->arguments;
        if (node.call->is_new) function = kNoValue;
      }
      const Rebuild rebuild = RebuildOf(graph_, function);
      const PickleNode& tuple = graph_.node(arguments);
      if (rebuild == Rebuild::kUnknown) {
        return Unsupported(absl::StrCat("it is made by ", graph_.Describe(function), " in ",
                                        graph_.Describe(id),
                                        ", which is not known; nothing of a file is ever run"));
      }
      if (tuple.kind != PickleKind::kTuple) {
        return Corrupt(absl::StrCat("its arguments are ", graph_.Describe(arguments)));
      }
      if (rebuild == Rebuild::kFromType) {  // (function, type, arguments, state)
        if (tuple.items.size() != 4) {
          return Corrupt(absl::StrCat(tuple.items.size(), " arguments make it, expected 4"));
        }
        tensor_.is_parameter |= graph_.IsGlobal(tuple.items[1], "torch.nn.parameter", "Parameter");
        function = tuple.items[0];
        arguments = tuple.items[2];
        continue;
      }
      if (rebuild == Rebuild::kParameter) {  // (data, requires_grad, hooks[, state])
        if (tuple.items.size() < 3 || tuple.items.size() > 4) {
          return Corrupt(absl::StrCat(tuple.items.size(), " arguments make it, expected 3"));
        }
        ZC_ASSIGN_OR_RETURN(const bool requires_grad, Flag(tuple.items[1]));
        tensor_.requires_grad |= requires_grad;
        tensor_.is_parameter = true;
        id = tuple.items[0];
        arguments = kNoValue;
        continue;
      }
      return MadeBy{rebuild, &tuple.items};
    }
    return Corrupt(absl::StrCat("more than ", kMaxWrappers, " calls wrap it"));
  }

  absl::StatusOr<bool> Flag(PickleId id) const {
    if (graph_.node(id).kind != PickleKind::kBool) {
      return Corrupt(absl::StrCat("requires_grad is ", graph_.Describe(id)));
    }
    return graph_.node(id).integer != 0;
  }

  // The bits that say that the bytes are not the values.
  absl::Status CheckMetadata(PickleId metadata) const {
    if (graph_.node(metadata).kind == PickleKind::kNone) return absl::OkStatus();
    if (graph_.DictItems(metadata) == nullptr) {
      return Corrupt(absl::StrCat("its metadata is ", graph_.Describe(metadata)));
    }
    for (const absl::string_view bit : {"conj", "neg"}) {
      const PickleId value = graph_.Find(metadata, bit);
      if (value == kNoValue) continue;
      if (graph_.node(value).kind != PickleKind::kBool || graph_.node(value).integer != 0) {
        return Unsupported(
            absl::StrCat("a lazily changed view (", bit, "); save it after resolve_", bit, "()"));
      }
    }
    return absl::OkStatus();
  }

  absl::Status ReadType(PickleId dtype, PickleId storage_id) {
    if (dtype == kNoValue) {
      // By the class that this persistent id names: others may name the storage by another.
      const PickleNode& named = graph_.node(graph_.node(storage_id).items[0]);
      const PickleNode& type = graph_.node(named.items[1]);
      const TorchStorageClass* known = FindTorchStorageClass(type.name);
      tensor_.dtype = known == nullptr ? DType::kInvalid : known->dtype;
      if (tensor_.dtype == DType::kInvalid) {
        return Unsupported(absl::StrCat("elements of a ", EscapeControls(type.name)));
      }
      return absl::OkStatus();
    }
    const PickleNode& node = graph_.node(dtype);
    if (node.kind != PickleKind::kGlobal || node.text != "torch") {
      return Corrupt(absl::StrCat("its element type is ", graph_.Describe(dtype)));
    }
    tensor_.dtype = DTypeFromName(std::string(node.name).c_str());
    if (tensor_.dtype == DType::kInvalid) {
      return Unsupported(absl::StrCat("its element type is ", graph_.Describe(dtype)));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<int64_t> Number(PickleId id, absl::string_view name) const {
    const PickleNode& node = graph_.node(id);
    if (node.kind != PickleKind::kInteger || node.integer < 0) {
      return Corrupt(absl::StrCat(name, " holds ", graph_.Describe(id),
                                  ", expected a whole number, 0 or more"));
    }
    return node.integer;
  }
  absl::StatusOr<std::vector<int64_t>> Numbers(PickleId id, absl::string_view name) const {
    // A tuple, or torch.Size of one.
    if (graph_.IsCallOf(id, "torch", "Size")) {
      const PickleNode& arguments = graph_.node(graph_.node(id).call->arguments);
      if (arguments.items.size() == 1) id = arguments.items[0];
    }
    const PickleNode& node = graph_.node(id);
    if (node.kind != PickleKind::kTuple || node.items.size() > kMaxRank) {
      return Corrupt(absl::StrCat(name, " is ", graph_.Describe(id), ", expected a tuple of up to ",
                                  kMaxRank, " numbers"));
    }
    std::vector<int64_t> numbers;
    for (const PickleId item : node.items) {
      ZC_ASSIGN_OR_RETURN(const int64_t number, Number(item, name));
      numbers.push_back(number);
    }
    return numbers;
  }

  // Where the elements lie, all of them in the storage.
  absl::Status Place(int64_t offset) {
    if (tensor_.shape.size() != tensor_.strides.size()) {
      return Corrupt(absl::StrCat("its shape has ", tensor_.shape.size(), " numbers, its strides ",
                                  tensor_.strides.size()));
    }
    const TorchStorage& storage = file_.storages()[static_cast<size_t>(tensor_.storage)];
    const int64_t element_bytes = SizeOf(tensor_.dtype);
    const int64_t storage_elements = storage.num_bytes / element_bytes;
    const bool is_empty =
        std::find(tensor_.shape.begin(), tensor_.shape.end(), 0) != tensor_.shape.end();
    // One past the last element's index, and the product of the shape.
    int64_t end = is_empty ? 0 : 1, count = is_empty ? 0 : 1, packed = 1;
    bool fits = true;
    tensor_.is_contiguous = true;
    for (size_t k = tensor_.shape.size(); k > 0 && !is_empty; --k) {
      const int64_t extent = tensor_.shape[k - 1], stride = tensor_.strides[k - 1];
      int64_t reach = 0;
      fits = fits && !__builtin_mul_overflow(extent - 1, stride, &reach) &&
             !__builtin_add_overflow(end, reach, &end) &&
             !__builtin_mul_overflow(count, extent, &count);
      if (extent != 1 && stride != packed) tensor_.is_contiguous = false;
      if (fits) packed = count;
    }
    if (!fits || end > storage_elements || offset > storage_elements - end) {
      return Corrupt(absl::StrCat("its elements, ", fits ? absl::StrCat(end) : "more than 2^63",
                                  " from element ", offset, " on, are not all in storage ",
                                  EscapeControls(storage.key), " of ", storage_elements));
    }
    tensor_.num_elements = count;
    tensor_.extent_bytes = end * element_bytes;
    tensor_.file_begin = storage.file_begin + offset * element_bytes;
    return absl::OkStatus();
  }

  const TorchFile& file_;
  const PickleGraph& graph_;
  const absl::string_view what_;
  TorchTensor tensor_;
};

}  // namespace

bool TorchFile::IsTensor(PickleId id) const {
  return id != kNoValue && graph_.node(id).kind == PickleKind::kCall &&
         !graph_.node(id).call->is_new &&
         RebuildOf(graph_, graph_.node(id).call->function) != Rebuild::kUnknown;
}

absl::StatusOr<TorchTensor> TorchFile::Tensor(PickleId id, absl::string_view what) const {
  return TensorReader(*this, what).Run(id);
}

}  // namespace zerocast
