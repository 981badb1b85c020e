#ifndef ZEROCAST_SERVER_CONVERSION_CHECK_RULES_H_
#define ZEROCAST_SERVER_CONVERSION_CHECK_RULES_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace zerocast {

struct RuleError {
  std::string path;  // "rule_sets.mixtral[2]"
  std::string message;
};

struct RulesCheck {
  int num_rules = 0;
  std::vector<RuleError> errors;  // of every rule, in the order of the text
};

// Validates every rule of a rule table, a list of rules, or a model spec's transforms; a list's and
// a spec's patterns compile in `dialect`.  All that is wrong comes at once.  Pure.  Errors:
// INVALID_ARGUMENT for a text that is none of the three, or an unknown dialect.
absl::StatusOr<RulesCheck> CheckRules(absl::string_view text, absl::string_view dialect);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_CONVERSION_CHECK_RULES_H_
