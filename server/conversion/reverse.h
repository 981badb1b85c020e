#ifndef ZEROCAST_SERVER_CONVERSION_REVERSE_H_
#define ZEROCAST_SERVER_CONVERSION_REVERSE_H_

// The way back: a model's names and shapes to those of the checkpoints that it is loaded from.

#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "server/conversion/convert.h"
#include "server/conversion/rule.h"

namespace zerocast {

struct ReverseInput {
  // What the model holds, each weight under one of its names; names unique, sizes >= 0.
  absl::Span<const SourceTensor> tensors;
  // The rules that load the model, as for Convert(), patterns as written: processed ones have lost
  // the anchors that tell names apart.
  const ConversionRules* rules = nullptr;
  // By rule: whether it matched a key when the model was loaded (Conversion::used_rules).  Empty
  // where that is not known: then all rules are reversed but those that no checkpoint shows the
  // need of, the legacy renames and the changes of prefixes, as the library saves a model that it
  // did not load.
  std::vector<bool> used_rules;
};

struct Reversal {
  // The checkpoint's tensors in the order of the input that they were made from; Box::source
  // indexes ReverseInput.tensors.  dtype is the promoted dtype of what went in.
  std::vector<ConvertedTensor> tensors;
  // What cannot be taken back: `target` and `sources` are names of the input, `message` names the
  // rule.  Such tensors are in no entry of `tensors`.
  std::vector<ConversionError> errors;
};

// Rules and operations reversed, last to first (reference: Transformers' core_model_loading,
// revert_weight_conversion), lowered to boxes.  Never wrong silently: what was made is converted
// forward again, and each tensor that does not come back under its name, with its shape, every
// element in its place, is an error.  What no rule can know stays the library's choice: a tensor
// that was joined from parts of unequal sizes is cut in equal ones.
//
// Pure.  Errors as Convert(); UNIMPLEMENTED, reason UNSUPPORTED, for a rule that has no reverse,
// naming it.
absl::StatusOr<Reversal> Reverse(const ReverseInput& input);

// The rule that undoes `rule`: patterns exchanged, operations inverted in reverse order.  Its
// patterns may not compile where the rule has no reverse.
Rule ReverseRule(const Rule& rule);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_CONVERSION_REVERSE_H_
