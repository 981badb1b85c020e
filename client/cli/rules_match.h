#ifndef ZEROCAST_CLIENT_CLI_RULES_MATCH_H_
#define ZEROCAST_CLIENT_CLI_RULES_MATCH_H_

#include <string>

#include "absl/strings/string_view.h"

namespace zerocast {

// Answers one case of `rules match --batch`: a key through the renaming of a release.
//
// `line` is a JSON object: id, dialect; rules: a class or model type of the built-in table, or a
// list of rules (the legacy set follows); model_type: beside a class; scope_prefix, scope_base:
// where not null, the rules but the legacy ones are a sub-model's; key; with_keys: the other
// tensors of the checkpoint; model_keys: the names in the model; base_model_prefix: null for none.
//
// The answer is one line of JSON without its end: id; renamed, after all rules; with_prefix, the
// name looked up in the model; source: [rule, source pattern] of the conversion that matched, or
// null; order: all keys sorted, where there are with_keys.  Or id and error.  Pure.
std::string MatchLine(absl::string_view line);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_CLI_RULES_MATCH_H_
