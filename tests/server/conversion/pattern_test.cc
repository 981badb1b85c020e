// Each test fails when the one property it is named after is taken out of the matcher.

#include "server/conversion/pattern.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "server/conversion/convert.h"
#include "server/conversion/natural_key.h"
#include "tests/made_rules.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

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
  EXPECT_EQ(Apply(MakeRename({"a.b"}, {"c"}), Newest(), "aXb"), "c");
  EXPECT_EQ(Apply(MakeRename({"a\\.b"}, {"c"}), Newest(), "aXb"), "aXb");
  EXPECT_EQ(Apply(MakeRename({"a\\.b"}, {"c"}), Newest(), "a.b"), "c");
}

TEST(PatternTest, AnchorsHold) {
  const Rule rule = MakeRename({"^model\\.x$"}, {"y"});
  EXPECT_EQ(Apply(rule, Newest(), "model.x"), "y");
  EXPECT_EQ(Apply(rule, Newest(), "a.model.x"), "a.model.x");
  EXPECT_EQ(Apply(rule, Newest(), "model.x.b"), "model.x.b");
}

TEST(PatternTest, SourceTakesOverTheAnchorOfItsTarget) {
  const Rule rule = MakeRename({"layers"}, {"^model"});
  EXPECT_EQ(Apply(rule, Newest(), "layers.0"), "model.0");
  EXPECT_EQ(Apply(rule, Newest(), "a.layers.0"), "a.layers.0");
  EXPECT_EQ(Apply(rule, Oldest(), "a.layers.0"), "a.model.0");
  EXPECT_EQ(Apply(MakeRename({"layers", "blocks"}, {"^model"}), Newest(), "a.layers.0"),
            "a.model.0")
      << "only where each source has its target";
  EXPECT_THAT(ProcessPatterns(MakeRename({"^a"}, {"^b"}), Newest())->sources, ElementsAre("^a"));
}

TEST(PatternTest, SourceEndsAtAWordBoundaryInTheNewDialect) {
  const Rule rule = MakeRename({"gate_proj.weight"}, {"up"});
  EXPECT_EQ(Apply(rule, Newest(), "7.gate_proj.weight_scale_inv"), "7.gate_proj.weight_scale_inv");
  EXPECT_EQ(Apply(rule, Newest(), "7.gate_proj.weight"), "7.up");
  EXPECT_EQ(Apply(rule, Newest(), "7.gate_proj.weight\xc3\xa9"), "7.gate_proj.weight\xc3\xa9")
      << "a letter beyond ASCII is a word character";
  EXPECT_EQ(Apply(rule, Oldest(), "7.gate_proj.weight_scale_inv"), "7.up_scale_inv");
  EXPECT_EQ(Apply(MakeRename({"hc_"}, {"h."}), Newest(), "hc_fn"), "h.fn")
      << "a source that ends with _ is the start of a name";
}

TEST(PatternTest, ANumberIsNotTheStartOfALongerOneInTheNewDialect) {
  const Rule rule = MakeRename({"layers.1", "blocks.w2"}, {"x"});
  EXPECT_EQ(Apply(rule, Newest(), "layers.1.w"), "x.w");
  EXPECT_EQ(Apply(rule, Newest(), "layers.10.w"), "layers.10.w");
  EXPECT_EQ(Apply(rule, Newest(), "blocks.w2.w"), "x.w");
  EXPECT_EQ(Apply(rule, Newest(), "blocks.w20.w"), "blocks.w20.w") << "each branch is bounded";
  EXPECT_EQ(Apply(rule, Oldest(), "layers.10.w"), "x0.w");
  EXPECT_EQ(Apply(MakeRename({"layers\\."}, {"l."}), Newest(), "layers.1.w"), "l.1.w")
      << "a source that ends with a dot is the start of a name";
}

TEST(PatternTest, LongestBranchComesFirstInTheNewDialect) {
  for (const auto& [dialect, want] : {std::pair(Newest(), 1), std::pair(Oldest(), 0)}) {
    absl::StatusOr<CompiledRule> compiled =
        CompiledRule::Create(MakeConvert({"x.up", "x.up.w"}, {"t"}), dialect);
    ASSERT_THAT(compiled, IsOk());
    std::string key = "x.up.w";
    EXPECT_EQ(compiled->Rename(&key).value(), want) << dialect.version;
  }
}

