#ifndef ZEROCAST_SERVER_PLAN_MODEL_H_
#define ZEROCAST_SERVER_PLAN_MODEL_H_

// A model spec as a plan needs it: every weight once, whatever its names.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/conversion/model_spec.h"

namespace zerocast {

// A parameter or buffer of the model.
struct Weight {
  const SpecTensor* tensor = nullptr;  // under the name that holds the weight
  bool is_buffer = false;
  std::vector<std::string> aliases;  // its other names, in the order of the names
};

struct Model {
  std::vector<Weight> weights;  // parameters in the model's order, then buffers
  // Every name, aliases too, in the order in which the model lists them; aliases that it does not
  // list come last.
  std::vector<SpecTensor> names;
  std::vector<int32_t> weight_of_name;  // names[i] is a name of weights[weight_of_name[i]]
};

// Keeps pointers into `spec`, which must outlive the result.  Errors: INVALID_ARGUMENT, all
// contradictions at once: a name given twice, a tie to a name the model does not have or to itself,
// tied names of different shapes or kinds, a shape that is not sizes >= 0 or has kTooManyBytes
// (shape.h).
absl::StatusOr<Model> MakeModel(const ModelSpec& spec);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_PLAN_MODEL_H_
