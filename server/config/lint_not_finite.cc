// Infinity and NaN, which JSON has not and Python's json reads and writes all the same.
#include <algorithm>
#include <cmath>
#include <string>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "server/config/lint_context.h"
#include "server/config/lint_value.h"

namespace zerocast {
namespace {

bool NotFinite(const ConfigValue& value) {
  return value.real() != nullptr && !std::isfinite(*value.real());
}

// Quick, as most configs have none.
bool AnyNotFinite(const ConfigValue& value) {
  if (value.object() != nullptr) {
    return std::any_of(value.object()->begin(), value.object()->end(),
                       [](const ConfigMember& member) { return AnyNotFinite(member.value); });
  }
  if (value.array() != nullptr) {
    return std::any_of(value.array()->begin(), value.array()->end(), AnyNotFinite);
  }
  return NotFinite(value);
}

class Search {
 public:
  explicit Search(LintContext* context) : context_(*context) {
    for (const LintFinding& finding : context_.findings()) {
      // What these say is about the key, not about its value.
      if (finding.rule == "deprecated-key" || finding.rule == "field-name") continue;
      (finding.rule == "unknown-key" ? unread_ : told_).insert(finding.path);
    }
  }

  // `unread`: it is below a key that DeepSpeed does not know.
  void Look(const std::string& path, const ConfigValue& value, bool unread) {
    if (!path.empty() && told_.contains(path)) return;  // "" stands for the whole config
    if (value.object() != nullptr) {
      for (const ConfigMember& member : *value.object()) {
        const std::string below = JoinPath(path, member.key);
        const bool unknown = unread_.contains(below);
        // Where the key itself is unknown, that was said.
        if (unknown && member.value.real() != nullptr) continue;
        Look(below, member.value, unread || unknown);
      }
    } else if (value.array() != nullptr) {
      size_t index = 0;
      for (const ConfigValue& item : *value.array()) {
        Look(absl::StrCat(path, "[", index++, "]"), item, unread);
      }
    } else if (NotFinite(value)) {
      Report(path, value, unread);
    }
  }

 private:
  void Report(const std::string& path, const ConfigValue& value, bool unread) {
    if (!context_.MayReportMany()) return;
    const std::string what = absl::StrCat(
        "is ", ShortJson(value), std::isinf(*value.real()) ? " (1e400 reads so too)" : "",
        ", which JSON has not and Python's json takes; DeepSpeed ");
    if (path == "steps_per_print" && !unread) {
      context_.Notice("not-finite", path, what + "never reports progress, as Accelerate wants it");
    } else {
      context_.Warning("not-finite", path,
                       what + (unread ? "does not read it"
                                      : "takes it as it is from Transformers; in a file it fails "
                                        "on it or takes it for text"));
    }
  }

  LintContext& context_;
  absl::flat_hash_set<std::string> told_, unread_;
};

}  // namespace

void LintNotFinite(LintContext* context) {
  if (!AnyNotFinite(context->root())) return;
  Search(context).Look("", context->root(), /*unread=*/false);
}

}  // namespace zerocast
