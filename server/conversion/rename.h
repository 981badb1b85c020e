#ifndef ZEROCAST_SERVER_CONVERSION_RENAME_H_
#define ZEROCAST_SERVER_CONVERSION_RENAME_H_

#include <cstdint>
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

// The rules of one load, compiled once.  Keys that differ only in the numbers of their parts share
// the work where no rule tells numbers apart: the rules run once for all experts of all layers.
// Move-only; not thread-safe.  Group renames remember their
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

  // The renames that turn `key` into `renamed`, what Rename() made of it; empty where not they did,
  // or only with what earlier keys were.  For messages: it takes its time.
  std::vector<int> RenamesOf(absl::string_view key, absl::string_view renamed);

  // The processed patterns of rule `index`.
  const CompiledRule& rule(int index) const { return rules_[index]; }

  // How many keys got what another of their shape had got before.
  int64_t num_shared() const { return num_shared_; }
  // Lets the next key of each shape go through the rules again.
  void ForgetShapes() { recipes_.clear(); }

  // By rule: whether it has matched a key.
  const std::vector<bool>& used() const { return used_; }

 private:
  Renamer() = default;
  // What the rules made of a key, as places in that key and text of the rules.
  struct Recipe {
    struct Segment {
      int32_t begin;  // in the key, or in `text` where it is not from_key
      int32_t size;
      bool from_key;
    };
    bool shared = false;  // false: each such key goes through the rules
    int rule = -1;
    int source = -1;
    std::string text;
    std::vector<Segment> segments;
  };

  absl::StatusOr<std::string> PrefixStep(const std::string& key, InModel in_model);
  absl::Status RunRules(RenamedKey* key, KeyOrigins* origins);
  absl::Status RunRulesShared(absl::string_view key, RenamedKey* result);
  static Recipe MakeRecipe(const RenamedKey& key, const KeyOrigins& origins);

  std::vector<CompiledRule> rules_;
  std::vector<int> renames_, converters_;  // indexes into rules_
  std::vector<bool> used_;
  absl::flat_hash_map<std::string, int> owner_;  // source pattern -> RenamedKey::owner
  int generation_ = 2;
  bool has_prefix_ = false;
  bool plain_prefix_ = false;  // a word: its expression is itself
  std::string prefix_, prefix_dot_;
  std::unique_ptr<Regex> strip_;  // "^prefix."
  int64_t num_shared_ = 0;
  bool share_ = true;                                 // every rule is digit-blind
  absl::flat_hash_map<std::string, Recipe> recipes_;  // by WithoutNumbers(key)
};

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_CONVERSION_RENAME_H_
