#ifndef ZEROCAST_SERVER_CONVERSION_CHOOSE_RULES_H_
#define ZEROCAST_SERVER_CONVERSION_CHOOSE_RULES_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "nlohmann/json.hpp"
#include "server/conversion/catalogue.h"
#include "server/conversion/convert.h"
#include "server/conversion/model_spec.h"
#include "server/conversion/rule.h"

namespace zerocast {

// What decides which rules load a checkpoint.
struct RuleChoice {
  absl::string_view config_json;       // the checkpoint's config.json; "" where it has none
  const ModelSpec* spec = nullptr;     // null: the rules come from a table, by config.json
  absl::Span<const Rule> key_mapping;  // the caller's renames; they run first
  std::string dialect;                 // "": the spec's, else the table's, else 5.23.0
  std::string rule_table_json;         // "": the built-in table of the dialect
};

// The rules and their dialect.  A spec's transforms win; a spec that has no such field, or no spec,
// takes them from the table: the class's or the model type's, those of its sub-models in their
// scopes, the legacy ones.  In 5.1.0 a key mapping takes the place of a class's own renames.  Where
// config.json says that the checkpoint is quantised they are QuantizedRules().  Pure.  Errors:
// INVALID_ARGUMENT: an unknown dialect, two that contradict each other, a bad table or a
// config.json that is no JSON object; those of ReadQuantization().
absl::StatusOr<ConversionRules> ChooseRules(const RuleChoice& choice);

// The rules of `catalogue` for a model of that class, legacy rules last; with its configuration (an
// object, not null) those of its sub-models, too, in their scopes (reference: Transformers'
// get_model_conversion_mapping).
std::vector<Rule> RulesOfModel(const Catalogue& catalogue, const std::string& architecture,
                               const std::string& model_type, const nlohmann::json& config,
                               bool class_renames = true);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_CONVERSION_CHOOSE_RULES_H_
