// Every rule of both tables is compiled and fires on a key; keys of one shape get what each would
// get alone.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "nlohmann/json.hpp"
#include "server/conversion/catalogue.h"
#include "server/conversion/catalogue_data.h"
#include "server/conversion/convert.h"
#include "server/conversion/digit_blind.h"
#include "server/conversion/pattern.h"
#include "server/conversion/rename.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

// A text that the expression matches: alternatives by their first, classes by a member,
// look-arounds left out.  Good for what rules are written in.
std::string MatchingText(absl::string_view pattern, const std::string& number) {
  std::string text;
  size_t unit = 0;  // where what the last piece of the expression gave begins
  int depth = 0;
  bool skipping = false;  // in the second or a later alternative
  int skip_depth = 0;
  for (size_t at = 0; at < pattern.size(); ++at) {
    const char c = pattern[at];
    if (skipping) {
      if (c == '\\') ++at;
      if (c == '(') ++depth;
      if (c == ')' && --depth < skip_depth) skipping = false;
      continue;
    }
    if (absl::StartsWith(pattern.substr(at), "(?!") ||
        absl::StartsWith(pattern.substr(at), "(?<")) {
      int open = 0;
      do {
        if (pattern[at] == '\\')
          ++at;
        else if (pattern[at] == '(')
          ++open;
        else if (pattern[at] == ')')
          --open;
        ++at;
      } while (open > 0);
      --at;
    } else if (c == '(') {
      ++depth;
      if (absl::StartsWith(pattern.substr(at), "(?:")) at += 2;
      unit = text.size();
    } else if (c == ')') {
      --depth;
    } else if (c == '|') {
      if (depth == 0) break;
      skipping = true;
      skip_depth = depth;
    } else if (c == '[') {
      const size_t close = pattern.find(']', at + 1);
      unit = text.size();
      const char member = pattern[at + 1];
      text += member == '0' ? number : member == '^' ? "q" : std::string(1, member);
      at = close;
    } else if (c == '\\') {
      unit = text.size();
      const char escaped = pattern[++at];
      text += escaped == 'd' ? number : escaped == 'w' ? "q" : std::string(1, escaped);
    } else if (c == '*' || c == '?') {
      text.resize(unit);
    } else if (c == '+') {
    } else if (c != '^' && c != '$') {
      unit = text.size();
      text += c == '.' ? '.' : c;
    }
  }
  return text;
}

// Around what a source matches, what a key may look like.
std::vector<std::string> Candidates(const std::string& source, const Dialect& dialect) {
  std::string expression = source;
  expression = absl::StrReplaceAll(
      expression,
      {{dialect.wildcard_from, dialect.wildcard_from == "*." ? "[0-9]\\." : "\\.[0-9]\\."}});
  std::vector<std::string> keys;
  for (const char* number : {"7", "12"}) {
    const std::string text = MatchingText(expression, number);
    for (const char* before : {"", "model.layers.3.", "x."}) {
      for (const char* behind : {"", ".weight", "weight", "q.weight"}) {
        keys.push_back(absl::StrCat(before, text, behind));
      }
    }
  }
  return keys;
}

// Whether a source of the rule matches a key that looks like it, and changes it where it should.
bool Fires(const Rule& rule, size_t source, const Dialect& dialect, CompiledRule* compiled) {
  std::vector<std::string> tried = Candidates(compiled->sources()[source], dialect);
  return std::any_of(tried.begin(), tried.end(), [&](std::string key) {
    const std::string before = key;
    const absl::StatusOr<int> matched = compiled->Rename(&key);
    return matched.ok() && *matched == static_cast<int>(source) &&
           (key != before || compiled->targets()[0] == compiled->sources()[source] ||
            rule.kind == RuleKind::kConvert);
  });
}

std::vector<std::pair<std::string, std::vector<Rule>>> AllSets(const Catalogue& table) {
  std::vector<std::pair<std::string, std::vector<Rule>>> sets(table.sets.begin(), table.sets.end());
  for (const auto& [name, rules] : table.class_renames) sets.emplace_back(name, rules);
  return sets;
}

class TableRulesTest : public ::testing::TestWithParam<const char*> {};