TEST(PatternTest, BranchesOfOneLengthComeAsDeclared) {
  for (const Dialect& dialect : {Newest(), Oldest()}) {
    for (const auto& sources : {std::vector<std::string>{"x.up.a", "x.up.."},
                                std::vector<std::string>{"x.up..", "x.up.a"}}) {
      absl::StatusOr<CompiledRule> compiled =
          CompiledRule::Create(MakeConvert(sources, {"t"}), dialect);
      ASSERT_THAT(compiled, IsOk());
      std::string key = "x.up.a";
      EXPECT_EQ(compiled->Rename(&key).value(), 0) << sources[0];
    }
  }
}

TEST(PatternTest, TheLengthOfABranchIsThatOfItsCharacters) {
  absl::StatusOr<CompiledRule> compiled =
      CompiledRule::Create(MakeConvert({"\xc3\xa9\xc3\xa9", "..."}, {"t"}), Newest());
  ASSERT_THAT(compiled, IsOk());
  std::string key = "\xc3\xa9\xc3\xa9z";
  EXPECT_EQ(compiled->Rename(&key).value(), 1) << "three characters, though fewer bytes";
}

TEST(PatternTest, OnlyTheFirstOccurrenceOfTheTextIsReplacedInTheNewDialect) {
  const Rule rule = MakeRename({"a.b"}, {"c"});
  EXPECT_EQ(Apply(rule, Newest(), "a.b.a.b"), "c.a.b");
  EXPECT_EQ(Apply(rule, Oldest(), "a.b.a.b"), "c.c");
}

TEST(PatternTest, TheTextIsReplacedWhereItFirstOccursNotWhereItMatched) {
  const Rule rule = MakeRename({"(?<!x\\.)w"}, {"v"});
  EXPECT_EQ(Apply(rule, Newest(), "x.w.w"), "x.v.w");
}

TEST(PatternTest, AnEmptyMatchReplacesAsPythonDoes) {
  EXPECT_EQ(Apply(MakeRename({"(?!x)"}, {"-"}), Newest(), "ab"), "-ab");
  EXPECT_EQ(Apply(MakeRename({"(?!x)"}, {"-"}), Oldest(), "a\xc3\xa9"), "-a-\xc3\xa9-");
}

TEST(PatternTest, WildcardsDifferByDialect) {
  const Rule rule = MakeRename({".experts.*.w1"}, {".x"});
  EXPECT_EQ(Apply(rule, Newest(), "m.experts.12.w1"), "m.x");
  EXPECT_EQ(Apply(rule, Oldest(), "m.experts.12.w1"), "m.x");
  EXPECT_EQ(Apply(rule, Newest(), "m.experts.w1"), "m.experts.w1");
}

TEST(PatternTest, BackReferenceTakesTheGroupOfTheBranchThatMatched) {
  const Rule rule = MakeRename({"a_(\\d+)", "bb_(\\w)_"}, {"t.\\1"});
  EXPECT_EQ(Apply(rule, Newest(), "x.a_17"), "x.t.17");
  EXPECT_EQ(Apply(rule, Newest(), "x.bb_q_"), "x.t.q");
  EXPECT_EQ(Apply(MakeRename({"a_(\\d+)"}, {"\\1.t.\\1"}), Newest(), "x.a_17"), "x.17.t.17");
}

TEST(PatternTest, TargetIsProcessedAsForReversal) {
  const ProcessedPatterns patterns =
      ProcessPatterns(MakeRename({"pre.\\1"}, {"^(?!model)a\\.(x|y)"}), Newest()).value();
  EXPECT_THAT(patterns.targets, ElementsAre("a.\\1"));
  EXPECT_THAT(patterns.sources, ElementsAre("^pre.(x|y)"));
  EXPECT_THAT(ProcessPatterns(MakeRename({"a"}, {"b$"}), Newest())->targets, ElementsAre("b$"));
  EXPECT_THAT(ProcessPatterns(MakeRename({"a"}, {"b$"}), Oldest())->targets, ElementsAre("b"));
  EXPECT_THAT(ProcessPatterns(MakeRename({"a"}, {"(?!x)b(?!y)c"}), Newest())->targets,
              ElementsAre("bc"));
  EXPECT_THAT(ProcessPatterns(MakeRename({"a"}, {"(?!x)b(?!y)c"}), Oldest())->targets,
              ElementsAre("c"));
}

