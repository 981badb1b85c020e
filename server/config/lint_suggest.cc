#include <algorithm>
#include <array>
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

// Edits (insert, delete, replace, swap of neighbours) that make b of a; `most` + 1 where it takes
// more.  Both at most kLongestName long.  Only the diagonal that `most` edits can reach is filled.
size_t EditDistance(absl::string_view a, absl::string_view b, size_t most) {
  using Row = std::array<size_t, kLongestName + 1>;
  Row rows[3];
  Row* before = &rows[0];
  Row* last = &rows[1];
  Row* row = &rows[2];
  for (size_t j = 0; j <= b.size(); ++j) (*last)[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    const size_t first = i > most ? i - most : 1;
    const size_t end = std::min(b.size(), i + most);
    row->fill(most + 1);
    (*row)[0] = i;
    size_t least = i;
    for (size_t j = first; j <= end; ++j) {
      size_t cost = std::min(
          {(*last)[j] + 1, (*row)[j - 1] + 1, (*last)[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1)});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        cost = std::min(cost, (*before)[j - 2] + 1);
      }
      (*row)[j] = cost;
      least = std::min(least, cost);
    }
    // A swap reaches back two rows, so that one bad row alone does not end the search.
    if (least > most + 1) return most + 1;
    Row* const oldest = before;
    before = last;
    last = row;
    row = oldest;
  }
  return std::min((*last)[b.size()], most + 1);
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
    if (length > kLongestName) continue;
    if (best_cost == 0) break;
    const size_t cost = EditDistance(folded, Folded(candidate), best_cost - 1);
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
  std::string elsewhere = Elsewhere(context, section, key);
  const std::string nearest = NearestName(key, NamesOf(here, context.version()));
  if (!nearest.empty()) return JoinPath(section, nearest);
  if (!elsewhere.empty()) return elsewhere;
  for (const absl::string_view word :
       {key, has_synonym ? absl::string_view(synonym->second) : key}) {
    std::string parameter = Parameter(context, section, word);
    if (!parameter.empty()) return parameter;
  }
  if (has_synonym) {
    std::string far = Elsewhere(context, section, synonym->second);
    if (!far.empty()) return far;
  }
  // A typo in a key of a section below.
  for (const auto& [path, other] : context.table().sections) {
    if (path.empty() || (!section.empty() && !absl::StartsWith(path, section))) continue;
    if (path == "bfloat16") continue;
    std::string below = NearestName(key, NamesOf(other, context.version()));
    if (!below.empty() && key.size() >= 8) return JoinPath(path, below);
  }
  return "";
}

}  // namespace zerocast
