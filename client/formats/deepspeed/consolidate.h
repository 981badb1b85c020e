#ifndef ZEROCAST_CLIENT_FORMATS_DEEPSPEED_CONSOLIDATE_H_
#define ZEROCAST_CLIENT_FORMATS_DEEPSPEED_CONSOLIDATE_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "client/formats/deepspeed/model_files.h"
#include "client/formats/deepspeed/zero_checkpoint.h"
#include "kernels/copy/dtype.h"

namespace zerocast {

enum class ModelDtype {
  // float32 for trained parameters and floating buffers, as zero_to_fp32; frozen ones as stored.
  kDefault,
  kFloat32,  // every floating parameter; buffers as kDefault
  // Every floating parameter; buffers as stored.
  kBFloat16,
  kFloat16,
  kStored,  // parameters in the dtype of training, buffers as stored
};

// A checkpoint as one model: every weight whole.
struct Consolidation {
  ModelToWrite model;
  // The tied names: alias, the name of the weight that it stands for.
  std::vector<std::pair<std::string, std::string>> tied;
  // Frozen parameters whose values the checkpoint does not hold; in nothing of `model`.
  std::vector<std::string> absent;
};

// Trained parameters come from the fp32 masters, or from the state dict where there is no
// optimizer; frozen ones and buffers from the state dict.  In the order of the state dict.  With
// `one_name` tied weights are written once, under the name that ZeroParameter has; else under every
// name.  Pure.  Errors: UNIMPLEMENTED, reason UNSUPPORTED: a dtype that cannot be cast to;
// FAILED_PRECONDITION, reason WEIGHTS_INCOMPLETE: there are no weights.
absl::StatusOr<Consolidation> Consolidate(const ZeroCheckpoint& checkpoint, ModelDtype dtype,
                                          bool one_name);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_FORMATS_DEEPSPEED_CONSOLIDATE_H_
