#include "client/formats/checkpoint.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "client/formats/file.h"
#include "client/formats/safetensors.h"
#include "client/formats/torch_file.h"
#include "client/formats/torch_weights.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/base/python_json.h"
#include "server/base/utf8.h"

namespace zerocast {
namespace {

// A file that a checkpoint's weights may be in, or the index of several.
struct WeightsName {
  std::string name;
  bool is_index = false;
};

// In the library's order of preference (transformers 5.23.0, _get_resolved_checkpoint_files), a
// variant before the last extension (_add_variant).
std::vector<WeightsName> NamesOf(const std::string& variant) {
  const std::string part = variant.empty() ? "" : absl::StrCat(".", variant);
  return {{absl::StrCat("model", part, ".safetensors")},
          {absl::StrCat("model.safetensors.index", part, ".json"), true},
          {absl::StrCat("pytorch_model", part, ".bin")},
          {absl::StrCat("pytorch_model.bin.index", part, ".json"), true}};
}

// What the library goes by, too: any other file is one of torch.save.
bool IsSafetensors(absl::string_view file) { return absl::EndsWith(file, ".safetensors"); }

// The largest public index (70,000 tensors) has 7 MB.
constexpr int64_t kMaxIndexBytes = int64_t{256} << 20;
constexpr int64_t kMaxConfigBytes = int64_t{16} << 20;

absl::Status Corrupt(absl::string_view file, absl::string_view what) {
  return WithReason(absl::DataLossError(absl::StrCat("read ", file, ": ", EscapeControls(what))),
                    "CHECKPOINT_CORRUPT");
}

absl::StatusOr<bool> Exists(const std::string& path, const FileObserver& about_to) {
  ZC_RETURN_IF_ERROR(Observe(about_to, absl::StrCat("stat ", path)));
  struct stat info;
  return ::stat(path.c_str(), &info) == 0;
}

// A cache of the hub holds links: NOT_FOUND where `path`, which does not exist, is a link to
// nothing.
absl::Status CheckNoDanglingLink(const std::string& path, const FileObserver& about_to) {
  ZC_RETURN_IF_ERROR(Observe(about_to, absl::StrCat("readlink ", path)));
  char target[PATH_MAX];
  const ssize_t size = ::readlink(path.c_str(), target, sizeof(target));
  if (size < 0) return absl::OkStatus();
  return WithReason(
      absl::NotFoundError(absl::StrCat(
          "open ", path, ": it is a dangling link: ",
          EscapeControls(absl::string_view(target, static_cast<size_t>(size))),
          " does not exist; fetch the checkpoint again, or copy the folder with what it links to")),
      "CHECKPOINT_NOT_FOUND");
}

// Reads an index's JSON as it is parsed: {"metadata": anything, "weight_map": {tensor: file}}.
class IndexHandler : public nlohmann::json_sax<nlohmann::json> {
 public:
  std::map<std::string, std::string>& weight_map() { return weight_map_; }
  bool found() const { return found_; }
  const std::string& error() const { return error_; }

  bool start_object(std::size_t) override {
    if (!Enter()) return false;
    if (depth_ == 2 && key_ == "weight_map") {
      if (found_) return Fail("\"weight_map\" appears twice");
      found_ = in_map_ = true;
    }
    return true;
  }
  bool end_object() override {
    if (depth_-- == 2) in_map_ = false;
    return true;
  }
  bool key(std::string& key) override {
    if (depth_ == 1) key_ = key;
    if (in_map_ && depth_ == 2) {
      if (weight_map_.count(key) != 0) {
        return Fail(absl::StrCat("weight_map names tensor ", key, " twice"));
      }
      tensor_ = key;
    }
    return true;
  }
  bool string(std::string& value) override {
    if (in_map_ && depth_ == 2) weight_map_[tensor_] = value;
    return true;
  }
  bool start_array(std::size_t) override { return Enter() && Other(); }
  bool end_array() override {
    --depth_;
    return true;
  }
  bool null() override { return Other(); }
  bool boolean(bool) override { return Other(); }
  bool number_integer(number_integer_t) override { return Other(); }
  bool number_unsigned(number_unsigned_t) override { return Other(); }
  bool number_float(number_float_t, const std::string&) override { return Other(); }
  bool binary(nlohmann::json::binary_t&) override { return Other(); }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    return Fail(absl::StrCat("not valid JSON at byte ", position));
  }

