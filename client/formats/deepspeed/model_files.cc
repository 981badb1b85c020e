#include "client/formats/deepspeed/model_files.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/formats/file.h"
#include "client/formats/safetensors_writer.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"

namespace zerocast {
namespace {

constexpr char kIndex[] = "model.safetensors.index.json";

// What save_pretrained of a model, its configuration, tokenizer and processor writes beside
// weights.
constexpr absl::string_view kModelFiles[] = {
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "feature_extractor_config.json",
};
constexpr int64_t kCopyBytes = 1 << 20;

int64_t NumElements(const ModelTensor& tensor) {
  int64_t count = 1;
  for (const int64_t extent : tensor.shape) count *= extent;
  return count;
}

int64_t BytesOf(const ModelTensor& tensor) { return NumElements(tensor) * SizeOf(tensor.dtype); }

absl::Status CopyFile(const std::string& from, const std::string& to) {
  ZC_ASSIGN_OR_RETURN(const InputFile input, InputFile::Open(from));
  ZC_ASSIGN_OR_RETURN(OutputFile output, OutputFile::Create(to));
  for (int64_t at = 0; at < input.num_bytes(); at += kCopyBytes) {
    ZC_ASSIGN_OR_RETURN(const std::string part,
                        input.Read(at, std::min(kCopyBytes, input.num_bytes() - at)));
    ZC_RETURN_IF_ERROR(output.Append(part));
  }
  return output.Commit();
}

}  // namespace

std::vector<std::vector<size_t>> CutIntoShards(const std::vector<ModelTensor>& tensors,
                                               int64_t max_shard_bytes) {
  // Large ones become files where they come; the one that is being filled comes at its first
  // tensor.
  std::vector<std::vector<size_t>> shards;
  int64_t bytes = 0;
  std::vector<size_t> filling;
  for (size_t k = 0; k < tensors.size(); ++k) {
    const int64_t more = BytesOf(tensors[k]);
    if (more > max_shard_bytes) {
      shards.push_back({k});
      continue;
    }
    if (!filling.empty() && bytes + more > max_shard_bytes) {
      shards.push_back(std::exchange(filling, {}));
      bytes = 0;
    }
    filling.push_back(k);
    bytes += more;
  }
  if (!filling.empty() || shards.empty()) shards.push_back(std::move(filling));
  return shards;
}

int64_t BytesOf(const std::vector<ModelTensor>& tensors) {
  int64_t bytes = 0;
  for (const ModelTensor& tensor : tensors) bytes += BytesOf(tensor);
  return bytes;
}

absl::StatusOr<std::vector<ModelFile>> WriteModel(const ZeroCheckpoint& checkpoint,
                                                  const ModelToWrite& model,
                                                  const OutputFolder& folder,
                                                  int64_t max_shard_bytes,
                                                  PieceCopier::Options options) {
  PieceCopier copier(checkpoint, std::move(options));
  std::vector<std::vector<size_t>> shards = CutIntoShards(model.tensors, max_shard_bytes);
  std::vector<ModelFile> files;
  nlohmann::ordered_json weight_map = nlohmann::ordered_json::object();
  int64_t num_elements = 0;
  for (std::vector<size_t>& shard : shards) {
    ModelFile file;
    file.name = shards.size() == 1 ? "model.safetensors"
                                   : absl::StrFormat("model-%05d-of-%05d.safetensors",
                                                     files.size() + 1, shards.size());
    // The widest elements first: torch maps a tensor only where its elements are aligned.
    std::stable_sort(shard.begin(), shard.end(), [&](size_t a, size_t b) {
      return SizeOf(model.tensors[a].dtype) > SizeOf(model.tensors[b].dtype);
    });
    std::vector<TensorToPlace> places;
    for (const size_t k : shard) {
      const ModelTensor& tensor = model.tensors[k];
      places.push_back({tensor.name, tensor.dtype, tensor.shape});
      weight_map.get_ref<nlohmann::ordered_json::object_t&>().push_back({tensor.name, file.name});
      num_elements += NumElements(tensor);
    }
    std::vector<int64_t> begins;
    const std::string head = SafetensorsHead(places, {{"format", "pt"}}, &begins);
    std::vector<BoxRun> runs;
    file.num_tensors = static_cast<int64_t>(shard.size());
    file.num_bytes = static_cast<int64_t>(head.size());
    for (size_t k = 0; k < shard.size(); ++k) {
      const ModelTensor& tensor = model.tensors[shard[k]];
      file.num_bytes += BytesOf(tensor);
      for (const Box& box : tensor.boxes) {
        BoxRun run;
        run.box = box;
        run.pieces = &model.sources[static_cast<size_t>(box.source)].pieces;
        run.position = begins[k];
        run.dtype = tensor.dtype;
        runs.push_back(run);
      }
    }
    ZC_ASSIGN_OR_RETURN(OutputFile output, OutputFile::Create(folder.File(file.name)));
    ZC_RETURN_IF_ERROR(output.WriteAt(0, head));
    const OutputFile* const outputs[] = {&output};
    ZC_RETURN_IF_ERROR(copier.CopyBoxes(runs, outputs));
    ZC_RETURN_IF_ERROR(output.Commit());
    files.push_back(std::move(file));
  }
  ZC_RETURN_IF_ERROR(copier.CheckStorages());
  if (files.size() > 1) {
    const nlohmann::ordered_json index = {
        {"metadata", {{"total_parameters", num_elements}, {"total_size", BytesOf(model.tensors)}}},
        {"weight_map", std::move(weight_map)}};
    ZC_ASSIGN_OR_RETURN(OutputFile output, OutputFile::Create(folder.File(kIndex)));
    ZC_RETURN_IF_ERROR(output.Append(
        index.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n"));
    ZC_RETURN_IF_ERROR(output.Commit());
  }
  return files;
}

absl::StatusOr<std::vector<std::string>> CopyModelFiles(const std::string& from,
                                                        const OutputFolder& folder) {
  std::vector<std::string> copied;
  std::error_code error;
  std::vector<std::string> names;
  for (std::filesystem::directory_iterator entry(from, error), end; !error && entry != end;
       entry.increment(error)) {
    std::string name = entry->path().filename().string();
    const bool is_wanted =
        std::find(std::begin(kModelFiles), std::end(kModelFiles), name) != std::end(kModelFiles) ||
        ((absl::StartsWith(name, "modeling_") || absl::StartsWith(name, "configuration_") ||
          absl::StartsWith(name, "tokenization_") || absl::StartsWith(name, "processing_")) &&
         absl::EndsWith(name, ".py"));
    if (is_wanted) names.push_back(std::move(name));
  }
  if (error) {
    return WithReason(ErrnoStatus(error.value(), absl::StrCat("list ", from)), "IO_ERROR");
  }
  std::sort(names.begin(), names.end());
  for (std::string& name : names) {
    std::error_code not_there;
    if (!std::filesystem::is_regular_file(from + "/" + name, not_there)) continue;
    ZC_RETURN_IF_ERROR(CopyFile(from + "/" + name, folder.File(name)));
    copied.push_back(std::move(name));
  }
  return copied;
}

}  // namespace zerocast
