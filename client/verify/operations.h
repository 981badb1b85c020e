#ifndef ZEROCAST_CLIENT_VERIFY_OPERATIONS_H_
#define ZEROCAST_CLIENT_VERIFY_OPERATIONS_H_

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "client/verify/tensor.h"
#include "nlohmann/json.hpp"
#include "server/conversion/rule.h"

namespace zerocast::verify {

// What an operation gets and gives: tensors under a pattern, in order; `single` where an operation
// made it, so that it is one tensor and no longer a list of collected ones.
struct NamedTensors {
  std::string pattern;
  std::vector<Tensor> tensors;
  bool single = false;
};

// The tensors under a pattern; null where there are none.
const NamedTensors* Under(const std::vector<NamedTensors>& input, const std::string& pattern);

// What the operations of one rule look up.
struct OperationContext {
  std::vector<std::string> sources, targets;  // the rule's patterns, processed
  std::string full_name;  // the name in the model the tensors were collected for
  const std::map<std::string, Shape>* model_shapes = nullptr;  // parameters, buffers, aliases
  const nlohmann::json* config = nullptr;                      // an object, perhaps empty
  // What quantised tensors are decoded to; kInvalid: the dtype of their scales where it is a
  // floating one of two bytes or more, else bfloat16.
  DType decode_to = DType::kInvalid;
};

// Runs one operation on real tensors, with the meaning of Transformers 5.23.0
// (core_model_loading.py).  Errors: INVALID_ARGUMENT where the library raises.
absl::StatusOr<std::vector<NamedTensors>> RunOperation(const Op& op,
                                                       std::vector<NamedTensors> input,
                                                       const OperationContext& context);

}  // namespace zerocast::verify

#endif  // ZEROCAST_CLIENT_VERIFY_OPERATIONS_H_