 private:
  static constexpr int kMaxDepth = 64;
  bool Fail(std::string error) {
    error_ = std::move(error);
    return false;
  }
  bool Enter() {
    return ++depth_ <= kMaxDepth || Fail(absl::StrCat("nested deeper than ", kMaxDepth));
  }
  bool Other() {
    return !in_map_ ||
           Fail(absl::StrCat("weight_map: the file of tensor ", tensor_, " is not a string"));
  }

  std::map<std::string, std::string> weight_map_;
  std::string key_, tensor_, error_;
  int depth_ = 0;
  bool found_ = false, in_map_ = false;
};

// `is_safetensors`: the index is one of safetensors files.  That of others may name any.
absl::StatusOr<std::map<std::string, std::string>> ReadIndex(const std::string& path,
                                                             bool is_safetensors,
                                                             const FileObserver& about_to) {
  ZC_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, kMaxIndexBytes, about_to));
  IndexHandler handler;
  if (!nlohmann::json::sax_parse(text, &handler)) return Corrupt(path, handler.error());
  if (!handler.found() || handler.weight_map().empty()) {
    return Corrupt(path, "it has no weight_map with entries");
  }
  for (const auto& [tensor, file] : handler.weight_map()) {
    if (file.empty() || file == "." || file == ".." || file.find('/') != std::string::npos ||
        file.find('\0') != std::string::npos || (is_safetensors && !IsSafetensors(file))) {
      return Corrupt(path, absl::StrCat("tensor ", tensor, ": \"", file, "\" is not the name of a ",
                                        is_safetensors ? ".safetensors " : "", "file beside it"));
    }
  }
  return std::move(handler.weight_map());
}

absl::Status CheckIsObject(const std::string& path, absl::string_view text) {
  absl::ConsumePrefix(&text, "\xEF\xBB\xBF");
  // Judged without a tree: hostile depth costs nothing.
  const size_t first = text.find_first_not_of(" \t\r\n");
  const bool valid = nlohmann::json::accept(NullForPythonConstants(text));
  if (valid && text[first] == '{') return absl::OkStatus();
  return Corrupt(path, valid ? "it is not a JSON object" : "it is not valid JSON");
}

void AddSafetensors(SafetensorsHeader header, ManifestFile file, Manifest* manifest) {
  const int32_t index = static_cast<int32_t>(manifest->files.size());
  file.header_digest = header.digest;
  manifest->files.push_back(std::move(file));
  for (SafetensorsEntry& entry : header.tensors) {
    ManifestTensor tensor;
    tensor.tensor = {std::move(entry.name), entry.dtype, std::move(entry.shape)};
    tensor.file = index;
    tensor.file_begin = entry.file_begin;
    tensor.file_end = entry.file_end;
    manifest->tensors.push_back(std::move(tensor));
  }
}

void AddTorch(TorchWeights weights, ManifestFile file, Manifest* manifest) {
  const int32_t first = static_cast<int32_t>(manifest->files.size());
  file.header_digest = weights.digest;
  manifest->files.resize(manifest->files.size() + static_cast<size_t>(weights.num_layers), file);
  for (TorchWeight& weight : weights.tensors) {
    ManifestTensor tensor;
    tensor.tensor = std::move(weight.tensor);
    tensor.file = first + weight.layer;
    tensor.file_begin = weight.file_begin;
    tensor.file_end = weight.file_end;
    manifest->tensors.push_back(std::move(tensor));
  }
}

// Appends the tensors of one file to `manifest`.
absl::Status AddFile(const std::string& folder, const std::string& name,
                     const FileObserver& about_to, Manifest* manifest) {
  const std::string path = absl::StrCat(folder, "/", name);
  ZC_ASSIGN_OR_RETURN(const InputFile file, InputFile::Open(path, about_to));
  const ManifestFile entry = {name, file.num_bytes(), file.mtime_ns()};
  if (IsSafetensors(name)) {
    ZC_ASSIGN_OR_RETURN(SafetensorsHeader header, ReadSafetensorsHeader(file));
    AddSafetensors(std::move(header), entry, manifest);
  } else {
    ZC_ASSIGN_OR_RETURN(TorchWeights weights, ReadTorchWeights(file));
    AddTorch(std::move(weights), entry, manifest);
  }
  return absl::OkStatus();
}

