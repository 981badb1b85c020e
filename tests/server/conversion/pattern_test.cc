// Each test fails when the one property it is named after is taken out of the matcher.

#include "server/conversion/pattern.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "server/conversion/convert.h"
#include "server/conversion/natural_key.h"
#include "server/conversion/rename.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

Dialect Newest() { return CatalogueDialect("5.23.0").value(); }
Dialect Oldest() { return CatalogueDialect("5.1.0").value(); }

Rule Rename(std::vector<std::string> from, std::vector<std::string> to) {
  Rule rule;
  rule.from = std::move(from);
  rule.to = std::move(to);
  return rule;
}

Rule ConvertRule(std::vector<std::string> from, std::vector<std::string> to) {
  Rule rule = Rename(std::move(from), std::move(to));
  rule.kind = RuleKind::kConvert;
  Op cat;
  cat.kind = OpKind::kCat;
  rule.ops.push_back(cat);
  return rule;
}

std::string Apply(const Rule& rule, const Dialect& dialect, std::string key) {
  absl::StatusOr<CompiledRule> compiled = CompiledRule::Create(rule, dialect);
  if (!compiled.ok()) return compiled.status().ToString();
  const absl::StatusOr<int> source = compiled->Rename(&key);
  return source.ok() ? key : source.status().ToString();
}

absl::Status CompileStatus(const Rule& rule, const Dialect& dialect = Newest()) {
  return CompiledRule::Create(rule, dialect).status();
}

std::vector<std::string> Sorted(const std::vector<std::string>& keys, const Dialect& dialect) {
  const std::vector<absl::string_view> views(keys.begin(), keys.end());
  std::vector<std::string> sorted;
  const std::vector<int32_t> order = NaturalOrder(views, dialect).value();
  for (int32_t index : order) sorted.push_back(keys[index]);
  return sorted;
}

TEST(PatternTest, DotIsAnyCharacterUnlessEscaped) {
  EXPECT_EQ(Apply(Rename({"a.b"}, {"c"}), Newest(), "aXb"), "c");
  EXPECT_EQ(Apply(Rename({"a\\.b"}, {"c"}), Newest(), "aXb"), "aXb");
  EXPECT_EQ(Apply(Rename({"a\\.b"}, {"c"}), Newest(), "a.b"), "c");
}

TEST(PatternTest, AnchorsHold) {
  const Rule rule = Rename({"^model\\.x$"}, {"y"});
  EXPECT_EQ(Apply(rule, Newest(), "model.x"), "y");
  EXPECT_EQ(Apply(rule, Newest(), "a.model.x"), "a.model.x");
  EXPECT_EQ(Apply(rule, Newest(), "model.x.b"), "model.x.b");
}

TEST(PatternTest, SourceTakesOverTheAnchorOfItsTarget) {
  const Rule rule = Rename({"layers"}, {"^model"});
  EXPECT_EQ(Apply(rule, Newest(), "layers.0"), "model.0");
  EXPECT_EQ(Apply(rule, Newest(), "a.layers.0"), "a.layers.0");
  EXPECT_EQ(Apply(rule, Oldest(), "a.layers.0"), "a.model.0");
}

TEST(PatternTest, SourceEndsAtAWordBoundaryInTheNewDialect) {
  const Rule rule = Rename({"gate_proj.weight"}, {"up"});
  EXPECT_EQ(Apply(rule, Newest(), "7.gate_proj.weight_scale_inv"), "7.gate_proj.weight_scale_inv");
  EXPECT_EQ(Apply(rule, Newest(), "7.gate_proj.weight"), "7.up");
  EXPECT_EQ(Apply(rule, Newest(), "7.gate_proj.weight\xc3\xa9"), "7.gate_proj.weight\xc3\xa9")
      << "a letter beyond ASCII is a word character";
  EXPECT_EQ(Apply(rule, Oldest(), "7.gate_proj.weight_scale_inv"), "7.up_scale_inv");
  EXPECT_EQ(Apply(Rename({"hc_"}, {"h."}), Newest(), "hc_fn"), "h.fn")
      << "a source that ends with _ is the start of a name";
}

TEST(PatternTest, LongestBranchComesFirstInTheNewDialect) {
  for (const auto& [dialect, want] : {std::pair(Newest(), 1), std::pair(Oldest(), 0)}) {
    absl::StatusOr<CompiledRule> compiled =
        CompiledRule::Create(ConvertRule({"x.up", "x.up.w"}, {"t"}), dialect);
    ASSERT_THAT(compiled, IsOk());
    std::string key = "x.up.w";
    EXPECT_EQ(compiled->Rename(&key).value(), want) << dialect.version;
  }
}

