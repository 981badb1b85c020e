#include "server/conversion/pattern.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/conversion/digit_blind.h"

namespace zerocast {
namespace {

constexpr size_t kNone = std::string::npos;

bool IsAlnum(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

// Bytes of the code point that starts with `c`.
size_t CodePointSize(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return byte < 0x80 ? 1 : byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4;
}

int64_t CodePoints(absl::string_view text) {
  return std::count_if(text.begin(), text.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; });
}

void ReplaceFirst(absl::string_view from, absl::string_view to, std::string* text) {
  const size_t at = text->find(from.data(), 0, from.size());
  if (at != kNone) text->replace(at, from.size(), to.data(), to.size());
}

// Python's str.replace(from, to), also for an empty `from`: before every character and at the end.
std::string ReplaceAll(absl::string_view text, absl::string_view from, absl::string_view to) {
  if (!from.empty()) return absl::StrReplaceAll(text, {{from, to}});
  std::string result(to);
  for (size_t at = 0; at < text.size();) {
    const size_t size = std::min(CodePointSize(text[at]), text.size() - at);
    absl::StrAppend(&result, text.substr(at, size), to);
    at += size;
  }
  return result;
}

// Deletes look-arounds as the library does with re.sub.  Generation 1: `\(\?.+\)`, to the last
// parenthesis.  Generation 2: `\(\?.+?\)?\)`, to the first, and one more where two follow.
void DeleteLookarounds(int generation, std::string* pattern) {
  for (size_t at = pattern->find("(?"); at != kNone; at = pattern->find("(?", at)) {
    size_t end;
    if (generation == 1) {
      end = pattern->rfind(')');
      if (end == kNone || end < at + 3) return;
    } else {
      end = pattern->find(')', at + 3);
      if (end == kNone) return;
      if (end + 1 < pattern->size() && (*pattern)[end + 1] == ')') ++end;
    }
    pattern->erase(at, end + 1 - at);
  }
}

// Processes a target in place; the text of its capture group, or "".
std::string ProcessTarget(int generation, std::string* target) {
  if (absl::StartsWith(*target, "^")) target->erase(0, 1);
  if (generation == 1 && absl::EndsWith(*target, "$")) target->pop_back();
  DeleteLookarounds(generation, target);
  std::string group;
  const size_t open = target->find('(');
  if (open != kNone) {
    const size_t close = target->find(')', open + 2);
    if (close != kNone) {
      group = target->substr(open, close + 1 - open);
      target->replace(open, group.size(), "\\1");
    }
  }
  if (generation != 1) absl::StrReplaceAll({{"\\.", "."}}, target);
  return group;
}

std::string Describe(const std::vector<std::string>& from, const std::vector<std::string>& to) {
  return absl::StrCat("rule [", absl::StrJoin(from, ", "), "] -> [", absl::StrJoin(to, ", "), "]");
}

absl::Status Refuse(const std::vector<std::string>& from, const std::vector<std::string>& to,
                    absl::string_view why) {
  return WithReason(absl::InvalidArgumentError(absl::StrCat(Describe(from, to), ": ", why)),
                    "CONVERSION_FAILED");
}

// The patterns that the library's PrefixChange makes.
absl::Status PrefixPatterns(const Rule& rule, std::vector<std::string>* from,
                            std::vector<std::string>* to) {
  if (rule.prefix_add.empty() == rule.prefix_remove.empty()) {
    return absl::InvalidArgumentError(
        "a prefix rule must name exactly one of 'add' and 'remove'; name one");
  }
  const std::string prefix = rule.under.empty() ? "" : absl::StrCat(rule.under, "\\.");
  if (!rule.prefix_add.empty()) {
    *from = {absl::StrCat("^", prefix, "(?:(?!", rule.prefix_add, "\\.))(.+)")};
    *to = {absl::StrCat(prefix, rule.prefix_add, "\\.\\1")};
  } else {
    *from = {absl::StrCat("^", prefix, rule.prefix_remove, "\\.(.+)")};
    *to = {absl::StrCat(prefix, "\\1")};
  }
  return absl::OkStatus();
}

absl::Status CheckForm(const Rule& rule, const std::vector<std::string>& from,
                       const std::vector<std::string>& to) {
  if (from.empty() || to.empty()) return Refuse(from, to, "a rule needs a source and a target");
  if (rule.kind == RuleKind::kRenameGroup && from.size() != to.size()) {
    return Refuse(from, to, "a group rename needs as many targets as sources");
  }
  if (rule.kind != RuleKind::kConvert) return absl::OkStatus();
  const bool many_to_many = std::any_of(rule.ops.begin(), rule.ops.end(), [](const Op& op) {
    return op.kind == OpKind::kErnieFuseSplit || op.kind == OpKind::kErnieSplitDecouple ||
           op.kind == OpKind::kFp8Dequantize;  // its sources are pairs: weights and scales
  });
  if (from.size() > 1 && to.size() > 1 && !many_to_many) {
    return Refuse(from, to, "you can only have one to many, one to one or many to one");
  }
  if (rule.ops.empty()) return Refuse(from, to, "a conversion needs at least one operation");
  return absl::OkStatus();
}

std::string Branch(const std::string& source, const Dialect& dialect) {
  std::string branch = source;
  if (!dialect.wildcard_from.empty()) {
    branch = absl::StrReplaceAll(source, {{dialect.wildcard_from, dialect.wildcard_to}});
  }
  if (dialect.boundary && !branch.empty() && IsAlnum(branch.back())) branch += "(?!\\w)";
  return branch;
}

// A text that every match of `pattern` contains: its longest run of plain characters outside of
// groups, classes and alternatives; "" when there is none.  Only saves time.
std::string RequiredLiteral(absl::string_view pattern) {
  std::string best, run;
  int depth = 0;
  const auto end_run = [&] {
    if (run.size() > best.size()) best = run;
    run.clear();
  };
  for (size_t at = 0; at < pattern.size(); ++at) {
    const char c = pattern[at];
    if (c == '[') return "";  // rare; not worth a parser of classes
    if (c == '\\') {
      if (++at == pattern.size()) return "";
      const char escaped = pattern[at];
      if (depth > 0) continue;
      if (absl::string_view("dDwWsSbB").find(escaped) != kNone) {
        end_run();
      } else if (IsAlnum(escaped)) {
        return "";  // \\x41, \\1, \\Q: what follows may not be plain
      } else {
        run += escaped;
      }
    } else if (c == '(') {
      const absl::string_view rest = pattern.substr(at + 1);
      if (absl::StartsWith(rest, "*")) return "";
      // Flags such as (?i) change what follows; look-arounds and names do not.
      if (rest.size() > 1 && rest[0] == '?' && absl::string_view(":!=<P").find(rest[1]) == kNone)
        return "";
      ++depth;
      end_run();
    } else if (c == ')') {
      --depth;
    } else if (depth > 0) {
      continue;
    } else if (c == '|') {
      return "";
    } else if (c == '*' || c == '?' || c == '{' || c == '+') {
      if (!run.empty()) run.pop_back();  // the repeated character
      end_run();
      if (c == '{') return best;
    } else if (c == '.' || c == '^' || c == '$' || static_cast<unsigned char>(c) >= 0x80) {
      end_run();  // beyond ASCII a repeat would take back only one byte of the character
    } else {
      run += c;
    }
  }
  end_run();
  return best;
}

}  // namespace

absl::StatusOr<ProcessedPatterns> ProcessPatterns(const Rule& rule, const Dialect& dialect) {
  std::vector<std::string> from = rule.from, to = rule.to;
  int generation = dialect.generation;
  if (rule.kind == RuleKind::kPrefix) {
    ZC_RETURN_IF_ERROR(PrefixPatterns(rule, &from, &to));
    generation = 2;  // the kind exists since then
  }
  ZC_RETURN_IF_ERROR(CheckForm(rule, from, to));
  ProcessedPatterns result{from, to};
  std::string group;
  for (std::string& target : result.targets) {
    const std::string found = ProcessTarget(generation, &target);
    if (found.empty()) continue;
    if (!group.empty() && group != found) {
      return Refuse(from, to,
                    absl::StrCat("the targets have different capture groups, ", group, " and ",
                                 found, "; all must have the same"));
    }
    group = found;
  }
  for (size_t i = 0; i < result.sources.size(); ++i) {
    std::string& source = result.sources[i];
    if (absl::StrContains(source, "\\1")) {
      if (group.empty()) {
        return Refuse(from, to,
                      absl::StrCat("the source '", source, "' refers to \\1, but no target has a ",
                                   "capture group"));
      }
      ReplaceFirst("\\1", group, &source);
    }
    if (generation != 1 && from.size() == to.size() && absl::StartsWith(to[i], "^") &&
        !absl::StartsWith(source, "^")) {
      source.insert(0, "^");
    }
  }
  return result;
}

CompiledRule::CompiledRule(const Rule& rule, const Dialect& dialect, ProcessedPatterns patterns,
                           Regex regex)
    : kind_(rule.kind),
      replace_all_(dialect.replace_all),
      offset_(rule.offset),
      has_scope_(rule.has_scope),
      patterns_(std::move(patterns)),
      regex_(std::move(regex)) {
  if (has_scope_) {
    if (!rule.scope_prefix.empty()) scope_ = absl::StrCat(rule.scope_prefix, ".");
    base_scope_ = scope_;
    if (!rule.scope_base.empty()) base_scope_ = absl::StrCat(rule.scope_base, ".", scope_);
  }
}

absl::StatusOr<CompiledRule> CompiledRule::Create(const Rule& rule, const Dialect& dialect) {
  ZC_ASSIGN_OR_RETURN(ProcessedPatterns patterns, ProcessPatterns(rule, dialect));
  std::vector<int> order(patterns.sources.size());
  std::iota(order.begin(), order.end(), 0);
  if (dialect.longest_first) {
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
      return CodePoints(patterns.sources[a]) > CodePoints(patterns.sources[b]);
    });
  }
  std::vector<std::string> branches;
  for (int i : order) {
    branches.push_back(absl::StrCat("(?P<g", i, ">", Branch(patterns.sources[i], dialect), ")"));
  }
  absl::StatusOr<Regex> regex = Regex::Compile(absl::StrJoin(branches, "|"));
  if (!regex.ok()) {
    return WithReason(Annotate(regex.status(), Describe(patterns.sources, patterns.targets)),
                      "CONVERSION_FAILED");
  }
  CompiledRule compiled(rule, dialect, std::move(patterns), *std::move(regex));
  for (size_t i = 0; i < order.size(); ++i) {
    compiled.groups_.push_back(compiled.regex_.GroupNumber(absl::StrCat("g", i).c_str()));
  }
  compiled.branches_ = std::move(order);
  compiled.digit_blind_ = rule.kind != RuleKind::kRenameGroup &&
                          rule.kind != RuleKind::kRenameIndex && !HasDigit(compiled.base_scope_);
  for (const std::string& source : compiled.patterns_.sources) {
    compiled.digit_blind_ &= IsDigitBlindPattern(Branch(source, dialect));
  }
  if (compiled.branches_.size() == 1) {
    compiled.literal_ = RequiredLiteral(Branch(compiled.patterns_.sources[0], dialect));
  }
  return compiled;
}