// Where a name is in two files the library keeps the later file's, whatever the index says.  Both
// agree or the checkpoint is refused: nobody can know which weight was meant.
absl::Status DropDuplicates(const std::map<std::string, std::string>& weight_map,
                            const std::string& index_path, Manifest* manifest) {
  std::map<std::string, size_t> last;
  for (size_t k = 0; k < manifest->tensors.size(); ++k) last[manifest->tensors[k].tensor.name] = k;
  if (last.size() == manifest->tensors.size()) return absl::OkStatus();
  std::vector<ManifestTensor> kept;
  for (size_t k = 0; k < manifest->tensors.size(); ++k) {
    ManifestTensor& tensor = manifest->tensors[k];
    const size_t winner = last[tensor.tensor.name];
    if (winner != k) {
      const std::string& file = manifest->files[manifest->tensors[winner].file].path;
      const auto named = weight_map.find(tensor.tensor.name);
      if (named == weight_map.end() || named->second != file) {
        return Corrupt(index_path, absl::StrCat("tensor ", tensor.tensor.name, " is in ",
                                                manifest->files[tensor.file].path, " and in ", file,
                                                ", and the index does not name the latter"));
      }
      continue;
    }
    kept.push_back(std::move(tensor));
  }
  manifest->tensors = std::move(kept);
  return absl::OkStatus();
}

absl::Status ReadSharded(const std::string& folder, const std::string& index,
                         const FileObserver& about_to, Manifest* manifest) {
  const std::string index_path = absl::StrCat(folder, "/", index);
  const bool is_safetensors = absl::StartsWith(index, "model.safetensors.");
  ZC_ASSIGN_OR_RETURN(const auto weight_map, ReadIndex(index_path, is_safetensors, about_to));
  std::map<std::string, std::set<std::string>> names_by_file;  // sorted, as the library reads them
  for (const auto& [tensor, file] : weight_map) names_by_file[file].insert(tensor);
  for (auto& [file, names] : names_by_file) {
    const size_t first = manifest->tensors.size();
    const absl::Status added = AddFile(folder, file, about_to, manifest);
    if (absl::IsNotFound(added)) {
      ZC_RETURN_IF_ERROR(CheckNoDanglingLink(absl::StrCat(folder, "/", file), about_to));
      return Annotate(added, absl::StrCat(index_path, " names ", names.size(), " tensors in ", file,
                                          ", which is missing"));
    }
    ZC_RETURN_IF_ERROR(added);
    for (size_t k = first; k < manifest->tensors.size(); ++k) {
      names.erase(manifest->tensors[k].tensor.name);
    }
    if (!names.empty()) {
      return Corrupt(
          index_path,
          absl::StrCat(
              "tensor ", *names.begin(), " should be in ", file, ", which does not have it",
              names.size() == 1 ? "" : absl::StrCat(" (and ", names.size() - 1, " more)")));
    }
  }
  return DropDuplicates(weight_map, index_path, manifest);
}

// The first of `names` that is there.
absl::Status ReadWeights(const std::string& folder, const std::vector<WeightsName>& names,
                         const FileObserver& about_to, Manifest* manifest) {
  for (const WeightsName& weights : names) {
    const std::string path = absl::StrCat(folder, "/", weights.name);
    ZC_ASSIGN_OR_RETURN(const bool is_there, Exists(path, about_to));
    if (!is_there) continue;
    // An index without an entry is refused where it is read.
    if (weights.is_index) return ReadSharded(folder, weights.name, about_to, manifest);
    ZC_RETURN_IF_ERROR(AddFile(folder, weights.name, about_to, manifest));
    if (manifest->tensors.empty()) {
      return Corrupt(path, "it holds no tensor: there is nothing to load");
    }
    return absl::OkStatus();
  }
  std::vector<std::string> list;
  for (const WeightsName& weights : names) {
    ZC_RETURN_IF_ERROR(CheckNoDanglingLink(absl::StrCat(folder, "/", weights.name), about_to));
    list.push_back(weights.name);
  }
  return WithReason(
      absl::NotFoundError(absl::StrCat("open checkpoint ", folder, ": it has neither ",
                                       absl::StrJoin(list, " nor "))),
      "CHECKPOINT_NOT_FOUND");
}

