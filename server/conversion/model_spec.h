#ifndef ZEROCAST_SERVER_CONVERSION_MODEL_SPEC_H_
#define ZEROCAST_SERVER_CONVERSION_MODEL_SPEC_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/copy/dtype.h"
#include "server/conversion/rule.h"

namespace zerocast {

struct SpecTensor {
  std::string name;
  std::vector<int64_t> shape;
  DType dtype = DType::kInvalid;
};

// What the model wants: names, shapes and dtypes of its parameters and buffers, in the order of the
// model's own named_parameters(), and how a checkpoint's names become its names.
struct ModelSpec {
  std::string architecture;  // "MixtralForCausalLM"
  std::string model_type;    // "mixtral"
  std::string base_model_prefix;
  bool has_base_model_prefix = false;       // "" and absent differ
  std::map<std::string, std::string> tied;  // alias -> the name that holds the weight
  // The release whose matching the transforms were made for, "5.23.0" or "5.1.0"; "" where the spec
  // does not say.
  std::string dialect;
  std::vector<Rule> transforms;  // in order; already includes the legacy rules
  // The JSON has no `transforms`: the rules come from a table, by class and model type.
  bool transforms_from_table = false;
  std::vector<SpecTensor> params;
  std::vector<SpecTensor> buffers;          // persistent buffers only
  std::vector<std::string> ignore_missing;  // regular expressions, searched
  std::vector<std::string> ignore_unexpected;
};

// Parses the JSON form (DESIGN.md section 8; unknown fields are ignored).  `text` may be hostile.
// Errors: INVALID_ARGUMENT naming the JSON path.
absl::StatusOr<ModelSpec> ParseModelSpec(absl::string_view text);

// The canonical JSON form; parsing it gives an equal spec.
std::string ModelSpecToJson(const ModelSpec& spec);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_CONVERSION_MODEL_SPEC_H_