TEST_P(TableRulesTest, EveryRuleCompilesAndFiresOnAKey) {
  ZC_ASSERT_OK_AND_ASSIGN(const Catalogue* table, BuiltInCatalogue(GetParam()));
  int rules = 0, sources = 0, sets = 0;
  for (const auto& [name, list] : AllSets(*table)) {
    ++sets;
    for (const Rule& rule : list) {
      ++rules;
      ZC_ASSERT_OK_AND_ASSIGN(CompiledRule compiled, CompiledRule::Create(rule, table->dialect));
      for (size_t i = 0; i < compiled.sources().size(); ++i) {
        ++sources;
        EXPECT_TRUE(Fires(rule, i, table->dialect, &compiled))
            << name << ": source '" << compiled.sources()[i] << "' fired on none of "
            << Candidates(compiled.sources()[i], table->dialect)[0] << ", ...";
      }
    }
  }
  std::printf("%s: %d sets, %d rules, %d source patterns, each fired\n", GetParam(), sets, rules,
              sources);
  // As many as there are in the text of the table.
  const absl::string_view text =
      std::string(GetParam()) == "5.1.0" ? RuleTable510() : RuleTable5230();
  const nlohmann::json written = nlohmann::json::parse(text.begin(), text.end());
  int want = 0, want_sources = 0;
  for (const auto& [name, list] : written["rule_sets"].items()) {
    want += static_cast<int>(list.size());
    for (const auto& rule : list) {
      const bool has_list = rule.contains("from") && rule["from"].is_array();
      want_sources += has_list ? static_cast<int>(rule["from"].size()) : 1;
    }
  }
  if (written.contains("class_renames")) {
    for (const auto& [name, renames] : written["class_renames"]["map"].items()) {
      want += static_cast<int>(renames.size());
      want_sources += static_cast<int>(renames.size());
    }
  }
  EXPECT_EQ(rules, want);
  EXPECT_EQ(sources, want_sources);
  EXPECT_GE(rules, 80);
}

TEST_P(TableRulesTest, ARuleThatFiresOnNoKeyIsFound) {
  ZC_ASSERT_OK_AND_ASSIGN(const Catalogue* table, BuiltInCatalogue(GetParam()));
  const auto fires = [table](std::vector<std::string> from, size_t source) {
    Rule rule;
    rule.from = std::move(from);
    rule.to = {"t"};
    absl::StatusOr<CompiledRule> compiled = CompiledRule::Create(rule, table->dialect);
    EXPECT_THAT(compiled, IsOk());
    return Fires(rule, source, table->dialect, &*compiled);
  };
  EXPECT_TRUE(fires({"attn.qkv"}, 0));
  EXPECT_FALSE(fires({"attn$.qkv"}, 0));
  EXPECT_FALSE(fires({"attn(?<!attn)"}, 0));
  EXPECT_FALSE(fires({"attn.qkv", "attn.qkv"}, 1)) << "the other source takes its keys";
}

// The numbers that keys of a shape differ in: as long, and other digits.
std::string OtherNumbers(std::string key, char digit) {
  std::string shape = key;
  WithoutNumbers(&shape);
  std::string other = key;
  // A digit of a number is one that changes when all digits become '9' but not '0'.
  std::string nines = absl::StrReplaceAll(key, {{"0", "9"}});
  WithoutNumbers(&nines);
  for (size_t i = 0; i < key.size(); ++i) {
    if (absl::ascii_isdigit(key[i]) && shape[i] == '0' && nines[i] == '0') other[i] = digit;
  }
  return other;
}