TEST(PatternTest, ScopeIsTakenOffAndPutBack) {
  Rule rule = MakeRename({"^fc"}, {"proj"});
  rule.has_scope = true;
  rule.scope_prefix = "vision";
  rule.scope_base = "model";
  EXPECT_EQ(Apply(rule, Newest(), "model.vision.fc.w"), "model.vision.proj.w");
  EXPECT_EQ(Apply(rule, Newest(), "vision.fc.w"), "vision.proj.w");
  EXPECT_EQ(Apply(rule, Newest(), "fc.w"), "fc.w");
  EXPECT_EQ(Apply(rule, Newest(), "text.fc.w"), "text.fc.w");
  rule.scope_prefix = "";
  EXPECT_EQ(Apply(rule, Newest(), "fc.w"), "proj.w");
  EXPECT_EQ(Apply(rule, Newest(), "model.fc.w"), "model.proj.w") << "with the base first";
}

TEST(PatternTest, AScopeEndsAtADot) {
  Rule rule = MakeRename({"fc"}, {"proj"});
  rule.has_scope = true;
  rule.scope_prefix = "vision";
  rule.scope_base = "model";
  for (const Dialect& dialect : {Newest(), Oldest()}) {
    EXPECT_EQ(Apply(rule, dialect, "vision.fc"), "vision.proj");
    EXPECT_EQ(Apply(rule, dialect, "visionary.fc"), "visionary.fc");
    EXPECT_EQ(Apply(rule, dialect, "modelvision.fc"), "modelvision.fc");
    EXPECT_EQ(Apply(rule, dialect, "x.vision.fc"), "x.vision.fc");
  }
}

TEST(PatternTest, TheScopeIsNotSearched) {
  Rule rule = MakeRename({"fc"}, {"proj"});
  rule.has_scope = true;
  rule.scope_prefix = "fc";
  EXPECT_EQ(Apply(rule, Newest(), "fc.fc.w"), "fc.proj.w");
  EXPECT_EQ(Apply(rule, Newest(), "fc.w"), "fc.w");
}

TEST(PatternTest, PrefixIsRemovedOrAddedOnce) {
  Rule remove;
  remove.kind = RuleKind::kPrefix;
  remove.prefix_remove = "language_model";
  remove.under = "model";
  EXPECT_EQ(Apply(remove, Newest(), "model.language_model.w"), "model.w");
  EXPECT_EQ(Apply(remove, Newest(), "language_model.w"), "language_model.w");
  EXPECT_EQ(Apply(remove, Newest(), "x.model.language_model.w"), "x.model.language_model.w");
  Rule add;
  add.kind = RuleKind::kPrefix;
  add.prefix_add = "timm";
  EXPECT_EQ(Apply(add, Newest(), "w.x"), "timm.w.x");
  EXPECT_EQ(Apply(add, Newest(), "timm.w.x"), "timm.w.x");
  EXPECT_EQ(Apply(add, Newest(), "timmy.w.x"), "timm.timmy.w.x");
}

TEST(PatternTest, GroupRenameWaitsForItsGuard) {
  Rule rule = MakeRename({"b.(\\d+).norm0", "b.(\\d+).norm1"}, {"b.\\1.norm1", "b.\\1.norm2"});
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
  EXPECT_EQ(apply("b.5.norm1"), "b.5.norm2") << "and stays active";
}

TEST(PatternTest, AGroupRenameTakesTheGroupsOfItsBranch) {
  Rule rule = MakeRename({"a.(\\d+)", "(q|k)_(\\d+)"}, {"b.\\1", "layers.\\2.\\1"});
  rule.kind = RuleKind::kRenameGroup;
  absl::StatusOr<CompiledRule> compiled = CompiledRule::Create(rule, Newest());
  ASSERT_THAT(compiled, IsOk()) << compiled.status();
  std::string guard = "a.7", key = "x.k_12.w";
  ASSERT_THAT(compiled->Rename(&guard), IsOk());
  EXPECT_EQ(guard, "b.7");
  ASSERT_THAT(compiled->Rename(&key), IsOk());
  EXPECT_EQ(key, "x.layers.12.k.w");
}