bool CompiledRule::StripScope(absl::string_view key, size_t* prefix_size) const {
  *prefix_size = 0;
  if (!has_scope_) return true;
  if (absl::StartsWith(key, base_scope_)) {
    *prefix_size = base_scope_.size();
  } else if (absl::StartsWith(key, scope_)) {
    *prefix_size = scope_.size();
  } else {
    return false;
  }
  return true;
}

std::string CompiledRule::Name() const { return Describe(patterns_.sources, patterns_.targets); }

absl::Status CompiledRule::MissingGroup(int source) const {
  return Refuse(patterns_.sources, patterns_.targets,
                absl::StrCat("the target refers to a group that took no part in the match of '",
                             patterns_.sources[source], "'"));
}

absl::StatusOr<std::string> CompiledRule::Replacement(int source) const {
  const int first = groups_[source];
  if (kind_ == RuleKind::kRenameGroup) {
    // Every \N, counted from the group of the branch.
    const std::string& target = patterns_.targets[source];
    std::string result;
    for (size_t at = 0; at < target.size(); ++at) {
      size_t end = at + 1;
      while (target[at] == '\\' && end < target.size() && absl::ascii_isdigit(target[end])) ++end;
      if (end == at + 1) {
        result += target[at];
        continue;
      }
      int number;
      if (!absl::SimpleAtoi(target.substr(at + 1, end - at - 1), &number) || number > 1000) {
        return MissingGroup(source);
      }
      const Regex::Group group = regex_.group(first + number);
      if (!group.has) return MissingGroup(source);
      absl::StrAppend(&result, group.text);
      at = end - 1;
    }
    return result;
  }
  const std::string& target = patterns_.targets[0];
  if (kind_ != RuleKind::kRenameIndex && !absl::StrContains(target, "\\1")) return target;
  const Regex::Group group = regex_.group(first + 1);
  if (!group.has) return MissingGroup(source);
  if (kind_ != RuleKind::kRenameIndex) return absl::StrReplaceAll(target, {{"\\1", group.text}});
  int64_t index, shifted;
  if (!absl::SimpleAtoi(group.text, &index) || __builtin_add_overflow(index, offset_, &shifted)) {
    return Refuse(patterns_.sources, patterns_.targets,
                  absl::StrCat("'", group.text, "' is not an index that can be shifted"));
  }
  return absl::StrReplaceAll(target, {{"\\1", absl::StrCat(shifted)}});
}

