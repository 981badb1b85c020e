#ifndef ZEROCAST_SERVER_CONVERSION_RENAME_H_
#define ZEROCAST_SERVER_CONVERSION_RENAME_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "server/conversion/pattern.h"
#include "server/conversion/rule.h"

namespace zerocast {

// A key after renaming.
struct RenamedKey {
  std::string renamed;      // after all rules, before the base-prefix step
  std::string with_prefix;  // the name to look up in the model
  // The conversion that matched: index in the list of rules and of its source pattern; -1 for none.
  int rule = -1;
  int source = -1;
  // The conversion whose operations run, -1 for none: a source pattern that several conversions
  // share belongs to the last of them, as in the library.
  int owner = -1;
};

// The rules of one load, compiled once.  Move-only; not thread-safe.  Group renames remember their
// guard, so keys are given in NaturalOrder and a Renamer serves one load.
class Renamer {
 public:
  // Errors: INVALID_ARGUMENT for a rule that does not compile or whose form is not allowed.
  static absl::StatusOr<Renamer> Create(absl::Span<const Rule> rules, const Dialect& dialect,
                                        bool has_base_model_prefix,
                                        absl::string_view base_model_prefix);

  using InModel = absl::FunctionRef<bool(absl::string_view)>;

  // All renames in order, then at most one conversion, then the base-prefix step; where the model
  // knows the result's original name but not the result, the original name without any rule
  // (generation 2).  Errors: those of CompiledRule::Rename.
  absl::StatusOr<RenamedKey> Rename(absl::string_view key, InModel in_model);

  // The processed patterns of rule `index`.
  const CompiledRule& rule(int index) const { return rules_[index]; }

 private:
  Renamer() = default;
  absl::StatusOr<std::string> PrefixStep(const std::string& key, InModel in_model);

  std::vector<CompiledRule> rules_;
  std::vector<int> renames_, converters_;        // indexes into rules_
  absl::flat_hash_map<std::string, int> owner_;  // source pattern -> RenamedKey::owner
  int generation_ = 2;
  bool has_prefix_ = false;
  std::string prefix_, prefix_dot_;
  std::unique_ptr<Regex> strip_;  // "^prefix."
};

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_CONVERSION_RENAME_H_
