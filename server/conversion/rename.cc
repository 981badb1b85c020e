#include "server/conversion/rename.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/conversion/digit_blind.h"

namespace zerocast {

absl::StatusOr<Renamer> Renamer::Create(absl::Span<const Rule> rules, const Dialect& dialect,
                                        bool has_base_model_prefix,
                                        absl::string_view base_model_prefix) {
  Renamer renamer;
  renamer.generation_ = dialect.generation;
  for (size_t i = 0; i < rules.size(); ++i) {
    absl::StatusOr<CompiledRule> compiled = CompiledRule::Create(rules[i], dialect);
    if (!compiled.ok()) return Annotate(compiled.status(), absl::StrCat("transforms[", i, "]"));
    const int index = static_cast<int>(i);
    if (rules[i].kind == RuleKind::kConvert) {
      renamer.converters_.push_back(index);
      for (const std::string& source : compiled->sources()) renamer.owner_[source] = index;
    } else {
      renamer.renames_.push_back(index);
    }
    renamer.share_ &= compiled->IsDigitBlind();
    renamer.rules_.push_back(*std::move(compiled));
  }
  renamer.used_.resize(rules.size());
  renamer.has_prefix_ = has_base_model_prefix;
  if (has_base_model_prefix) {
    renamer.prefix_ = std::string(base_model_prefix);
    renamer.plain_prefix_ = std::all_of(base_model_prefix.begin(), base_model_prefix.end(),
                                        [](char c) { return absl::ascii_isalnum(c) || c == '_'; });
    renamer.prefix_dot_ = absl::StrCat(base_model_prefix, ".");
    // Not escaped, as in the library: the prefix is a pattern and the dot any character.
    absl::StatusOr<Regex> strip = Regex::Compile(absl::StrCat("^", base_model_prefix, "."));
    if (!strip.ok()) return Annotate(strip.status(), "base_model_prefix");
    renamer.strip_ = std::make_unique<Regex>(*std::move(strip));
  }
  return renamer;
}

absl::StatusOr<std::string> Renamer::PrefixStep(const std::string& key, InModel in_model) {
  if (!has_prefix_) return key;
  if (absl::StartsWith(key, prefix_)) {
    absl::string_view stripped = key;
    if (plain_prefix_ && key.size() > prefix_.size() && absl::ascii_isprint(key[prefix_.size()])) {
      stripped.remove_prefix(prefix_.size() + 1);  // what the expression does, without its cost
    } else {
      ZC_ASSIGN_OR_RETURN(const bool found, strip_->Search(key));
      if (found) stripped.remove_prefix(strip_->group(0).text.size());
    }
    if (in_model(stripped)) return std::string(stripped);
  }
  std::string added = absl::StrCat(prefix_dot_, key);
  return in_model(added) ? added : key;
}

absl::Status Renamer::RunRules(RenamedKey* key, KeyOrigins* origins) {
  for (int index : renames_) {
    ZC_ASSIGN_OR_RETURN(const int source, rules_[index].Rename(&key->renamed, origins));
    if (source >= 0) used_[index] = true;
  }
  for (int index : converters_) {
    ZC_ASSIGN_OR_RETURN(const int source, rules_[index].Rename(&key->renamed, origins));
    if (source < 0) continue;
    used_[index] = true;
    key->rule = index;
    key->source = source;
    break;
  }
  return absl::OkStatus();
}

std::vector<int> Renamer::RenamesOf(absl::string_view key, absl::string_view renamed) {
  std::vector<int> fired;
  std::string name(key);
  for (const int index : renames_) {
    const absl::StatusOr<int> source = rules_[index].Rename(&name);
    if (source.ok() && *source >= 0) fired.push_back(index);
  }
  if (name != renamed) fired.clear();
  return fired;
}

Renamer::Recipe Renamer::MakeRecipe(const RenamedKey& key, const KeyOrigins& origins) {
  Recipe recipe;
  recipe.shared = origins.shared;
  if (!recipe.shared) return recipe;
  recipe.rule = key.rule;
  recipe.source = key.source;
  for (size_t at = 0; at < key.renamed.size(); ++at) {
    const int32_t place = origins.places[at];
    const bool from_key = place >= 0;
    const int32_t begin = from_key ? place : static_cast<int32_t>(recipe.text.size());
    if (!from_key) recipe.text += key.renamed[at];
    if (!recipe.segments.empty()) {
      Recipe::Segment& last = recipe.segments.back();
      if (last.from_key == from_key && last.begin + last.size == begin) {
        ++last.size;
        continue;
      }
    }
    recipe.segments.push_back({begin, 1, from_key});
  }
  return recipe;
}

absl::Status Renamer::RunRulesShared(absl::string_view key, RenamedKey* result) {
  std::string shape(key);
  WithoutNumbers(&shape);
  auto found = recipes_.find(shape);
  if (found == recipes_.end()) {
    KeyOrigins origins;
    origins.places.resize(key.size());
    std::iota(origins.places.begin(), origins.places.end(), 0);
    ZC_RETURN_IF_ERROR(RunRules(result, &origins));
    recipes_.emplace(std::move(shape), MakeRecipe(*result, origins));
    return absl::OkStatus();
  }
  const Recipe& recipe = found->second;
  if (!recipe.shared) return RunRules(result, nullptr);
  result->rule = recipe.rule;
  result->source = recipe.source;
  result->renamed.clear();
  ++num_shared_;
  for (const Recipe::Segment& segment : recipe.segments) {
    const absl::string_view from = segment.from_key ? key : absl::string_view(recipe.text);
    absl::StrAppend(&result->renamed, from.substr(segment.begin, segment.size));
  }
  return absl::OkStatus();
}

absl::StatusOr<RenamedKey> Renamer::Rename(absl::string_view key, InModel in_model) {
  RenamedKey result;
  result.renamed = std::string(key);
  ZC_RETURN_IF_ERROR(share_ ? RunRulesShared(key, &result) : RunRules(&result, nullptr));
  if (result.rule >= 0) result.owner = owner_.at(rules_[result.rule].sources()[result.source]);
  ZC_ASSIGN_OR_RETURN(result.with_prefix, PrefixStep(result.renamed, in_model));
  if (generation_ != 1 && !in_model(result.with_prefix) && in_model(key)) {
    result.rule = result.source = result.owner = -1;
    ZC_ASSIGN_OR_RETURN(result.with_prefix, PrefixStep(std::string(key), in_model));
  }
  return result;
}

}  // namespace zerocast
