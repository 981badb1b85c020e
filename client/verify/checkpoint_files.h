#ifndef ZEROCAST_CLIENT_VERIFY_CHECKPOINT_FILES_H_
#define ZEROCAST_CLIENT_VERIFY_CHECKPOINT_FILES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/verify/tensor.h"

namespace zerocast::verify {

// A tensor of the checkpoint and where its bytes lie.
struct StoredTensor {
  std::string name;
  DType dtype = DType::kInvalid;
  Shape shape;
  std::string path;
  int64_t file_begin = 0;  // absolute, bytes
  int64_t num_bytes = 0;   // to the end of its last element
  Shape strides;           // elements; empty: row-major, without gaps
};

// A checkpoint's folder: model.safetensors, or else the files of model.safetensors.index.json, or
// else pytorch_model.bin, or else the files of pytorch_model.bin.index.json; of a variant V
// model.V.safetensors, model.safetensors.index.V.json, and so on.
struct CheckpointFiles {
  std::vector<StoredTensor> tensors;  // by file, in the order of the data
  std::string config_json;            // the text of config.json; "" when there is none
};

// Reads the headers.  Errors:
//   NOT_FOUND          the folder, or a file that it needs; reason CHECKPOINT_NOT_FOUND.
//   DATA_LOSS          a header or an index that contradicts itself or its file, a storage of
//                      torch.save with another CRC than the file says; reason CHECKPOINT_CORRUPT.
//   those of reading.
absl::StatusOr<CheckpointFiles> OpenCheckpoint(const std::string& folder,
                                               const std::string& variant = "");

// Reads one tensor whole.  Errors: those of reading; DATA_LOSS where the file has become shorter.
absl::StatusOr<Tensor> ReadTensor(const StoredTensor& stored);

}  // namespace zerocast::verify

#endif  // ZEROCAST_CLIENT_VERIFY_CHECKPOINT_FILES_H_
