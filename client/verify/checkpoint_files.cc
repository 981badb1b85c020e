#include "client/verify/checkpoint_files.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <tuple>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/verify/open_file.h"
#include "client/verify/torch_reader.h"
#include "kernels/base/status_macros.h"
#include "nlohmann/json.hpp"
#include "server/base/errors.h"

namespace zerocast::verify {
namespace {

using nlohmann::json;

// The format's own limit on a header.
constexpr int64_t kMaxHeaderBytes = 100'000'000;
constexpr int64_t kMaxTextBytes = int64_t{256} << 20;
constexpr int kMaxDepth = 16;

absl::StatusOr<std::string> ReadText(const std::string& path) {
  ZC_ASSIGN_OR_RETURN(const OpenFile file, OpenFile::Open(path));
  if (file.size() > kMaxTextBytes) {
    return Corrupt(path, absl::StrCat("its ", file.size(), " bytes are more than ", kMaxTextBytes));
  }
  return file.Read(0, file.size());
}

// An object whose keys are unique at its outer level and which is not nested deeply.
absl::StatusOr<json> ParseObject(const std::string& path, const std::string& text) {
  bool too_deep = false;
  std::string twice;
  absl::flat_hash_set<std::string> keys;
  const auto check = [&](int depth, json::parse_event_t event, json& value) {
    if (depth > kMaxDepth) too_deep = true;
    if (event == json::parse_event_t::key && depth == 1) {
      const auto& key = value.get_ref<const std::string&>();
      if (!keys.insert(key).second) twice = key;
    }
    return !too_deep;
  };
  json parsed = json::parse(text, check, /*allow_exceptions=*/false);
  if (too_deep) return Corrupt(path, absl::StrCat("JSON nested deeper than ", kMaxDepth));
  if (parsed.is_discarded() || !parsed.is_object()) return Corrupt(path, "not a JSON object");
  if (!twice.empty()) return Corrupt(path, absl::StrCat("'", twice, "' is there twice"));
  return parsed;
}

DType DTypeOf(const std::string& name) {
  static const auto* const kNames = new std::map<std::string, DType>{
      {"BOOL", DType::kBool},          {"U8", DType::kUInt8},           {"I8", DType::kInt8},
      {"U16", DType::kUInt16},         {"I16", DType::kInt16},          {"U32", DType::kUInt32},
      {"I32", DType::kInt32},          {"U64", DType::kUInt64},         {"I64", DType::kInt64},
      {"F8_E4M3", DType::kFloat8E4M3}, {"F8_E5M2", DType::kFloat8E5M2}, {"F16", DType::kFloat16},
      {"BF16", DType::kBFloat16},      {"F32", DType::kFloat32},        {"F64", DType::kFloat64},
      {"F8_E8M0", DType::kFloat8E8M0}};
  const auto found = kNames->find(name);
  return found == kNames->end() ? DType::kInvalid : found->second;
}

// A list of integers >= 0.
bool ReadNumbers(const json& value, std::vector<int64_t>* numbers) {
  if (!value.is_array()) return false;
  for (const json& number : value) {
    if (!number.is_number_unsigned() || number.get<uint64_t>() > INT64_MAX) return false;
    numbers->push_back(number.get<int64_t>());
  }
  return true;
}

absl::StatusOr<StoredTensor> ParseEntry(const std::string& path, const std::string& name,
                                        const json& entry, int64_t data_begin, int64_t data_size) {
  const auto bad = [&](absl::string_view what) {
    return Corrupt(path, absl::StrCat("tensor ", name, ": ", what));
  };
  if (!entry.is_object() || !entry.contains("dtype") || !entry["dtype"].is_string() ||
      !entry.contains("shape") || !entry.contains("data_offsets")) {
    return bad("needs dtype, shape and data_offsets");
  }
  StoredTensor stored;
  stored.name = name;
  stored.path = path;
  stored.dtype = DTypeOf(entry["dtype"].get<std::string>());
  if (stored.dtype == DType::kInvalid) {
    return bad(absl::StrCat("dtype ", entry["dtype"].get<std::string>(), " is not known"));
  }
  std::vector<int64_t> offsets;
  if (!ReadNumbers(entry["shape"], &stored.shape) ||
      !ReadNumbers(entry["data_offsets"], &offsets) || offsets.size() != 2) {
    return bad("shape and data_offsets must be lists of integers");
  }
  int64_t num_bytes = SizeOf(stored.dtype);
  for (int64_t size : stored.shape) {
    if (__builtin_mul_overflow(num_bytes, size, &num_bytes)) return bad("the shape overflows");
  }
  if (offsets[0] > offsets[1] || offsets[1] > data_size || offsets[1] - offsets[0] != num_bytes) {
    return bad(absl::StrCat("data_offsets [", offsets[0], ", ", offsets[1], "] do not hold ",
                            num_bytes, " bytes of ", data_size));
  }
  stored.file_begin = data_begin + offsets[0];
  stored.num_bytes = num_bytes;
  return stored;
}

absl::Status AppendSafetensors(const std::string& path, std::vector<StoredTensor>* tensors) {
  ZC_ASSIGN_OR_RETURN(const OpenFile file, OpenFile::Open(path));
  ZC_ASSIGN_OR_RETURN(const std::string prefix, file.Read(0, 8));
  uint64_t header_size = 0;
  std::memcpy(&header_size, prefix.data(), sizeof(header_size));
  if (header_size > kMaxHeaderBytes || static_cast<int64_t>(header_size) > file.size() - 8) {
    return Corrupt(path, absl::StrCat("a header of ", header_size, " bytes in a file of ",
                                      file.size(), ", the limit is ", kMaxHeaderBytes));
  }
  const int64_t data_begin = 8 + static_cast<int64_t>(header_size);
  ZC_ASSIGN_OR_RETURN(const std::string text, file.Read(8, data_begin - 8));
  ZC_ASSIGN_OR_RETURN(const json header, ParseObject(path, text));
  const size_t first = tensors->size();
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    ZC_ASSIGN_OR_RETURN(StoredTensor stored,
                        ParseEntry(path, name, entry, data_begin, file.size() - data_begin));
    tensors->push_back(std::move(stored));
  }
  std::stable_sort(tensors->begin() + static_cast<int64_t>(first), tensors->end(),
                   [](const StoredTensor& a, const StoredTensor& b) {
                     return std::make_pair(a.file_begin, a.num_bytes) <
                            std::make_pair(b.file_begin, b.num_bytes);
                   });
  int64_t end = data_begin;
  for (size_t i = first; i < tensors->size(); ++i) {
    const StoredTensor& tensor = (*tensors)[i];
    if (tensor.file_begin != end) {
      return Corrupt(path, absl::StrCat("tensor ", tensor.name, " begins at byte ",
                                        tensor.file_begin, ", the data before it ends at ", end));
    }
    end += tensor.num_bytes;
  }
  if (end != file.size()) {
    return Corrupt(path, absl::StrCat("the data ends at byte ", end, " of ", file.size()));
  }
  return absl::OkStatus();
}

absl::Status AppendFile(const std::string& path, std::vector<StoredTensor>* tensors) {
  return absl::EndsWith(path, ".safetensors") ? AppendSafetensors(path, tensors)
                                              : AppendTorchFile(path, tensors);
}

absl::StatusOr<std::map<std::string, std::string>> ReadIndex(const std::string& path) {
  ZC_ASSIGN_OR_RETURN(const std::string text, ReadText(path));
  ZC_ASSIGN_OR_RETURN(const json index, ParseObject(path, text));
  const auto map = index.find("weight_map");
  if (map == index.end() || !map->is_object()) return Corrupt(path, "it has no weight_map");
  std::map<std::string, std::string> file_of;
  for (const auto& [name, file] : map->items()) {
    if (!file.is_string() || file.get_ref<const std::string&>().empty() ||
        file.get_ref<const std::string&>().find('/') != std::string::npos) {
      return Corrupt(path, absl::StrCat("tensor ", name, ": not a file beside the index"));
    }
    file_of[name] = file.get<std::string>();
  }
  return file_of;
}

// All tensors of all files that the index names.  Where a name is in several, the one of the file
// that the index gives it counts.
absl::StatusOr<std::vector<StoredTensor>> ReadSharded(const std::string& folder,
                                                      const std::string& index_path) {
  ZC_ASSIGN_OR_RETURN(const auto file_of, ReadIndex(index_path));
  std::map<std::string, bool> files;  // sorted
  for (const auto& [name, file] : file_of) files[file] = true;
  std::vector<StoredTensor> all;
  for (const auto& [file, _] : files) {
    ZC_RETURN_IF_ERROR(AppendFile(absl::StrCat(folder, "/", file), &all));
  }
  absl::flat_hash_map<std::string, int> copies;
  for (const StoredTensor& tensor : all) ++copies[tensor.name];
  std::vector<StoredTensor> kept;
  absl::flat_hash_set<std::string> found;
  for (StoredTensor& tensor : all) {
    const auto named = file_of.find(tensor.name);
    const bool here =
        named != file_of.end() && tensor.path == absl::StrCat(folder, "/", named->second);
    if (here) found.insert(tensor.name);
    if (!here && copies[tensor.name] > 1) continue;
    kept.push_back(std::move(tensor));
  }
  for (const auto& [name, file] : file_of) {
    if (!found.contains(name)) {
      return Corrupt(index_path, absl::StrCat("tensor ", name, " is not in ", file));
    }
  }
  return kept;
}

// The elements of a strided tensor one by one, its last index first.
std::string InRowMajorOrder(const StoredTensor& stored, const std::string& bytes) {
  const int64_t size = SizeOf(stored.dtype);
  std::string ordered;
  std::vector<int64_t> index(stored.shape.size(), 0);
  for (int64_t k = NumElements(stored.shape); k > 0; --k) {
    int64_t place = 0;
    for (size_t axis = 0; axis < index.size(); ++axis) place += index[axis] * stored.strides[axis];
    ordered.append(bytes, place * size, size);
    for (size_t axis = index.size(); axis > 0 && ++index[axis - 1] == stored.shape[axis - 1];
         --axis) {
      index[axis - 1] = 0;
    }
  }
  return ordered;
}

bool Exists(const std::string& path) { return ::access(path.c_str(), F_OK) == 0; }

}  // namespace

