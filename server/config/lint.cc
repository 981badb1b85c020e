#include "server/config/lint.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/config/lint_context.h"
#include "server/config/lint_table.h"
#include "server/config/lint_value.h"
#include "server/config/python_format.h"

namespace zerocast {
namespace {

// Where each path stands in the user's text.
class Places {
 public:
  explicit Places(const ConfigValue& root) { Add("", root); }

  // That of the path, or of the longest part of it that is there.
  size_t Of(absl::string_view path) const {
    for (;;) {
      const auto found = places_.find(path);
      if (found != places_.end()) return found->second;
      const size_t cut = path.find_last_of(".[");
      if (cut == absl::string_view::npos) return 0;
      path = path.substr(0, cut);
    }
  }

 private:
  void Add(const std::string& path, const ConfigValue& value) {
    places_.emplace(path, places_.size());
    if (value.object() == nullptr) return;
    for (const ConfigMember& member : *value.object())
      Add(JoinPath(path, member.key), member.value);
  }

  absl::flat_hash_map<std::string, size_t> places_;
};

// Puts findings into the order of the text.  Of two with one path and rule the graver stays.
void Order(const ConfigValue& root, std::vector<LintFinding>* findings) {
  if (findings->size() < 2) return;
  const Places places(root);
  absl::flat_hash_map<std::pair<std::string, std::string>, size_t> seen;
  std::vector<std::pair<size_t, size_t>> order;  // place, then the order of reporting
  for (size_t i = 0; i < findings->size(); ++i) {
    const LintFinding& finding = (*findings)[i];
    const auto [same, first] = seen.emplace(std::make_pair(finding.path, finding.rule), i);
    if (first) {
      order.emplace_back(places.Of(finding.path), i);
    } else if (finding.severity < (*findings)[same->second].severity) {
      std::swap((*findings)[same->second], (*findings)[i]);
    }
  }
  std::sort(order.begin(), order.end());
  std::vector<LintFinding> sorted;
  sorted.reserve(order.size());
  for (const auto& [place, index] : order) sorted.push_back(std::move((*findings)[index]));
  *findings = std::move(sorted);
}

void LintDuplicates(LintContext* context, const std::vector<std::string>& duplicates) {
  for (const std::string& path : duplicates) {
    context->Error("duplicate-key", path,
                   "is given more than once; Python's json, and so Transformers, silently takes "
                   "the last value, DeepSpeed refuses a file with such a key",
                   "one of them");
  }
}

}  // namespace

absl::StatusOr<int> FindDeepSpeedVersion(absl::string_view name) {
  const auto* const begin = std::begin(kDeepSpeedVersions);
  const auto* const end = std::end(kDeepSpeedVersions);
  if (name.empty()) return static_cast<int>(end - begin) - 1;
  const auto* const found = std::find(begin, end, name);
  if (found != end) return static_cast<int>(found - begin);
  return InvalidFields({{"deepspeed_version", absl::StrCat("must be empty or one of ",
                                                           absl::StrJoin(kDeepSpeedVersions, ", "),
                                                           "; is ", ToValidUtf8(name))}});
}

absl::string_view LintSeverityName(LintSeverity severity) {
  switch (severity) {
    case LintSeverity::kError:
      return "error";
    case LintSeverity::kWarning:
      return "warning";
    case LintSeverity::kNotice:
      return "notice";
  }
  return "notice";
}

absl::StatusOr<std::vector<LintFinding>> LintConfig(const LintRequest& request) {
  ZC_ASSIGN_OR_RETURN(const LintTable* table, BuiltInLintTable());
  ZC_ASSIGN_OR_RETURN(const int version, FindDeepSpeedVersion(request.deepspeed_version));
  if (request.world_size.has_value() && *request.world_size < 1) {
    return InvalidFields(
        {{"world_size", absl::StrCat("must be at least 1, is ", *request.world_size)}});
  }
  LintContext context(*table, version, request);
  LintDuplicates(&context, request.duplicate_keys);
  if (request.config->object() == nullptr) {
    context.Error("wrong-type", "",
                  absl::StrCat("a config must be an object, is ", KindName(*request.config)));
    return context.TakeFindings();
  }
  LintKeys(&context);
  LintBatch(&context);
  LintPrecision(&context);
  LintZero(&context);
  LintSections(&context);
  LintOptimizer(&context);
  LintScheduler(&context);
  LintModel(&context);
  LintNotFinite(&context);
  std::vector<LintFinding> findings = context.TakeFindings();
  Order(*request.config, &findings);
  size_t more = context.num_left_out();
  if (findings.size() > kMostFindings) {
    more += findings.size() - kMostFindings;
    findings.resize(kMostFindings);
  }
  if (more > 0) {
    findings.push_back({"", "too-many", absl::StrCat(more, " more findings are left out"), "",
                        LintSeverity::kNotice});
  }
  return findings;
}

}  // namespace zerocast
