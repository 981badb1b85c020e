#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/config/lint_context.h"

namespace zerocast {
namespace {

constexpr size_t kLongestName = 128;  // no key of DeepSpeed is half as long

// Edits (insert, delete, replace, swap of neighbours) that make b of a.
size_t EditDistance(absl::string_view a, absl::string_view b) {
  std::vector<std::vector<size_t>> cost(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) {
    for (size_t j = 0; j <= b.size(); ++j) {
      if (i == 0 || j == 0) {
        cost[i][j] = i + j;
        continue;
      }
      cost[i][j] = std::min({cost[i - 1][j] + 1, cost[i][j - 1] + 1,
                             cost[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1)});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        cost[i][j] = std::min(cost[i][j], cost[i - 2][j - 2] + 1);
      }
    }
  }
  return cost[a.size()][b.size()];
}

// Without case, '-' for '_': what a typo rarely gets wrong on purpose.
std::string Folded(absl::string_view name) {
  std::string out = absl::AsciiStrToLower(name);
  std::replace(out.begin(), out.end(), '-', '_');
  return out;
}

std::vector<std::string> NamesOf(const KeySection& section, int version) {
  std::vector<std::string> names;
  for (const auto& [key, rules] : section.keys) {
    const KeyRule* rule = section.FindKey(key, version);
    if (rule != nullptr && rule->type != "removed" && !rule->deprecated) names.push_back(key);
  }
  return names;
}

// Where the key belongs: the section below `section` that holds it, else the only ones anywhere.
// Keys that many sections hold ("enabled") say nothing.
std::string Elsewhere(const LintContext& context, absl::string_view section,
                      absl::string_view key) {
  constexpr size_t kMost = 2;
  std::vector<std::string> below, anywhere;
  for (const auto& [path, other] : context.table().sections) {
    if (path == section || path == "bfloat16") continue;
    const KeyRule* rule = other.FindKey(key, context.version());
    if (rule == nullptr || rule->type == "removed" || rule->deprecated) continue;
    anywhere.push_back(JoinPath(path, key));
    if (absl::StartsWith(path, absl::StrCat(section, "."))) below.push_back(anywhere.back());
  }
  const std::vector<std::string>& found = below.empty() ? anywhere : below;
  return found.size() > kMost ? "" : absl::StrJoin(found, " or ");
}

// A parameter written beside "params", or at the top: of the usual optimizer and scheduler.
std::string Parameter(const LintContext& context, absl::string_view section,
                      absl::string_view key) {
  const std::pair<absl::string_view, const KeySection*> usual[] = {
      {"optimizer", &context.table().optimizers.find("adamw")->second},
      {"scheduler", &context.table().schedulers.find("WarmupDecayLR")->second}};
  for (const auto& [name, parameters] : usual) {
    if (!section.empty() && section != name) continue;
    if (parameters->FindKey(key, context.version()) == nullptr) continue;
    return absl::StrCat(name, ".params.", key);
  }
  return "";
}

}  // namespace

std::string NearestName(absl::string_view name, const std::vector<std::string>& names) {
  if (name.size() > kLongestName) return "";
  const std::string folded = Folded(name);
  // A third of a short name may be wrong, more of a long one would be another name.
  const size_t most = std::min<size_t>(4, std::max<size_t>(1, folded.size() / 4));
  std::string best;
  size_t best_cost = most + 1;
  for (const std::string& candidate : names) {
    const size_t length = candidate.size();
    if (length > folded.size() + most || folded.size() > length + most) continue;
    const size_t cost = EditDistance(folded, Folded(candidate));
    if (cost < best_cost) {
      best = candidate;
      best_cost = cost;
    }
  }
  return best;
}

std::string SuggestKey(LintContext* lint, absl::string_view section, absl::string_view key) {
  const LintContext& context = *lint;
  if (!lint->MaySuggest()) return "";
  const auto found = context.table().sections.find(section);
  if (found == context.table().sections.end()) return "";
  const KeySection& here = found->second;
  const auto usable = [&](absl::string_view name) {
    const KeyRule* rule = here.FindKey(name, context.version());
    return rule != nullptr && rule->type != "removed" && !rule->deprecated;
  };
  const auto synonym = context.table().synonyms.find(Folded(key));
  const bool has_synonym = synonym != context.table().synonyms.end();
  if (has_synonym && usable(synonym->second)) return JoinPath(section, synonym->second);
  const std::string elsewhere = Elsewhere(context, section, key);
  const std::string nearest = NearestName(key, NamesOf(here, context.version()));
  if (!nearest.empty()) return JoinPath(section, nearest);
  if (!elsewhere.empty()) return elsewhere;
  for (const absl::string_view word :
       {key, has_synonym ? absl::string_view(synonym->second) : key}) {
    const std::string parameter = Parameter(context, section, word);
    if (!parameter.empty()) return parameter;
  }
  if (has_synonym) {
    const std::string far = Elsewhere(context, section, synonym->second);
    if (!far.empty()) return far;
  }
  // A typo in a key of a section below.
  for (const auto& [path, other] : context.table().sections) {
    if (path.empty() || (!section.empty() && !absl::StartsWith(path, section))) continue;
    if (path == "bfloat16") continue;
    const std::string below = NearestName(key, NamesOf(other, context.version()));
    if (!below.empty() && key.size() >= 8) return JoinPath(path, below);
  }
  return "";
}

}  // namespace zerocast
