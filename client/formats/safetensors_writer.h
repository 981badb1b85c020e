#ifndef ZEROCAST_CLIENT_FORMATS_SAFETENSORS_WRITER_H_
#define ZEROCAST_CLIENT_FORMATS_SAFETENSORS_WRITER_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "kernels/copy/dtype.h"

namespace zerocast {

// A tensor to write: `data` holds exactly its bytes, row-major.
struct TensorToWrite {
  std::string name;
  DType dtype = DType::kInvalid;
  std::vector<int64_t> shape;
  absl::string_view data;
};

// A tensor whose data is written by others.
struct TensorToPlace {
  std::string name;
  DType dtype = DType::kInvalid;
  std::vector<int64_t> shape;
};

// What a safetensors file begins with when it holds these tensors in this order, padded to 8 bytes;
// `begins`, by tensor, is where its data begins in the file, bytes.  The data ends the file.
std::string SafetensorsHead(const std::vector<TensorToPlace>& tensors,
                            const std::map<std::string, std::string>& metadata,
                            std::vector<int64_t>* begins);

// Writes a safetensors file with the tensors in the given order and the header padded to 8 bytes.
// The file appears under `path` only when it is complete.  Errors: INVALID_ARGUMENT when data and
// shape disagree; NOT_FOUND, PERMISSION_DENIED, RESOURCE_EXHAUSTED, UNAVAILABLE from the file
// system.
absl::Status WriteSafetensors(const std::string& path, const std::vector<TensorToWrite>& tensors,
                              const std::map<std::string, std::string>& metadata);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_FORMATS_SAFETENSORS_WRITER_H_