absl::StatusOr<CheckpointFiles> OpenCheckpoint(const std::string& folder,
                                               const std::string& variant) {
  const std::string part = variant.empty() ? "" : absl::StrCat(".", variant);
  const std::string config = absl::StrCat(folder, "/config.json");
  CheckpointFiles files;
  std::string looked_for;
  bool is_found = false;
  for (const auto& [before, after, is_index] :
       {std::tuple("model", ".safetensors", false),
        std::tuple("model.safetensors.index", ".json", true),
        std::tuple("pytorch_model", ".bin", false),
        std::tuple("pytorch_model.bin.index", ".json", true)}) {
    const std::string path = absl::StrCat(folder, "/", before, part, after);
    is_found = Exists(path);
    if (!is_found) {
      absl::StrAppend(&looked_for, looked_for.empty() ? "neither " : " nor ", path);
    } else if (is_index) {
      ZC_ASSIGN_OR_RETURN(files.tensors, ReadSharded(folder, path));
    } else {
      ZC_RETURN_IF_ERROR(AppendFile(path, &files.tensors));
    }
    if (is_found) break;
  }
  if (!is_found) {
    return WithReason(absl::NotFoundError(absl::StrCat("open ", folder, ": it has ", looked_for)),
                      "CHECKPOINT_NOT_FOUND");
  }
  if (Exists(config)) {
    ZC_ASSIGN_OR_RETURN(files.config_json, ReadText(config));
  }
  return files;
}

absl::StatusOr<Tensor> ReadTensor(const StoredTensor& stored) {
  ZC_ASSIGN_OR_RETURN(const OpenFile file, OpenFile::Open(stored.path));
  ZC_ASSIGN_OR_RETURN(std::string bytes, file.Read(stored.file_begin, stored.num_bytes));
  if (!stored.strides.empty()) bytes = InRowMajorOrder(stored, bytes);
  return Tensor{stored.dtype, stored.shape, std::move(bytes)};
}

}  // namespace zerocast::verify
