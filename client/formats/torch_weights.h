#ifndef ZEROCAST_CLIENT_FORMATS_TORCH_WEIGHTS_H_
#define ZEROCAST_CLIENT_FORMATS_TORCH_WEIGHTS_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "client/formats/file.h"
#include "server/conversion/source_tensor.h"

namespace zerocast {

// A tensor of a file of torch.save and where its elements lie.
struct TorchWeight {
  SourceTensor tensor;     // with strides where it is not contiguous
  int64_t file_begin = 0;  // of its first element, absolute, bytes
  int64_t file_end = 0;    // of the end of its last
  // Of tensors of one layer none reaches into the bytes of another.  What torch.save wrote once for
  // several names (ties, views) is in one layer each.
  int32_t layer = 0;
};

// The weights of one file.
struct TorchWeights {
  std::vector<TorchWeight> tensors;  // sorted by (layer, file_begin, name)
  int32_t num_layers = 1;
  uint64_t digest = 0;  // TorchFile::header_digest()
};

// The most tensors that may have bytes in common: a file is opened once a layer.
inline constexpr int32_t kMaxTorchLayers = 64;

// Reads a file whose object is a dict of tensors by their names, as pytorch_model.bin is
// (state_dicts, nn.Parameters too).  No tensor data is read, and nothing of the file is run.
// Errors, naming the file and the key:
//   UNIMPLEMENTED  a global that torch.load refuses where it loads weights only; an object that is
//                  no dict of tensors, or a value in it that is none; expanded tensors and other
//                  views that hold an element twice; more than kMaxTorchLayers tensors over one
//                  byte; as TorchFile::Read and TorchFile::Tensor; reason UNSUPPORTED
//   DATA_LOSS      a name that is empty or no UTF-8; as TorchFile::Read and TorchFile::Tensor;
//                  reason CHECKPOINT_CORRUPT
//   as InputFile::ReadInto
absl::StatusOr<TorchWeights> ReadTorchWeights(const InputFile& file);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_FORMATS_TORCH_WEIGHTS_H_
