#ifndef ZEROCAST_CLIENT_FORMATS_DEEPSPEED_ZERO_STATES_H_
#define ZEROCAST_CLIENT_FORMATS_DEEPSPEED_ZERO_STATES_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "client/formats/deepspeed/zero_checkpoint.h"
#include "client/formats/file.h"
#include "client/formats/torch_file.h"

namespace zerocast {

// A tensor of one file, its storage an index in that file.
struct NamedTensor {
  std::string name;
  TorchTensor tensor;
};

struct NamedShape {
  std::string name;
  std::vector<int64_t> shape;

  friend bool operator==(const NamedShape& a, const NamedShape& b) {
    return a.name == b.name && a.shape == b.shape;
  }
};

// What a file of model states says (engine.py, _save_checkpoint).  Numbers that old releases left
// out are -1.
struct ModelStates {
  std::shared_ptr<const TorchFile> file;
  int64_t global_steps = -1, global_samples = -1, skipped_steps = -1;
  int64_t world_size = -1;
  std::string version;
  bool has_param_shapes = false;                      // false: it was saved without ZeRO
  std::vector<std::vector<NamedShape>> param_shapes;  // by sub-group (stage 3) or group
  std::vector<NamedShape> frozen_shapes;
  bool says_no_frozen_shapes = false;  // frozen_param_shapes is there, and None
  std::vector<NamedTensor> frozen_fragments;
  std::vector<std::pair<std::string, std::string>> shared;  // alias, the name that is stored
  std::vector<std::string> buffer_names;
  std::vector<NamedTensor> module;        // what of `module` is a tensor, in its order
  std::vector<std::string> other_values;  // names in `module` of what is no tensor
  ZeroSettings settings;
};

// What a file of optimizer states says (stage3.py, _rigid_state_dict; stage_1_and_2.py,
// state_dict).
struct OptimStates {
  std::shared_ptr<const TorchFile> file;
  int stage = 0;
  int64_t world_size = -1;
  std::vector<TorchTensor> flat;  // fp32, by sub-group or group
  // By sub-group or group: the tensors of the base optimizer's state, with dimensions.
  std::vector<std::vector<NamedTensor>> moments;
  std::vector<int64_t> group_paddings;                   // stages 1 and 2; may be empty
  std::vector<std::vector<int64_t>> alignment_paddings;  // by group, parameter; may be empty
  std::vector<std::vector<int64_t>> group_members;       // the indices in each param_groups
  double step = -1;                                      // of the base optimizer; -1: it has none
};

// Errors: as TorchFile::Read and PickleView; UNIMPLEMENTED for what README.md refuses by name.
absl::StatusOr<ModelStates> ReadModelStates(const InputFile& file);
absl::StatusOr<OptimStates> ReadOptimStates(const InputFile& file);

// The step that a value of an optimizer's state is: a number, or a tensor of one.  Errors:
// DATA_LOSS for anything else, and as InputFile::Read.
absl::StatusOr<double> ReadStep(const InputFile& input, const TorchFile& file, PickleId value);

// The param_groups of a base optimizer's state dict: the indices in each.
absl::StatusOr<std::vector<std::vector<int64_t>>> ReadGroupMembers(const TorchFile& file,
                                                                   PickleId param_groups);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_FORMATS_DEEPSPEED_ZERO_STATES_H_