TEST(PatternTest, OnlyTheFirstOccurrenceOfTheTextIsReplacedInTheNewDialect) {
  const Rule rule = Rename({"a.b"}, {"c"});
  EXPECT_EQ(Apply(rule, Newest(), "a.b.a.b"), "c.a.b");
  EXPECT_EQ(Apply(rule, Oldest(), "a.b.a.b"), "c.c");
}

TEST(PatternTest, TheTextIsReplacedWhereItFirstOccursNotWhereItMatched) {
  const Rule rule = Rename({"(?<!x\\.)w"}, {"v"});
  EXPECT_EQ(Apply(rule, Newest(), "x.w.w"), "x.v.w");
}

TEST(PatternTest, AnEmptyMatchReplacesAsPythonDoes) {
  EXPECT_EQ(Apply(Rename({"(?!x)"}, {"-"}), Newest(), "ab"), "-ab");
  EXPECT_EQ(Apply(Rename({"(?!x)"}, {"-"}), Oldest(), "a\xc3\xa9"), "-a-\xc3\xa9-");
}

TEST(PatternTest, WildcardsDifferByDialect) {
  const Rule rule = Rename({".experts.*.w1"}, {".x"});
  EXPECT_EQ(Apply(rule, Newest(), "m.experts.12.w1"), "m.x");
  EXPECT_EQ(Apply(rule, Oldest(), "m.experts.12.w1"), "m.x");
  EXPECT_EQ(Apply(rule, Newest(), "m.experts.w1"), "m.experts.w1");
}

TEST(PatternTest, BackReferenceTakesTheGroupOfTheBranchThatMatched) {
  const Rule rule = Rename({"a_(\\d+)", "bb_(\\w)_"}, {"t.\\1"});
  EXPECT_EQ(Apply(rule, Newest(), "x.a_17"), "x.t.17");
  EXPECT_EQ(Apply(rule, Newest(), "x.bb_q_"), "x.t.q");
}

TEST(PatternTest, TargetIsProcessedAsForReversal) {
  const ProcessedPatterns patterns =
      ProcessPatterns(Rename({"pre.\\1"}, {"^(?!model)a\\.(x|y)"}), Newest()).value();
  EXPECT_THAT(patterns.targets, ElementsAre("a.\\1"));
  EXPECT_THAT(patterns.sources, ElementsAre("^pre.(x|y)"));
  EXPECT_THAT(ProcessPatterns(Rename({"a"}, {"b$"}), Newest())->targets, ElementsAre("b$"));
  EXPECT_THAT(ProcessPatterns(Rename({"a"}, {"b$"}), Oldest())->targets, ElementsAre("b"));
  EXPECT_THAT(ProcessPatterns(Rename({"a"}, {"(?!x)b(?!y)c"}), Newest())->targets,
              ElementsAre("bc"));
  EXPECT_THAT(ProcessPatterns(Rename({"a"}, {"(?!x)b(?!y)c"}), Oldest())->targets,
              ElementsAre("c"));
}

TEST(PatternTest, ScopeIsTakenOffAndPutBack) {
  Rule rule = Rename({"^fc"}, {"proj"});
  rule.has_scope = true;
  rule.scope_prefix = "vision";
  rule.scope_base = "model";
  EXPECT_EQ(Apply(rule, Newest(), "model.vision.fc.w"), "model.vision.proj.w");
  EXPECT_EQ(Apply(rule, Newest(), "vision.fc.w"), "vision.proj.w");
  EXPECT_EQ(Apply(rule, Newest(), "fc.w"), "fc.w");
  EXPECT_EQ(Apply(rule, Newest(), "text.fc.w"), "text.fc.w");
  rule.scope_prefix = "";
  EXPECT_EQ(Apply(rule, Newest(), "fc.w"), "proj.w");
}