TEST_P(TableRulesTest, KeysOfOneShapeShareWhatEachWouldGetAlone) {
  ZC_ASSERT_OK_AND_ASSIGN(const Catalogue* table, BuiltInCatalogue(GetParam()));
  int64_t compared = 0, shared = 0;
  for (const auto& [name, list] : AllSets(*table)) {
    std::vector<Rule> rules = list;
    for (const std::string& last : table->always_last) {
      rules.insert(rules.end(), table->sets.at(last).begin(), table->sets.at(last).end());
    }
    const bool remembers = std::any_of(rules.begin(), rules.end(), [](const Rule& rule) {
      return rule.kind == RuleKind::kRenameGroup;
    });
    if (remembers) continue;
    std::set<std::string> keys;
    for (const Rule& rule : list) {
      ZC_ASSERT_OK_AND_ASSIGN(const CompiledRule compiled,
                              CompiledRule::Create(rule, table->dialect));
      for (const std::string& source : compiled.sources()) {
        for (const std::string& key : Candidates(source, table->dialect)) {
          keys.insert(key);
          for (const char digit : {'0', '1', '3', '8'}) keys.insert(OtherNumbers(key, digit));
          keys.insert(absl::StrCat(key, ".", key));
          keys.insert(absl::StrCat("1.", OtherNumbers(key, '1'), ".2.", OtherNumbers(key, '2')));
          keys.insert(absl::StrCat("2.", OtherNumbers(key, '2'), ".2.", OtherNumbers(key, '2')));
        }
      }
    }
    const auto in_model = [](absl::string_view) { return false; };
    ZC_ASSERT_OK_AND_ASSIGN(Renamer together, Renamer::Create(rules, table->dialect, false, ""));
    ZC_ASSERT_OK_AND_ASSIGN(Renamer alone, Renamer::Create(rules, table->dialect, false, ""));
    for (const std::string& key : keys) {
      alone.ForgetShapes();
      const absl::StatusOr<RenamedKey> a = together.Rename(key, in_model);
      const absl::StatusOr<RenamedKey> b = alone.Rename(key, in_model);
      ASSERT_EQ(a.ok(), b.ok()) << name << ": " << key << ": " << a.status() << b.status();
      if (!a.ok()) continue;
      EXPECT_EQ(a->renamed, b->renamed) << name << ": " << key;
      EXPECT_EQ(a->rule, b->rule) << name << ": " << key;
      EXPECT_EQ(a->source, b->source) << name << ": " << key;
      ++compared;
    }
    shared += together.num_shared();
  }
  std::printf("%s: %lld keys, %lld of them by what another of their shape got\n", GetParam(),
              static_cast<long long>(compared), static_cast<long long>(shared));
  EXPECT_GE(shared, compared / 4);
}

INSTANTIATE_TEST_SUITE_P(Dialects, TableRulesTest, ::testing::Values("5.23.0", "5.1.0"),
                         [](const auto& info) {
                           return "Release" + absl::StrReplaceAll(info.param, {{".", "_"}});
                         });

TEST(DigitBlindTest, ExpressionsThatTellNumbersApartAreKnown) {
  for (const char* blind :
       {"layers.(\\d+).fc1", "\\.experts\\..*\\.w1\\.weight", "[0-9]+", "(?<!model\\.)x", "a|b",
        "[qkv]_proj", "^model\\.(.+)$", "(?:(?!vision\\.))(.+)", "\\w+_12"}) {
    EXPECT_TRUE(IsDigitBlindPattern(blind)) << blind;
  }
  for (const char* telling : {"linear.0", "\\.3\\.", "[123]", "\\d{2}", "(x)\\1", "w?1", "(w|v)1",
                              "(?i)a", "\\x31", "(*ACCEPT)", "[^1]", "w*2", "\\p{Nd}"}) {
    EXPECT_FALSE(IsDigitBlindPattern(telling)) << telling;
  }
}

TEST(DigitBlindTest, OnlyWholePartsAreNumbers) {
  std::string key = "model.layers.12.w1.experts.3.q_2";
  WithoutNumbers(&key);
  EXPECT_EQ(key, "model.layers.00.w1.experts.0.q_2");
}

// The text of the match occurs earlier in one key and not in another of the same shape.
TEST(DigitBlindTest, ANumberThatOccursEarlierIsNotShared) {
  Rule rule;
  rule.from = {"(?<=x\\.)\\d+"};
  rule.to = {"n"};
  ZC_ASSERT_OK_AND_ASSIGN(
      Renamer renamer, Renamer::Create({&rule, 1}, CatalogueDialect("5.23.0").value(), false, ""));
  const auto rename = [&renamer](absl::string_view key) {
    return renamer.Rename(key, [](absl::string_view) { return false; }).value().renamed;
  };
  EXPECT_EQ(rename("1.x.2"), "1.x.n");
  EXPECT_EQ(rename("2.x.2"), "n.x.2");
  EXPECT_EQ(rename("3.x.4"), "3.x.n");
}

}  // namespace
}  // namespace zerocast
