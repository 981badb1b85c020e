#ifndef ZEROCAST_CLIENT_VERIFY_TORCH_READER_H_
#define ZEROCAST_CLIENT_VERIFY_TORCH_READER_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "client/verify/checkpoint_files.h"

namespace zerocast::verify {

// Appends the tensors of a file of torch.save, whose object is a dict of them, zip or legacy
// stream.  Reads every storage of a zip once, to compare its CRC, unless the file was written
// without (all are 0).  Errors: DATA_LOSS for a file that is not as torch.save writes weights, or
// for another CRC; those of reading.
absl::Status AppendTorchFile(const std::string& path, std::vector<StoredTensor>* tensors);

}  // namespace zerocast::verify

#endif  // ZEROCAST_CLIENT_VERIFY_TORCH_READER_H_
