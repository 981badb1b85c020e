#ifndef ZEROCAST_CLIENT_FORMATS_DEEPSPEED_EXPORT_MODEL_H_
#define ZEROCAST_CLIENT_FORMATS_DEEPSPEED_EXPORT_MODEL_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/formats/deepspeed/consolidate.h"
#include "client/formats/deepspeed/zero_checkpoint.h"
#include "server/conversion/convert.h"
#include "server/conversion/model_spec.h"

namespace zerocast {

// What a checkpoint and the model that it is said to be of do not agree on.
struct ModelDifferences {
  std::vector<std::string> missing;     // in the spec; the checkpoint does not have it
  std::vector<std::string> unexpected;  // in the checkpoint; the spec does not have it
  struct Mismatch {
    std::string name;
    std::vector<int64_t> checkpoint_shape, model_shape;
  };
  std::vector<Mismatch> mismatched;

  bool empty() const { return missing.empty() && unexpected.empty() && mismatched.empty(); }
};

// Compares names and shapes of parameters and buffers; each tied weight counts once.  Pure.
ModelDifferences CompareToSpec(const ZeroCheckpoint& checkpoint, const ModelSpec& spec);

// A checkpoint in the names and shapes that the model's library saves: Consolidate(), each weight
// under one name (with a spec under those that it has for it), taken back by the reverse of
// `rules`. `errors` are the tensors that cannot be taken back; then the model is no whole one.
// Pure. Errors: FAILED_PRECONDITION, reason WEIGHTS_INCOMPLETE, where frozen parameters are absent:
// the library would fill them with random numbers; as Consolidate() and Reverse().
struct Export {
  Consolidation consolidation;
  std::vector<ConversionError> errors;
};
absl::StatusOr<Export> ExportModel(const ZeroCheckpoint& checkpoint, ModelDtype dtype,
                                   const ModelSpec* spec, const ConversionRules& rules);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_FORMATS_DEEPSPEED_EXPORT_MODEL_H_