void CompiledRule::Follow(absl::string_view rest, size_t prefix_size, int source,
                          KeyOrigins* origins) const {
  const absl::string_view text = regex_.group(0).text;
  const auto place_in_rest = [rest](absl::string_view part) {
    return static_cast<size_t>(part.data() - rest.data());
  };
  const size_t begin = place_in_rest(text);
  // Whatever digits stand for those of this key, the text must occur first (or only) where it
  // matched.
  const size_t first = FindAnyDigits(rest, text, 0);
  if (text.empty() || first != begin ||
      (replace_all_ && FindAnyDigits(rest, text, begin + 1) != kNone)) {
    origins->shared = false;
    return;
  }
  std::vector<int32_t>& places = origins->places;
  const auto of_rest = [&places, prefix_size](size_t place) {
    return places.begin() + static_cast<std::ptrdiff_t>(prefix_size + place);
  };
  const absl::string_view target = patterns_.targets[0];
  const absl::string_view group = regex_.group(groups_[source] + 1).text;
  std::vector<int32_t> put;
  for (size_t at = 0; at < target.size(); ++at) {
    if (!absl::StartsWith(target.substr(at), "\\1")) {
      put.push_back(-1);
      continue;
    }
    const size_t from = group.empty() ? 0 : place_in_rest(group);
    put.insert(put.end(), of_rest(from), of_rest(from + group.size()));
    ++at;
  }
  const auto behind = places.erase(of_rest(begin), of_rest(begin + text.size()));
  places.insert(behind, put.begin(), put.end());
}