TEST(PatternTest, PrefixIsRemovedOrAddedOnce) {
  Rule remove;
  remove.kind = RuleKind::kPrefix;
  remove.prefix_remove = "language_model";
  remove.under = "model";
  EXPECT_EQ(Apply(remove, Newest(), "model.language_model.w"), "model.w");
  EXPECT_EQ(Apply(remove, Newest(), "language_model.w"), "language_model.w");
  Rule add;
  add.kind = RuleKind::kPrefix;
  add.prefix_add = "timm";
  EXPECT_EQ(Apply(add, Newest(), "w.x"), "timm.w.x");
  EXPECT_EQ(Apply(add, Newest(), "timm.w.x"), "timm.w.x");
  EXPECT_EQ(Apply(add, Newest(), "timmy.w.x"), "timm.timmy.w.x");
}

TEST(PatternTest, GroupRenameWaitsForItsGuard) {
  Rule rule = Rename({"b.(\\d+).norm0", "b.(\\d+).norm1"}, {"b.\\1.norm1", "b.\\1.norm2"});
  rule.kind = RuleKind::kRenameGroup;
  absl::StatusOr<CompiledRule> compiled = CompiledRule::Create(rule, Newest());
  ASSERT_THAT(compiled, IsOk());
  const auto apply = [&](std::string key) {
    EXPECT_THAT(compiled->Rename(&key), IsOk());
    return key;
  };
  EXPECT_EQ(apply("b.3.norm1"), "b.3.norm1");
  EXPECT_EQ(apply("b.4.norm0"), "b.4.norm1");
  EXPECT_EQ(apply("b.3.norm1"), "b.3.norm2");
}

TEST(PatternTest, IndexIsShifted) {
  Rule rule = Rename({"q\\.(\\d+)"}, {"layers.\\1.q"});
  rule.kind = RuleKind::kRenameIndex;
  rule.offset = 1;
  EXPECT_EQ(Apply(rule, Newest(), "q.9.w"), "layers.10.q.w");
  EXPECT_THAT(Apply(rule, Newest(), "q.99999999999999999999.w"), HasSubstr("index"));
}

TEST(PatternTest, RefusesRulesOfABadForm) {
  const auto invalid = [](absl::string_view text) {
    return StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(std::string(text)));
  };
  EXPECT_THAT(CompileStatus(Rename({"a("}, {"b"})), invalid("a("));
  EXPECT_THAT(CompileStatus(ConvertRule({"a", "b"}, {"c", "d"})), invalid("one to many"));
  Rule rule = ConvertRule({"a"}, {"b"});
  rule.ops.clear();
  EXPECT_THAT(CompileStatus(rule), invalid("operation"));
  EXPECT_THAT(CompileStatus(Rename({"a"}, {"(b|c)", "(d|e)"})), invalid("capture group"));
  EXPECT_THAT(CompileStatus(Rename({"a\\1"}, {"b"})), invalid("\\1"));
  EXPECT_THAT(CompileStatus(Rename({}, {"b"})), invalid("source"));
  Rule group = Rename({"a", "b"}, {"c"});
  group.kind = RuleKind::kRenameGroup;
  EXPECT_THAT(CompileStatus(group), invalid("as many targets"));
  Rule prefix;
  prefix.kind = RuleKind::kPrefix;
  EXPECT_THAT(CompileStatus(prefix), invalid("exactly one"));
  EXPECT_THAT(Apply(Rename({"a"}, {"b\\1"}), Newest(), "xa"), HasSubstr("group"));
}

TEST(PatternTest, ACatastrophicPatternEndsAtTheMatchLimit) {
  absl::StatusOr<CompiledRule> compiled =
      CompiledRule::Create(Rename({"(\\w+\\w+)+\\.$"}, {"b"}), Newest());
  ASSERT_THAT(compiled, IsOk());
  std::string key = std::string(60, 'a') + ".x";
  EXPECT_THAT(compiled->Rename(&key),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr(key)));
}

TEST(PatternTest, AKeyThatIsNotUtf8IsRefused) {
  EXPECT_THAT(Apply(Rename({"[a]"}, {"b"}), Newest(), "a\xff"), HasSubstr("UTF-8"));
}

TEST(NaturalKeyTest, NumbersSortByValueAndBeforeTexts) {
  EXPECT_THAT(Sorted({"e.10.down", "e.2.up", "e.2.down"}, Newest()),
              ElementsAre("e.2.down", "e.2.up", "e.10.down"));
  EXPECT_THAT(Sorted({"a.w.b", "a.0.b"}, Newest()), ElementsAre("a.0.b", "a.w.b"));
  EXPECT_THAT(Sorted({"a.99999999999999999999", "a.100000000000000000000"}, Newest()),
              ElementsAre("a.99999999999999999999", "a.100000000000000000000"));
  EXPECT_THAT(Sorted({"a.b", "a"}, Newest()), ElementsAre("a", "a.b"));
}

