#ifndef ZEROCAST_SERVER_CONVERSION_PATTERN_H_
#define ZEROCAST_SERVER_CONVERSION_PATTERN_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/conversion/rule.h"

namespace zerocast {

// A compiled PCRE2 expression with the syntax and character classes of Python's `re` on str (UTF,
// \w and \d by Unicode), JIT-compiled where the machine allows, with a match limit.  Move-only.
// Not thread-safe: one search at a time.
class Regex {
 public:
  // Errors: INVALID_ARGUMENT, naming the pattern and the place in it.
  static absl::StatusOr<Regex> Compile(absl::string_view pattern);

  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;
  ~Regex();

  // The leftmost match anywhere in `subject`.  Errors: INVALID_ARGUMENT, naming pattern and
  // subject, where `subject` is not UTF-8 or the match limit was reached.
  absl::StatusOr<bool> Search(absl::string_view subject);

  // Of the last Search that returned true; valid while its subject lives.  Group 0 is the whole
  // match.  `has` false: the group does not exist or took no part.
  struct Group {
    bool has = false;
    absl::string_view text;
  };
  Group group(int number) const;

  absl::string_view pattern() const;

  // The number of the group named `name`; -1 when there is none.
  int GroupNumber(const char* name) const;

 private:
  struct Impl;
  explicit Regex(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// The patterns of a rule as the library processes them before compiling.
struct ProcessedPatterns {
  std::vector<std::string> sources;
  std::vector<std::string> targets;
};

// Errors: INVALID_ARGUMENT for a rule whose form is not allowed: an empty list, m sources to n
// targets without an Ernie operation, a conversion without operations, capture groups that differ
// between targets, a \1 in a source without a group in a target, a group rename that is not N:N, a
// prefix rule that does not name exactly one of add and remove.
absl::StatusOr<ProcessedPatterns> ProcessPatterns(const Rule& rule, const Dialect& dialect);

// Where the bytes of a renamed key come from, so that what was done to one key can be done to
// another that differs from it only in numbers.
struct KeyOrigins {
  std::vector<int32_t> places;  // by byte: its place in the original key; -1: text of a rule
  bool shared = true;           // false once an edit depended on which numbers the key holds
};

// One rule, ready to rename keys.  Move-only; not thread-safe; group renames remember that their
// guard was seen.
class CompiledRule {
 public:
  // Errors: those of ProcessPatterns and Regex::Compile.
  static absl::StatusOr<CompiledRule> Create(const Rule& rule, const Dialect& dialect);

  // Renames `*key` in place.  Returns the index of the source pattern that matched, -1 for none.
  // Errors: those of Regex::Search, and INVALID_ARGUMENT where the replacement asks for a group
  // that took no part in the match.
  // `origins`, where not null, holds one place for each byte of `*key` and follows it; it needs
  // IsDigitBlind().
  absl::StatusOr<int> Rename(std::string* key, KeyOrigins* origins = nullptr);

  // True when the rule treats keys alike that differ only in the digits of whole parts ("layers.3"
  // and "layers.7", not "w1" and "w2"), and remembers nothing of earlier keys.
  bool IsDigitBlind() const { return digit_blind_; }

  // "rule [a, b] -> [c]", for messages.
  std::string Name() const;

  const std::vector<std::string>& sources() const { return patterns_.sources; }
  const std::vector<std::string>& targets() const { return patterns_.targets; }
  // What is searched: a named group a source pattern.
  absl::string_view expression() const { return regex_.pattern(); }

 private:
  CompiledRule(const Rule& rule, const Dialect& dialect, ProcessedPatterns patterns, Regex regex);

  // What the rule applies to, behind the scope; false when the key is outside of the scope.
  bool StripScope(absl::string_view key, size_t* prefix_size) const;
  absl::StatusOr<std::string> Replacement(int source) const;
  void Follow(absl::string_view rest, size_t prefix_size, int source, KeyOrigins* origins) const;
  absl::Status MissingGroup(int source) const;

  RuleKind kind_;
  bool replace_all_;
  int64_t offset_;
  bool has_scope_;
  std::string scope_;       // "scope." or ""
  std::string base_scope_;  // "base.scope."
  ProcessedPatterns patterns_;
  Regex regex_;
  std::vector<int> groups_;    // source index -> number of its named group
  std::vector<int> branches_;  // source indexes in the order of the branches
  std::string literal_;        // must occur in every key that matches; "" when not known
  bool digit_blind_ = false;
  bool guard_seen_ = false;
};

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_CONVERSION_PATTERN_H_