absl::StatusOr<int> CompiledRule::Rename(std::string* key, KeyOrigins* origins) {
  size_t prefix_size;
  if (!StripScope(*key, &prefix_size)) return -1;
  const absl::string_view rest = absl::string_view(*key).substr(prefix_size);
  if (!literal_.empty() && !absl::StrContains(rest, literal_)) return -1;
  const absl::StatusOr<bool> found = regex_.Search(rest);
  if (!found.ok()) return WithReason(Annotate(found.status(), Name()), "CONVERSION_FAILED");
  if (!*found) return -1;
  int source = -1;
  for (int i : branches_) {
    if (regex_.group(groups_[i]).has) {
      source = i;
      break;
    }
  }
  if (source < 0) return -1;
  if (kind_ == RuleKind::kRenameGroup) {
    if (source == 0) guard_seen_ = true;
    if (!guard_seen_) return -1;
  }
  ZC_ASSIGN_OR_RETURN(const std::string to, Replacement(source));
  if (origins != nullptr && origins->shared) Follow(rest, prefix_size, source, origins);
  // The matched text is replaced where it first occurs (or everywhere), not where it matched.
  const std::string text(regex_.group(0).text);
  std::string renamed(rest);
  if (replace_all_ && kind_ != RuleKind::kRenameGroup && kind_ != RuleKind::kRenameIndex) {
    renamed = ReplaceAll(rest, text, to);
  } else {
    ReplaceFirst(text, to, &renamed);
  }
  key->replace(prefix_size, std::string::npos, renamed);
  return source;
}

}  // namespace zerocast
