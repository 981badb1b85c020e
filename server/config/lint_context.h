#ifndef ZEROCAST_SERVER_CONFIG_LINT_CONTEXT_H_
#define ZEROCAST_SERVER_CONFIG_LINT_CONTEXT_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "server/config/lint.h"
#include "server/config/lint_table.h"
#include "server/config/value.h"

namespace zerocast {

// More findings say nothing new, and an answer has an end.
inline constexpr size_t kMostFindings = 1000;

// One run of the lint: what is looked at, and what was found so far.
class LintContext {
 public:
  LintContext(const LintTable& table, int version, const LintRequest& request)
      : table_(table), version_(version), request_(request) {}

  const LintTable& table() const { return table_; }
  int version() const { return version_; }  // index into kDeepSpeedVersions
  const std::string& version_name() const { return table_.versions[version_]; }
  // The named release or a later one.
  bool Since(absl::string_view release) const;
  const ConfigValue& root() const { return *request_.config; }
  bool resolved() const { return request_.resolved; }
  std::optional<int64_t> world_size() const { return request_.world_size; }
  const std::vector<std::string>& scalar_parameters() const { return request_.scalar_parameters; }

  void Report(LintSeverity severity, absl::string_view rule, absl::string_view path,
              std::string message, std::string suggestion = "");
  void Error(absl::string_view rule, absl::string_view path, std::string message,
             std::string suggestion = "") {
    Report(LintSeverity::kError, rule, path, std::move(message), std::move(suggestion));
  }
  void Warning(absl::string_view rule, absl::string_view path, std::string message,
               std::string suggestion = "") {
    Report(LintSeverity::kWarning, rule, path, std::move(message), std::move(suggestion));
  }
  void Notice(absl::string_view rule, absl::string_view path, std::string message,
              std::string suggestion = "") {
    Report(LintSeverity::kNotice, rule, path, std::move(message), std::move(suggestion));
  }

  // The value at a path of keys, null where a node is absent or no object.
  const ConfigValue* Find(absl::string_view path) const;
  // The same, null also where the value is null.
  const ConfigValue* FindSet(absl::string_view path) const;
  // What DeepSpeed reads at a path: where it is absent `fallback`, where it is "auto" `fallback`
  // in a resolved config and unknown in another, where it is of no such type unknown.
  std::optional<bool> Bool(absl::string_view path, bool fallback) const;
  std::optional<double> Int(absl::string_view path, double fallback) const;
  std::optional<double> Float(absl::string_view path, double fallback) const;
  // The text at a path; empty where there is none.
  std::string Text(absl::string_view path) const;
  // zero_optimization.stage as DeepSpeed reads it.
  std::optional<int> Stage() const;

  // Counts a finding of a kind that a config may have any number of; false, and it is left out,
  // when there have been too many.
  bool MayReportMany() { return ++many_ <= kMostFindings; }
  size_t num_left_out() const { return many_ > kMostFindings ? many_ - kMostFindings : 0; }

  // Counts a search for a suggestion; false when there have been too many.
  bool MaySuggest() { return suggestions_++ < 100; }

  const std::vector<LintFinding>& findings() const { return findings_; }
  std::vector<LintFinding> TakeFindings() { return std::move(findings_); }

 private:
  template <typename T, typename Read>
  std::optional<T> Effective(absl::string_view path, T fallback, Read read) const;

  const LintTable& table_;
  const int version_;
  const LintRequest& request_;
  std::vector<LintFinding> findings_;
  int suggestions_ = 0;
  size_t many_ = 0;
};

// Each looks at one part of the config and reports what it finds.
void LintKeys(LintContext* context);       // unknown and removed keys, types, ranges, "auto"
void LintBatch(LintContext* context);      // the batch triangle
void LintPrecision(LintContext* context);  // fp16, bf16, dtypes
void LintZero(LintContext* context);       // zero_optimization and what depends on its stage
void LintSections(LintContext* context);   // the other sections' own rules
void LintOptimizer(LintContext* context);  // type and parameters
// The values of its parameters; `type` is its name in the table, `params` an object.
void LintOptimizerValues(LintContext* context, absl::string_view type, const KeySection& section,
                         const ConfigValue& params);
void LintScheduler(LintContext* context);
void LintModel(LintContext* context);  // what DeepSpeed does not take of the model
// Infinity and NaN of which nothing was found so far: comes last.
void LintNotFinite(LintContext* context);

// What a user may have meant by an unknown key of a section: a key nearby, a known word for one,
// or the same key where it belongs.  Empty where nothing is near.
// Nothing either after the first unknown keys of a config: the search is dear.
std::string SuggestKey(LintContext* context, absl::string_view section, absl::string_view key);
// The nearest of `names` within a typo or two; empty where none is.
std::string NearestName(absl::string_view name, const std::vector<std::string>& names);

// "a.b" of "a" and "b"; "b" of "" and "b".
std::string JoinPath(absl::string_view path, absl::string_view key);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_CONFIG_LINT_CONTEXT_H_