TEST(NaturalKeyTest, TrailingNumbersSortByValueInTheNewDialect) {
  EXPECT_THAT(Sorted({"l.shard_11", "l.shard_2"}, Newest()),
              ElementsAre("l.shard_2", "l.shard_11"));
  EXPECT_THAT(Sorted({"l.shard_2", "l.shard_11"}, Oldest()),
              ElementsAre("l.shard_11", "l.shard_2"));
}

TEST(NaturalKeyTest, EqualKeysKeepTheirOrder) {
  EXPECT_THAT(Sorted({"a.01.x", "a.1.x"}, Newest()), ElementsAre("a.01.x", "a.1.x"));
  EXPECT_THAT(Sorted({"a.1.x", "a.01.x"}, Newest()), ElementsAre("a.1.x", "a.01.x"));
  EXPECT_THAT(Sorted({"a.1.z", "a.01.b"}, Newest()), ElementsAre("a.01.b", "a.1.z"));
}

TEST(NaturalKeyTest, TheOldDialectCannotCompareANumberWithAText) {
  const std::vector<absl::string_view> keys = {"a.w.b", "z", "a.0.b"};
  EXPECT_THAT(NaturalOrder(keys, Oldest()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("'a.0.b' and 'a.w.b'")));
}

std::string WithPrefix(absl::string_view base, std::vector<std::string> model,
                       absl::string_view key, std::vector<Rule> rules = {}) {
  absl::StatusOr<Renamer> renamer = Renamer::Create(rules, Newest(), true, base);
  if (!renamer.ok()) return renamer.status().ToString();
  const auto in_model = [&](absl::string_view name) {
    return std::find(model.begin(), model.end(), name) != model.end();
  };
  const absl::StatusOr<RenamedKey> renamed = renamer->Rename(key, in_model);
  return renamed.ok() ? renamed->with_prefix : renamed.status().ToString();
}

TEST(RenamerTest, BasePrefixIsStrippedOrAddedWhereTheModelHasTheName) {
  const std::vector<std::string> model = {"model.lin.weight", "head.weight", "weight"};
  EXPECT_EQ(WithPrefix("model", model, "lin.weight"), "model.lin.weight");
  EXPECT_EQ(WithPrefix("model", model, "model.head.weight"), "head.weight");
  EXPECT_EQ(WithPrefix("model", model, "model.model.lin.weight"), "model.lin.weight");
  EXPECT_EQ(WithPrefix("model", model, "modelXhead.weight"), "head.weight");
  EXPECT_EQ(WithPrefix("model", model, "modelhead.weight"), "modelhead.weight");
  EXPECT_EQ(WithPrefix("", model, "xweight"), "weight");
}

TEST(RenamerTest, ANameThatOnlyTheModelKnowsIsRescued) {
  const std::vector<Rule> rules = {Rename({"a"}, {"b"})};
  EXPECT_EQ(WithPrefix("m", {"a.w"}, "a.w", rules), "a.w");
  EXPECT_EQ(WithPrefix("m", {"b.w", "a.w"}, "a.w", rules), "b.w");
  EXPECT_EQ(WithPrefix("m", {"m.b.w"}, "a.w", rules), "m.b.w");
}

TEST(RenamerTest, RenamesChainAndOneConversionMatches) {
  const std::vector<Rule> rules = {ConvertRule({"c.w"}, {"d"}), Rename({"a"}, {"b"}),
                                   Rename({"b"}, {"c"}), ConvertRule({"d"}, {"e"})};
  EXPECT_EQ(WithPrefix("m", {}, "a.w", rules), "d");
}

TEST(RenamerTest, ASharedSourcePatternRunsTheLastConversion) {
  const std::vector<Rule> rules = {ConvertRule({"a"}, {"b"}), ConvertRule({"a"}, {"c"})};
  absl::StatusOr<Renamer> renamer = Renamer::Create(rules, Newest(), false, "");
  ASSERT_THAT(renamer, IsOk());
  const absl::StatusOr<RenamedKey> renamed =
      renamer->Rename("a", [](absl::string_view) { return false; });
  ASSERT_THAT(renamed, IsOk());
  EXPECT_EQ(renamed->renamed, "b");
  EXPECT_EQ(renamed->rule, 0);
  EXPECT_EQ(renamed->owner, 1);
}

}  // namespace
}  // namespace zerocast
