#include "server/config/lint_context.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/config/lint_value.h"
#include "server/config/python_format.h"

namespace zerocast {

bool LintContext::Since(absl::string_view release) const {
  const auto found = std::find(table_.versions.begin(), table_.versions.end(), release);
  return version_ >= found - table_.versions.begin();
}

void LintContext::Report(LintSeverity severity, absl::string_view rule, absl::string_view path,
                         std::string message, std::string suggestion) {
  findings_.push_back(
      {ToValidUtf8(path), std::string(rule), std::move(message), std::move(suggestion), severity});
}

const ConfigValue* LintContext::Find(absl::string_view path) const {
  return FindPath(root(), path);
}

const ConfigValue* LintContext::FindSet(absl::string_view path) const {
  const ConfigValue* value = Find(path);
  return value == nullptr || value->is_null() ? nullptr : value;
}

template <typename T, typename Read>
std::optional<T> LintContext::Effective(absl::string_view path, T fallback, Read read) const {
  const ConfigValue* value = Find(path);
  if (value == nullptr) return fallback;
  if (value->IsText("auto")) return resolved() ? std::optional<T>(fallback) : std::nullopt;
  return read(*value);
}

std::optional<bool> LintContext::Bool(absl::string_view path, bool fallback) const {
  return Effective<bool>(path, fallback, LaxBool);
}
std::optional<double> LintContext::Int(absl::string_view path, double fallback) const {
  return Effective<double>(path, fallback, LaxInt);
}
std::optional<double> LintContext::Float(absl::string_view path, double fallback) const {
  return Effective<double>(path, fallback, LaxFloat);
}

std::string LintContext::Text(absl::string_view path) const {
  const ConfigValue* value = Find(path);
  return value == nullptr || value->text() == nullptr ? "" : *value->text();
}

std::optional<int> LintContext::Stage() const {
  const ConfigValue* zero = Find("zero_optimization");
  if (zero == nullptr) return 0;
  if (zero->boolean() != nullptr) return *zero->boolean() ? 1 : 0;
  if (zero->object() == nullptr) return std::nullopt;
  const std::optional<double> stage = Int("zero_optimization.stage", 0);
  if (!stage.has_value() || *stage < 0 || *stage > 3) return std::nullopt;
  return static_cast<int>(*stage);
}

std::string JoinPath(absl::string_view path, absl::string_view key) {
  return path.empty() ? std::string(key) : absl::StrCat(path, ".", key);
}

}  // namespace zerocast
