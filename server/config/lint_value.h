#ifndef ZEROCAST_SERVER_CONFIG_LINT_VALUE_H_
#define ZEROCAST_SERVER_CONFIG_LINT_VALUE_H_

#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "server/config/lint_table.h"
#include "server/config/value.h"

namespace zerocast {

// How a value suits a key.
struct ValueVerdict {
  enum class Fit {
    kFits,
    kTaken,    // DeepSpeed takes it, in a sense that its author may not have meant
    kRefused,  // DeepSpeed raises
  };
  Fit fit = Fit::kFits;
  std::string rule;     // of the finding; empty where it fits
  std::string message;  // "must be an integer, is \"x\"": without the path
};

// By the rules of pydantic's lax mode, which sections of kind kStrict go through: integral floats
// and numeric text are integers, "yes" is true.  (pydantic 2.14, "Conversion Table".)
ValueVerdict CheckStrictValue(const KeyRule& rule, const ConfigValue& value);
// In a section that is read by name: what raises was seen on the release, the rest goes by.
ValueVerdict CheckLooseValue(const KeyRule& rule, const ConfigValue& value);

// What pydantic makes of a value; none where it refuses it.
std::optional<bool> LaxBool(const ConfigValue& value);
std::optional<double> LaxInt(const ConfigValue& value);  // an integer, as the nearest double
std::optional<double> LaxFloat(const ConfigValue& value);

// "a string", "an integer": what a value is, for messages.
absl::string_view KindName(const ConfigValue& value);
// The value as JSON text, cut where it is long.
std::string ShortJson(const ConfigValue& value);
// "'a', 'b' or 'c'".
std::string OneOf(const std::vector<ConfigValue>& values);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_CONFIG_LINT_VALUE_H_