TEST(PatternTest, IndexIsShifted) {
  Rule rule = MakeRename({"q\\.(\\d+)"}, {"layers.\\1.q"});
  rule.kind = RuleKind::kRenameIndex;
  rule.offset = 1;
  EXPECT_EQ(Apply(rule, Newest(), "q.9.w"), "layers.10.q.w");
  EXPECT_THAT(Apply(rule, Newest(), "q.99999999999999999999.w"), HasSubstr("index"));
}

TEST(PatternTest, RefusesRulesOfABadForm) {
  const auto invalid = [](absl::string_view text) {
    return StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(std::string(text)));
  };
  EXPECT_THAT(CompileStatus(MakeRename({"a("}, {"b"})), invalid("a("));
  EXPECT_THAT(CompileStatus(MakeConvert({"a", "b"}, {"c", "d"})), invalid("one to many"));
  Rule rule = MakeConvert({"a"}, {"b"});
  rule.ops.clear();
  EXPECT_THAT(CompileStatus(rule), invalid("operation"));
  EXPECT_THAT(CompileStatus(MakeRename({"a"}, {"(b|c)", "(d|e)"})), invalid("capture group"));
  EXPECT_THAT(CompileStatus(MakeRename({"a\\1"}, {"b"})), invalid("\\1"));
  EXPECT_THAT(CompileStatus(MakeRename({}, {"b"})), invalid("source"));
  Rule group = MakeRename({"a", "b"}, {"c"});
  group.kind = RuleKind::kRenameGroup;
  EXPECT_THAT(CompileStatus(group), invalid("as many targets"));
  Rule prefix;
  prefix.kind = RuleKind::kPrefix;
  EXPECT_THAT(CompileStatus(prefix), invalid("exactly one"));
  EXPECT_THAT(Apply(MakeRename({"a"}, {"b\\1"}), Newest(), "xa"), HasSubstr("group"));
}

TEST(PatternTest, ACatastrophicPatternEndsAtTheMatchLimit) {
  absl::StatusOr<CompiledRule> compiled =
      CompiledRule::Create(MakeRename({"(\\w+\\w+)+\\.$"}, {"b"}), Newest());
  ASSERT_THAT(compiled, IsOk());
  std::string key = std::string(60, 'a') + ".x";
  EXPECT_THAT(compiled->Rename(&key),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr(key), HasSubstr("match limit exceeded"))));
}

TEST(PatternTest, AKeyThatIsNotUtf8IsRefused) {
  EXPECT_THAT(Apply(MakeRename({"[a]"}, {"b"}), Newest(), "a\xff"), HasSubstr("UTF-8"));
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
  EXPECT_THAT(Sorted({"l.shard2", "l.shard.z"}, Newest()), ElementsAre("l.shard.z", "l.shard2"))
      << "a text without a number first, whatever follows it";
}

TEST(NaturalKeyTest, EqualKeysKeepTheirOrder) {
  EXPECT_THAT(Sorted({"a.01.x", "a.1.x"}, Newest()), ElementsAre("a.01.x", "a.1.x"));
  EXPECT_THAT(Sorted({"a.1.x", "a.01.x"}, Newest()), ElementsAre("a.1.x", "a.01.x"));
  EXPECT_THAT(Sorted({"a.1.z", "a.01.b"}, Newest()), ElementsAre("a.01.b", "a.1.z"));
  // More than any sort's shortcut for a few.
  std::vector<std::string> equal;
  for (const int zeros : {40, 7, 0, 63, 12, 33}) {
    for (int i = 0; i < 10; ++i) {
      equal.push_back("a." + std::string((zeros + 11 * i) % 100, '0') + "1");
    }
  }
  EXPECT_EQ(Sorted(equal, Newest()), equal);
  EXPECT_EQ(Sorted(equal, Oldest()), equal);
}

TEST(NaturalKeyTest, TheOldDialectCannotCompareANumberWithAText) {
  const std::vector<absl::string_view> keys = {"a.w.b", "z", "a.0.b"};
  EXPECT_THAT(NaturalOrder(keys, Oldest()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("'a.0.b' and 'a.w.b'")));
  EXPECT_THAT(Sorted({"b.0", "a.w"}, Oldest()), ElementsAre("a.w", "b.0"))
      << "behind the first difference nothing is compared";
}

}  // namespace
}  // namespace zerocast
