#ifndef ZEROCAST_CLIENT_VERIFY_MATERIALISE_H_
#define ZEROCAST_CLIENT_VERIFY_MATERIALISE_H_

#include <map>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "client/verify/checkpoint_files.h"
#include "client/verify/tensor.h"
#include "server/conversion/model_spec.h"
#include "server/conversion/rule.h"

namespace zerocast::verify {

struct MaterialiseInput {
  const CheckpointFiles* files = nullptr;
  // Null: the rules come from the catalogue by config.json, and every renamed key is a target.
  const ModelSpec* spec = nullptr;
  std::vector<Rule> key_mapping;      // run before the other rules
  DType decode_to = DType::kInvalid;  // OperationContext::decode_to
  std::string dialect;                // as RuleChoice has it
  std::string rule_table_json;
};

// A target as the checkpoint fills it, in the checkpoint's dtype, or that of what is decoded.
struct MaterialisedTarget {
  std::string name;           // of a tied parameter: the holder's
  Tensor tensor;              // its shape may differ from the spec's
  bool renamed_only = false;  // no operation made it
};

// Calls `sink` with every target that the checkpoint fills, once each but where two conversions
// make the same name, one at a time.  `unfilled` gets the names whose tensors do not convert or
// have another shape, and why. Errors: those of reading, of a rule that does not compile, and of
// `sink`, which end it.
absl::Status MaterialiseTargets(const MaterialiseInput& input,
                                absl::FunctionRef<absl::Status(MaterialisedTarget)> sink,
                                std::map<std::string, std::string>* unfilled);

// {"pattern": "target", ...} as renames, in the order of the text; none where it is "".
// Errors: INVALID_ARGUMENT where it is not that.
absl::StatusOr<std::vector<Rule>> RenamesFromKeyMapping(const std::string& text);

}  // namespace zerocast::verify

#endif  // ZEROCAST_CLIENT_VERIFY_MATERIALISE_H_
