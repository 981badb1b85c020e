#ifndef ZEROCAST_CLIENT_FORMATS_DEEPSPEED_MODEL_FILES_H_
#define ZEROCAST_CLIENT_FORMATS_DEEPSPEED_MODEL_FILES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/formats/deepspeed/piece_copier.h"
#include "client/formats/deepspeed/zero_checkpoint.h"
#include "client/formats/output_folder.h"
#include "kernels/copy/box.h"
#include "kernels/copy/dtype.h"

namespace zerocast {

// A tensor of a checkpoint that others are made of.
struct ModelSource {
  std::string name;
  std::vector<int64_t> shape;
  DType dtype = DType::kInvalid;  // in which it is to be written
  // Its elements, ascending by offset, without gaps, all of one dtype.
  std::vector<ZeroPiece> pieces;
};

// A tensor to write.
struct ModelTensor {
  std::string name;
  std::vector<int64_t> shape;
  DType dtype = DType::kInvalid;
  std::vector<Box> boxes;  // Box::source indexes ModelToWrite::sources; cover it
};

struct ModelToWrite {
  std::vector<ModelSource> sources;
  std::vector<ModelTensor> tensors;
};

struct ModelFile {
  std::string name;  // "model-00001-of-00002.safetensors"
  int64_t num_bytes = 0;
  int64_t num_tensors = 0;
};

// How many tensors go into one file: as many, in their order, as have at most `max_shard_bytes`;
// one that is larger goes alone (reference: huggingface_hub, split_state_dict_into_shards_factory).
// Returns by file the indices of its tensors.
std::vector<std::vector<size_t>> CutIntoShards(const std::vector<ModelTensor>& tensors,
                                               int64_t max_shard_bytes);

// Bytes of all tensors.
int64_t BytesOf(const std::vector<ModelTensor>& tensors);

// Writes `model` into `folder` as safetensors files with metadata format "pt": model.safetensors,
// or model-00001-of-0000N.safetensors and model.safetensors.index.json.  The CRC of every storage
// that was read is compared.  Memory does not depend on the sizes of tensors.  Errors: as
// PieceCopier and OutputFile.
absl::StatusOr<std::vector<ModelFile>> WriteModel(const ZeroCheckpoint& checkpoint,
                                                  const ModelToWrite& model,
                                                  const OutputFolder& folder,
                                                  int64_t max_shard_bytes,
                                                  PieceCopier::Options options);

// Copies what else a folder of a Hugging Face model has (config.json, the tokenizer's files, code)
// from `from` into `folder`, where it is there; returns the names.  Errors: as InputFile and
// OutputFile.
absl::StatusOr<std::vector<std::string>> CopyModelFiles(const std::string& from,
                                                        const OutputFolder& folder);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_FORMATS_DEEPSPEED_MODEL_FILES_H_
