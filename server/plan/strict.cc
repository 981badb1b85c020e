#include "server/plan/strict.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/conversion/explain.h"
#include "server/plan/name_patterns.h"
#include "server/plan/shape.h"

namespace zerocast {
namespace {

// Messages travel in gRPC metadata, which has a limit; the report has all of them.
constexpr size_t kMaxListed = 10;
constexpr size_t kMaxListedBytes = 1500;  // of one kind; the first is always whole

// As many entries as the limits allow; the first in any case.
std::string Listed(const std::vector<std::string>& entries) {
  size_t most = 0, bytes = 0;
  while (most < std::min(entries.size(), kMaxListed)) {
    bytes += entries[most].size();
    if (most > 0 && bytes > kMaxListedBytes) break;
    ++most;
  }
  return Abridged(entries, ", ", most);
}

}  // namespace

absl::Status CheckStrict(const Report& report, const Layout& layout) {
  ZC_ASSIGN_OR_RETURN(NamePatterns allowed,
                      NamePatterns::Compile(layout.allow_missing, "layout.allow_missing"));
  std::vector<std::string> missing = report.missing;
  ZC_RETURN_IF_ERROR(allowed.RemoveFound(&missing));
  std::vector<std::string> errors;
  for (const ConversionError& error : report.conversion_errors) {
    ZC_ASSIGN_OR_RETURN(const bool is_allowed, allowed.Find(error.target));
    if (!is_allowed) errors.push_back(absl::StrCat(error.target, " (", error.message, ")"));
  }
  std::vector<std::string> mismatched;
  if (!layout.ignore_mismatched) {
    for (const MismatchedWeight& weight : report.mismatched) {
      mismatched.push_back(absl::StrCat(weight.name, " is ", ShapeAsText(weight.checkpoint_shape),
                                        " in the checkpoint, ", ShapeAsText(weight.model_shape),
                                        " in the model"));
      if (!weight.origin.empty()) absl::StrAppend(&mismatched.back(), " (", weight.origin, ")");
    }
  }
  std::vector<std::string> parts;
  if (!missing.empty()) {
    parts.push_back(absl::StrCat(missing.size(), " missing: ", Listed(missing)));
  }
  if (!mismatched.empty()) {
    parts.push_back(absl::StrCat(mismatched.size(), " of another shape: ", Listed(mismatched)));
  }
  if (!errors.empty()) {
    parts.push_back(absl::StrCat(errors.size(), " not convertible: ", Listed(errors)));
  }
  if (parts.empty()) return absl::OkStatus();
  return WithReason(
      absl::FailedPreconditionError(absl::StrCat(
          "match the checkpoint's weights with the model's: ", absl::StrJoin(parts, "; "),
          ". Complete the checkpoint, or permit it by allow_missing or ignore_mismatched")),
      "WEIGHTS_INCOMPLETE");
}

}  // namespace zerocast
