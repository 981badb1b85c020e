#include "server/conversion/rename.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"

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
    renamer.rules_.push_back(*std::move(compiled));
  }
  renamer.has_prefix_ = has_base_model_prefix;
  if (has_base_model_prefix) {
    renamer.prefix_ = std::string(base_model_prefix);
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
    ZC_ASSIGN_OR_RETURN(const bool found, strip_->Search(key));
    const std::string stripped = found ? key.substr(strip_->group(0).text.size()) : key;
    if (in_model(stripped)) return stripped;
  }
  std::string added = absl::StrCat(prefix_dot_, key);
  return in_model(added) ? added : key;
}

absl::StatusOr<RenamedKey> Renamer::Rename(absl::string_view key, InModel in_model) {
  RenamedKey result;
  result.renamed = std::string(key);
  for (int index : renames_) {
    ZC_RETURN_IF_ERROR(rules_[index].Rename(&result.renamed).status());
  }
  for (int index : converters_) {
    ZC_ASSIGN_OR_RETURN(const int source, rules_[index].Rename(&result.renamed));
    if (source < 0) continue;
    result.rule = index;
    result.source = source;
    result.owner = owner_.at(rules_[index].sources()[source]);
    break;
  }
  ZC_ASSIGN_OR_RETURN(result.with_prefix, PrefixStep(result.renamed, in_model));
  if (generation_ != 1 && !in_model(result.with_prefix) && in_model(key)) {
    result.rule = result.source = result.owner = -1;
    ZC_ASSIGN_OR_RETURN(result.with_prefix, PrefixStep(std::string(key), in_model));
  }
  return result;
}

}  // namespace zerocast
