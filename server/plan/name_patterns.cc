#include "server/plan/name_patterns.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"

namespace zerocast {

absl::StatusOr<NamePatterns> NamePatterns::Compile(const std::vector<std::string>& patterns,
                                                   absl::string_view field) {
  NamePatterns result;
  result.field_ = std::string(field);
  for (const std::string& pattern : patterns) {
    absl::StatusOr<Regex> regex = Regex::Compile(pattern);
    if (!regex.ok()) return result.Refused(regex.status());
    result.regexes_.push_back(*std::move(regex));
  }
  return result;
}

absl::StatusOr<bool> NamePatterns::Find(absl::string_view name) {
  for (Regex& regex : regexes_) {
    const absl::StatusOr<bool> found = regex.Search(name);
    if (!found.ok()) return Refused(found.status());
    if (*found) return true;
  }
  return false;
}

absl::Status NamePatterns::Refused(const absl::Status& status) const {
  return WithReason(Annotate(status, field_), "INVALID_FIELDS");
}

absl::Status NamePatterns::RemoveFound(std::vector<std::string>* names) {
  if (regexes_.empty()) return absl::OkStatus();
  size_t kept = 0;
  for (size_t i = 0; i < names->size(); ++i) {
    ZC_ASSIGN_OR_RETURN(const bool found, Find((*names)[i]));
    if (found) continue;
    if (kept != i) (*names)[kept] = std::move((*names)[i]);
    ++kept;
  }
  names->resize(kept);
  return absl::OkStatus();
}

}  // namespace zerocast
