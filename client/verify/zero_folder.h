#ifndef ZEROCAST_CLIENT_VERIFY_ZERO_FOLDER_H_
#define ZEROCAST_CLIENT_VERIFY_ZERO_FOLDER_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/verify/checkpoint_files.h"
#include "client/verify/tensor.h"

namespace zerocast::verify {

// Elements one behind the other in a stored tensor.
struct StoredRun {
  StoredTensor tensor;
  int64_t first = 0;
  int64_t count = 0;
};

// A parameter or buffer of a DeepSpeed folder.
struct ZeroWeight {
  std::string name;
  std::vector<std::string> aliases;
  Shape shape;
  DType dtype = DType::kInvalid;  // in training
  bool is_buffer = false;
  int64_t group = -1;                                    // of the optimizer; -1: it is not trained
  int64_t place = -1;                                    // there
  std::vector<StoredRun> value;                          // none: it was not saved
  std::map<std::string, std::vector<StoredRun>> states;  // of a trained one, by "exp_avg", ...
};

struct ZeroFolderContent {
  std::vector<ZeroWeight> weights;
  bool round_robin_gradients = false, parameter_alignment = false;  // of its config
};

// The witness's own reading of a DeepSpeed folder, by the formulas of DeepSpeed 0.19.8's
// zero_to_fp32.py and ds_to_universal.py.  `folder` holds the tag's folder, or is that.  Errors:
// DATA_LOSS where it is not as an engine saves it; those of reading.
absl::StatusOr<ZeroFolderContent> ReadZeroFolder(const std::string& folder, const std::string& tag);

// The bytes of runs, one behind the other.
absl::StatusOr<std::string> ReadRuns(const std::vector<StoredRun>& runs);

// The places of a group's members in the order of its flat tensor.
std::vector<int64_t> InTurn(int64_t size, int64_t world_size, bool round_robin_gradients);

}  // namespace zerocast::verify

#endif  // ZEROCAST_CLIENT_VERIFY_ZERO_FOLDER_H_
