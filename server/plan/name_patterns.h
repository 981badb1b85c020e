#ifndef ZEROCAST_SERVER_PLAN_NAME_PATTERNS_H_
#define ZEROCAST_SERVER_PLAN_NAME_PATTERNS_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/conversion/pattern.h"

namespace zerocast {

// A list of regular expressions, searched (not matched whole) in names.  Move-only; not
// thread-safe.
class NamePatterns {
 public:
  // Errors, here and below: INVALID_ARGUMENT naming `field` and the expression, for one that does
  // not compile, or that reaches the match limit, then naming `name`, too; reason INVALID_FIELDS.
  static absl::StatusOr<NamePatterns> Compile(const std::vector<std::string>& patterns,
                                              absl::string_view field);

  // True when one of them is found in `name`.
  absl::StatusOr<bool> Find(absl::string_view name);

  // Removes from `names` those in which one of them is found.
  absl::Status RemoveFound(std::vector<std::string>* names);

 private:
  absl::Status Refused(const absl::Status& status) const;

  std::string field_;
  std::vector<Regex> regexes_;
};

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_PLAN_NAME_PATTERNS_H_
