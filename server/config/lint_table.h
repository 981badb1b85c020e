#ifndef ZEROCAST_SERVER_CONFIG_LINT_TABLE_H_
#define ZEROCAST_SERVER_CONFIG_LINT_TABLE_H_

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/config/value.h"

namespace zerocast {

// What DeepSpeed makes of one key, in a range of releases.
struct KeyRule {
  int first_version = 0, last_version = 0;  // indices into kDeepSpeedVersions, both included
  // "bool", "int", "float", "str", "list", "list of str", "object", "one of" (values), "any",
  // "never" (no JSON value fits), "section" (a section of its own), "open" (passed on unread),
  // "removed" (refused whatever it holds), or several joined by '|'.
  std::string type;
  bool null = false;           // null is a value of its own
  bool required = false;       // of a constructor
  bool automatic = false;      // DeepSpeed itself gives "auto" a meaning
  bool deprecated = false;     // logs a warning
  bool sets_other = false;     // of a deprecated one: sets `replacement`
  bool no_bool = false;        // true and false are no numbers here
  bool finite = false;         // nor are NaN and the infinities
  bool any_case = false;       // values are compared without case
  bool refuses_other = false;  // strings beyond `values` are refused, else they surprise later
  std::string name;            // the field's own name, accepted beside the key
  std::string replacement;     // for a deprecated one
  std::string message;         // for a removed one: DeepSpeed's own
  // Kinds of values that make a key without a type check raise: n(ull) b(ool) i(nteger) f(loat)
  // s(tring) a("auto") l(ist) d(ict); all of a kind, those that are truthy, those that are not.
  std::string refuses, refuses_true, refuses_false;
  std::vector<ConfigValue> values;
  std::optional<double> gt, ge, lt, le;
  std::optional<ConfigValue> fallback;  // the default, where it is a scalar
};

struct KeySection {
  enum class Kind {
    kStrict,  // unknown keys are refused, types are checked
    kLoose,   // keys are read by name: what is not read is ignored
    kOpen,    // all of it is passed on
  };
  Kind kind = Kind::kLoose;
  std::map<std::string, std::vector<KeyRule>, std::less<>> keys;

  // The rule of a key, also by its field name, in a release; null where the release has none.
  const KeyRule* Find(absl::string_view key, int version) const;
  // The same by key alone.
  const KeyRule* FindKey(absl::string_view key, int version) const;
};

// The keys of all known releases.  Immutable.
struct LintTable {
  using Sections = std::map<std::string, KeySection, std::less<>>;
  std::vector<std::string> versions;
  Sections sections;    // by path; "" is the top level
  Sections optimizers;  // parameters by type; DeepSpeed's own are in lower case
  Sections schedulers;
  std::map<std::string, std::string, std::less<>> synonyms;  // what people write -> the key
};

// INVALID_ARGUMENT where the text is no such table.
absl::StatusOr<LintTable> ReadLintTable(absl::string_view json);

// The table that the binary carries; INTERNAL where it is broken.  Thread-safe.
absl::StatusOr<const LintTable*> BuiltInLintTable();

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_CONFIG_LINT_TABLE_H_