absl::StatusOr<uint64_t> HeaderDigest(const InputFile& file) {
  if (IsSafetensors(file.path())) {
    ZC_ASSIGN_OR_RETURN(const SafetensorsHeader header, ReadSafetensorsHeader(file));
    return header.digest;
  }
  ZC_ASSIGN_OR_RETURN(const TorchFile torch, TorchFile::Read(file));
  return torch.header_digest();
}

}  // namespace

absl::StatusOr<Manifest> ReadCheckpointManifest(const std::string& folder,
                                                const FileObserver& about_to,
                                                const std::string& variant) {
  if (!IsVariant(variant)) {
    return WithReason(absl::InvalidArgumentError(absl::StrCat("open checkpoint ", folder, ": \"",
                                                              EscapeControls(variant),
                                                              "\" is not a variant's name")),
                      "INVALID_FIELDS");
  }
  const std::vector<WeightsName> names = NamesOf(variant);
  ZC_RETURN_IF_ERROR(Observe(about_to, absl::StrCat("stat ", folder)));
  struct stat info;
  if (::stat(folder.c_str(), &info) != 0) {
    return WithReason(ErrnoStatus(errno, absl::StrCat("open checkpoint ", folder)),
                      "CHECKPOINT_NOT_FOUND");
  }
  if (!S_ISDIR(info.st_mode)) {
    return WithReason(absl::InvalidArgumentError(absl::StrCat(
                          "open checkpoint ", folder, ": not a folder; give the folder that holds ",
                          names.front().name)),
                      "CHECKPOINT_NOT_FOUND");
  }
  Manifest manifest;
  manifest.variant = variant;
  ZC_RETURN_IF_ERROR(ReadWeights(folder, names, about_to, &manifest));
  const std::string config_path = absl::StrCat(folder, "/config.json");
  ZC_ASSIGN_OR_RETURN(const bool has_config, Exists(config_path, about_to));
  if (has_config) {
    ZC_ASSIGN_OR_RETURN(manifest.config_json, ReadTextFile(config_path, kMaxConfigBytes, about_to));
    // Who uses it gets its text alone, and could not name the file.
    ZC_RETURN_IF_ERROR(CheckIsObject(config_path, manifest.config_json));
  } else {
    ZC_RETURN_IF_ERROR(CheckNoDanglingLink(config_path, about_to));
  }
  // Of tensors at one place all but one are empty.
  std::stable_sort(manifest.tensors.begin(), manifest.tensors.end(),
                   [](const ManifestTensor& a, const ManifestTensor& b) {
                     return std::tie(a.file, a.file_begin, a.tensor.name) <
                            std::tie(b.file, b.file_begin, b.tensor.name);
                   });
  return manifest;
}

absl::Status CheckManifestFiles(const Manifest& manifest, const std::string& folder,
                                bool made_on_this_node, const FileObserver& about_to) {
  const ManifestFile* before = nullptr;
  for (const ManifestFile& expected : manifest.files) {
    // A file that has several entries has them one behind the other.
    const bool is_known = before != nullptr && before->path == expected.path &&
                          before->num_bytes == expected.num_bytes &&
                          before->mtime_ns == expected.mtime_ns &&
                          before->header_digest == expected.header_digest;
    before = &expected;
    if (is_known) continue;
    const std::string path = absl::StrCat(folder, "/", expected.path);
    const auto changed = [&path](absl::string_view how) {
      return WithReason(absl::AbortedError(absl::StrCat("check ", path, ": ", how)),
                        "CHECKPOINT_CHANGED");
    };
    ZC_ASSIGN_OR_RETURN(const InputFile file, InputFile::Open(path, about_to));
    if (file.num_bytes() != expected.num_bytes) {
      return changed(absl::StrCat("it has ", file.num_bytes(), " bytes, the manifest says ",
                                  expected.num_bytes));
    }
    if (made_on_this_node && file.mtime_ns() != expected.mtime_ns) {
      return changed("it was modified after the plan was made from it");
    }
    ZC_ASSIGN_OR_RETURN(const uint64_t digest, HeaderDigest(file));
    if (digest != expected.header_digest) {
      return changed("its header is not the one the plan was made from");
    }
  }
  return absl::OkStatus();
}

}  // namespace zerocast
