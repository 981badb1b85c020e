#include "client/formats/torch_weights.h"

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <tuple>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "client/formats/torch_file.h"
#include "kernels/base/status_macros.h"
#include "kernels/copy/dtype.h"
#include "server/base/errors.h"
#include "server/base/utf8.h"

namespace zerocast {
namespace {

absl::Status Corrupt(const InputFile& file, absl::string_view what) {
  return WithReason(
      absl::DataLossError(absl::StrCat("read ", file.path(), ": ", EscapeControls(what))),
      "CHECKPOINT_CORRUPT");
}

absl::Status Unsupported(const InputFile& file, absl::string_view what) {
  return WithReason(
      absl::UnimplementedError(absl::StrCat("read ", file.path(), ": ", EscapeControls(what))),
      "UNSUPPORTED");
}

// "torch.NAME" of element types, and of quantisation schemes.
constexpr absl::string_view kTorchNames[] = {"Size",
                                             "device",
                                             "bool",
                                             "uint8",
                                             "uint16",
                                             "uint32",
                                             "uint64",
                                             "int8",
                                             "int16",
                                             "int32",
                                             "int64",
                                             "uint1",
                                             "uint2",
                                             "uint3",
                                             "uint4",
                                             "uint5",
                                             "uint6",
                                             "uint7",
                                             "int1",
                                             "int2",
                                             "int3",
                                             "int4",
                                             "int5",
                                             "int6",
                                             "int7",
                                             "float16",
                                             "bfloat16",
                                             "float32",
                                             "float64",
                                             "float8_e4m3fn",
                                             "float8_e5m2",
                                             "float8_e4m3fnuz",
                                             "float8_e5m2fnuz",
                                             "float8_e8m0fnu",
                                             "float4_e2m1fn_x2",
                                             "complex32",
                                             "complex64",
                                             "complex128",
                                             "bcomplex32",
                                             "bits8",
                                             "bits16",
                                             "bits1x8",
                                             "bits2x4",
                                             "bits4x2",
                                             "qint8",
                                             "qint32",
                                             "quint8",
                                             "quint4x2",
                                             "quint2x4",
                                             "per_tensor_affine",
                                             "per_tensor_symmetric",
                                             "per_channel_affine",
                                             "per_channel_symmetric",
                                             "per_channel_affine_float_qparams"};

// What torch.load imports where it loads weights only (torch 2.15, _weights_only_unpickler.py,
// _get_allowed_globals; Python 2's names of modules as pickles of protocol 2 have them).
bool IsAllowed(absl::string_view module, absl::string_view name) {
  if (module == "torch" &&
      std::find(std::begin(kTorchNames), std::end(kTorchNames), name) != std::end(kTorchNames)) {
    return true;
  }
  if (module == "torch" || module == "torch.cuda" || module == "torch.sparse" ||
      module == "torch.cuda.sparse") {
    // Classes of tensors and storages: FloatTensor, FloatStorage.
    return absl::EndsWith(name, "Tensor") || absl::EndsWith(name, "Storage");
  }
  if (module == "torch._utils") {
    static constexpr absl::string_view kRebuilds[] = {"parameter",
                                                      "parameter_with_state",
                                                      "qtensor",
                                                      "tensor",
                                                      "tensor_v2",
                                                      "tensor_v3",
                                                      "sparse_tensor",
                                                      "meta_tensor_no_storage",
                                                      "wrapper_subclass",
                                                      "device_tensor_from_numpy",
                                                      "device_tensor_from_cpu_tensor"};
    return absl::ConsumePrefix(&name, "_rebuild_") &&
           std::find(std::begin(kRebuilds), std::end(kRebuilds), name) != std::end(kRebuilds);
  }
  if (module == "builtins" || module == "__builtin__") {
    return name == "bytearray" || name == "set" || name == "complex";
  }
  const std::pair<absl::string_view, absl::string_view> kOthers[] = {
      {"collections", "OrderedDict"},
      {"collections", "Counter"},
      {"torch.nn.parameter", "Parameter"},
      {"torch.serialization", "_get_layout"},
      {"torch.storage", "TypedStorage"},
      {"torch.storage", "UntypedStorage"},
      {"torch._tensor", "_rebuild_from_type_v2"},
      {"_codecs", "encode"}};
  return std::find(std::begin(kOthers), std::end(kOthers), std::make_pair(module, name)) !=
         std::end(kOthers);
}

absl::Status CheckGlobals(const InputFile& file, const PickleGraph& graph) {
  std::set<std::string> others;
  for (PickleId id = 0; id < graph.num_nodes(); ++id) {
    const PickleNode& node = graph.node(id);
    if (node.kind != PickleKind::kGlobal || IsAllowed(node.text, node.name)) continue;
    others.insert(absl::StrCat(node.text, ".", node.name));
  }
  if (others.empty()) return absl::OkStatus();
  return Unsupported(
      file,
      absl::StrCat("it would import ", *others.begin(),
                   others.size() == 1 ? "" : absl::StrCat(" (and ", others.size() - 1, " more)"),
                   ", which weights do not need and torch.load(weights_only=True) refuses, "
                   "too; nothing of it was run; save a state_dict, with tensors alone"));
}

// By name; of a name that comes twice the last one, as in Python.
absl::StatusOr<std::map<std::string, PickleId>> ValuesByName(const InputFile& file,
                                                             const TorchFile& torch) {
  const PickleGraph& graph = torch.graph();
  const std::vector<PickleId>* const items = graph.DictItems(torch.root());
  if (items == nullptr) {
    return Unsupported(file, absl::StrCat("it holds ", graph.Describe(torch.root()),
                                          ", expected a dict of tensors by their names; save a "
                                          "state_dict"));
  }
  std::map<std::string, PickleId> values;
  for (size_t k = 0; k + 1 < items->size(); k += 2) {
    const PickleNode& key = graph.node((*items)[k]);
    if (key.kind != PickleKind::kText) {
      return Unsupported(file, absl::StrCat("a key of its dict is ", graph.Describe((*items)[k]),
                                            ", expected the name of a tensor"));
    }
    if (key.text.empty() || !IsValidUtf8(key.text)) {
      return Corrupt(file, absl::StrCat("a tensor's name, \"", key.text, "\", is ",
                                        key.text.empty() ? "empty" : "not valid UTF-8"));
    }
    values[std::string(key.text)] = (*items)[k + 1];
  }
  std::vector<std::string> others;
  for (const auto& [name, value] : values) {
    if (!torch.IsTensor(value)) {
      others.push_back(absl::StrCat(name, " is ", graph.Describe(value)));
    }
  }
  if (!others.empty()) {
    constexpr size_t kMaxNamed = 3;
    const size_t more = others.size() - std::min(others.size(), kMaxNamed);
    others.resize(others.size() - more);
    return Unsupported(file, absl::StrCat("it holds values that are no plain tensors: ",
                                          absl::StrJoin(others, ", "),
                                          more == 0 ? "" : absl::StrCat(" (and ", more, " more)"),
                                          "; save a dict of the tensors alone"));
  }
  return values;
}

absl::StatusOr<TorchWeight> WeightOf(const InputFile& file, const TorchFile& torch,
                                     const std::string& name, PickleId value) {
  ZC_ASSIGN_OR_RETURN(TorchTensor tensor, torch.Tensor(value, name));
  TorchWeight weight;
  weight.tensor = {name, tensor.dtype, std::move(tensor.shape)};
  weight.file_begin = tensor.file_begin;
  weight.file_end = tensor.file_begin + tensor.extent_bytes;
  if (!tensor.is_contiguous) {
    weight.tensor.strides = std::move(tensor.strides);
    int64_t reach = 0;
    if (!CheckedReach(weight.tensor.shape, weight.tensor.strides, &reach)) {
      return Unsupported(file,
                         absl::StrCat("tensor ", name,
                                      ": its elements are not in the file once each "
                                      "(shape (",
                                      absl::StrJoin(weight.tensor.shape, ", "), "), strides (",
                                      absl::StrJoin(weight.tensor.strides, ", "),
                                      "): expanded?); save it again after .contiguous()"));
    }
  }
  return weight;
}

// Puts tensors over the same bytes into different layers, each into the first that has room.
absl::Status AssignLayers(const InputFile& file, TorchWeights* weights) {
  std::sort(weights->tensors.begin(), weights->tensors.end(),
            [](const TorchWeight& a, const TorchWeight& b) {
              return std::tie(a.file_begin, a.file_end, a.tensor.name) <
                     std::tie(b.file_begin, b.file_end, b.tensor.name);
            });
  std::vector<int64_t> ends = {0};  // by layer
  for (TorchWeight& weight : weights->tensors) {
    if (weight.file_begin == weight.file_end) continue;
    while (ends[static_cast<size_t>(weight.layer)] > weight.file_begin) {
      if (++weight.layer == kMaxTorchLayers) {
        return Unsupported(file, absl::StrCat("tensor ", weight.tensor.name, " shares bytes with ",
                                              kMaxTorchLayers,
                                              " others, more than are read; save the names of "
                                              "one weight once, or clones of the views"));
      }
      if (static_cast<size_t>(weight.layer) == ends.size()) ends.push_back(0);
    }
    ends[static_cast<size_t>(weight.layer)] = weight.file_end;
  }
  weights->num_layers = static_cast<int32_t>(ends.size());
  std::sort(weights->tensors.begin(), weights->tensors.end(),
            [](const TorchWeight& a, const TorchWeight& b) {
              return std::tie(a.layer, a.file_begin, a.tensor.name) <
                     std::tie(b.layer, b.file_begin, b.tensor.name);
            });
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TorchWeights> ReadTorchWeights(const InputFile& file) {
  ZC_ASSIGN_OR_RETURN(const TorchFile torch, TorchFile::Read(file));
  ZC_RETURN_IF_ERROR(CheckGlobals(file, torch.graph()));
  ZC_ASSIGN_OR_RETURN(const auto values, ValuesByName(file, torch));
  TorchWeights weights;
  weights.digest = torch.header_digest();
  weights.tensors.reserve(values.size());
  for (const auto& [name, value] : values) {
    ZC_ASSIGN_OR_RETURN(TorchWeight weight, WeightOf(file, torch, name, value));
    weights.tensors.push_back(std::move(weight));
  }
  ZC_RETURN_IF_ERROR(AssignLayers(file, &weights));
  return weights;
}

}  // namespace zerocast
