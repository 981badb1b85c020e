#ifndef ZEROCAST_SERVER_PLAN_MANIFEST_H_
#define ZEROCAST_SERVER_PLAN_MANIFEST_H_

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/string_view.h"
#include "server/conversion/convert.h"
#include "server/plan/engine_checkpoint.h"

namespace zerocast {

// A checkpoint's file: what it must still be when it is read.
struct ManifestFile {
  std::string path;  // relative to the checkpoint's folder
  int64_t num_bytes = 0;
  int64_t mtime_ns = 0;        // of the node that made the manifest; compared on that node only
  uint64_t header_digest = 0;  // of all that the file says of its tensors: client/formats
};

// A tensor of the checkpoint: where its data lies.
struct ManifestTensor {
  SourceTensor tensor;
  int32_t file = 0;        // index in Manifest::files
  int64_t file_begin = 0;  // absolute offset of its first element in the file, bytes
  // Of the end of its last.  file_end - file_begin is what CheckedReach() says of shape and
  // strides, times SizeOf(dtype): without strides all its bytes, with them those between, too.
  int64_t file_end = 0;
};

// Names, shapes, dtypes and file ranges of a checkpoint: its headers, never its data.
// Tensors are sorted by (file, file_begin, name).  Two tensors of one entry of `files` never share
// bytes.  Where tensors of a file do (torch.save keeps ties and views), the file has several
// entries, alike in all fields: as many as there are tensors over one byte.
struct Manifest {
  std::vector<ManifestFile> files;
  std::vector<ManifestTensor> tensors;
  std::string config_json;  // the checkpoint's config.json as text; "" when it has none
  std::string variant;      // whose files these are ("fp16"); "" for those without one
  // Of a folder that a training engine saved: what its weights are made of.  Names are the model's
  // own, no conversion rules apply.
  std::optional<EngineCheckpoint> engine = std::nullopt;
  std::string note = "";  // for people: what else the folder holds; not in plans' digests
};

// What the folder of a checkpoint is read as.
enum class CheckpointFormat {
  kAny,          // Hugging Face's weights where the folder has some, else DeepSpeed's
  kHuggingFace,  // model.safetensors and the like, with config.json
  kDeepSpeed,    // what DeepSpeed's engine saves
};

// Whether the files of a checkpoint may be called by it: "" or at most 64 letters, digits, '.', '-'
// and '_'.
inline bool IsVariant(absl::string_view variant) {
  return variant.size() <= 64 && std::all_of(variant.begin(), variant.end(), [](char c) {
           return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '-' ||
                  c == '_';
         });
}

// The path of the file that holds tensor `index`, for messages; the index of the file may be wrong.
inline std::string FileOf(const Manifest& manifest, int32_t index) {
  const int32_t file = manifest.tensors[index].file;
  const bool is_listed = file >= 0 && file < static_cast<int32_t>(manifest.files.size());
  return is_listed ? manifest.files[file].path : "a file that the manifest does not list";
}

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_PLAN_MANIFEST_H_
