#ifndef ZEROCAST_SERVER_CONVERSION_RULE_JSON_H_
#define ZEROCAST_SERVER_CONVERSION_RULE_JSON_H_

// Rules as JSON, in the two forms that README.md describes.

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"
#include "server/conversion/rule.h"

namespace zerocast {

// One rule: {"kind": ...} of the rule tables, or {"class": ...} as written by an export of the
// library's own transforms.  `path` names the value in errors.  Errors: INVALID_ARGUMENT naming the
// path; UNIMPLEMENTED for an operation that is not covered, naming it.
absl::StatusOr<Rule> RuleFromJson(const nlohmann::json& value, absl::string_view path);

// A JSON array of rules.  Errors as above.
absl::StatusOr<std::vector<Rule>> RulesFromJson(const nlohmann::json& value,
                                                absl::string_view path);

// The rule in the first form; RuleFromJson gives it back.
nlohmann::json RuleToJson(const Rule& rule);

// The name of an operation in the rule tables ("stack").
absl::string_view OpName(OpKind kind);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_CONVERSION_RULE_JSON_H_
