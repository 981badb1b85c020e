#ifndef ZEROCAST_CLIENT_VERIFY_TORCH_READER_H_
#define ZEROCAST_CLIENT_VERIFY_TORCH_READER_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "client/verify/checkpoint_files.h"

namespace zerocast::verify {

// Appends the tensors of a file of torch.save, whose object is a dict of them, zip or legacy
// stream.  Reads every storage of a zip once, to compare its CRC, unless the file was written
// without (all are 0).  Errors: DATA_LOSS for a file that is not as torch.save writes weights, or
// for another CRC; those of reading.
absl::Status AppendTorchFile(const std::string& path, std::vector<StoredTensor>* tensors);

// A value of a file of torch.save with what is in it.
struct TorchNode {
  enum class Kind { kOther, kNumber, kText, kTensor, kMany };
  Kind kind = Kind::kOther;
  int64_t number = 0;   // kNumber; of a bool 0 or 1
  std::string text;     // kText
  StoredTensor tensor;  // kTensor
  // kMany: a dict's by their keys, a list's by "0", "1", ...; a call's are those of what it is
  // given.
  std::vector<std::pair<std::string, TorchNode>> children;

  // The child of that name, the last where it comes twice, or an empty one.
  const TorchNode& operator[](absl::string_view name) const;
};

// Reads a file of torch.save whole but for its tensors' data; compares no CRC.  Errors: DATA_LOSS
// for a file that is not as torch.save writes it; those of reading.
absl::StatusOr<TorchNode> ReadTorchTree(const std::string& path);

}  // namespace zerocast::verify

#endif  // ZEROCAST_CLIENT_VERIFY_TORCH_READER_H_
