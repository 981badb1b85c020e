// All rules over one key: chains, the base prefix, the rescue, and what keys of one shape share.

#include "server/conversion/rename.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "server/conversion/convert.h"
#include "tests/made_rules.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using ::testing::ElementsAre;

// A model with a base prefix, and rules.
struct Names {
  std::string base;
  std::vector<std::string> model;
  std::vector<Rule> rules;
  Dialect dialect = Newest();

  RenamedKey Look(absl::string_view key) const {
    absl::StatusOr<Renamer> renamer = Renamer::Create(rules, dialect, true, base);
    EXPECT_THAT(renamer, IsOk());
    if (!renamer.ok()) return {};
    const auto in_model = [&](absl::string_view name) {
      return std::find(model.begin(), model.end(), name) != model.end();
    };
    const absl::StatusOr<RenamedKey> renamed = renamer->Rename(key, in_model);
    EXPECT_THAT(renamed, IsOk());
    return renamed.ok() ? *renamed : RenamedKey();
  }
  std::string operator()(absl::string_view key) const { return Look(key).with_prefix; }
};

// What the keys become, one after the other in one load.
std::vector<std::string> RenamedInTurn(const std::vector<Rule>& rules,
                                       const std::vector<std::string>& keys,
                                       const Dialect& dialect = Newest()) {
  absl::StatusOr<Renamer> renamer = Renamer::Create(rules, dialect, false, "");
  EXPECT_THAT(renamer, IsOk());
  std::vector<std::string> result;
  for (const std::string& key : keys) {
    const absl::StatusOr<RenamedKey> renamed =
        renamer->Rename(key, [](absl::string_view) { return false; });
    result.push_back(renamed.ok() ? renamed->renamed : renamed.status().ToString());
  }
  return result;
}

TEST(RenamerTest, BasePrefixIsStrippedOrAddedWhereTheModelHasTheName) {
  for (const Dialect& dialect : {Newest(), Oldest()}) {
    const std::vector<std::string> model = {"model.lin.weight", "head.weight", "weight"};
    const Names names{"model", model, {}, dialect};
    EXPECT_EQ(names("lin.weight"), "model.lin.weight");
    EXPECT_EQ(names("model.head.weight"), "head.weight");
    EXPECT_EQ(names("model.model.lin.weight"), "model.lin.weight");
    EXPECT_EQ(names("modelXhead.weight"), "head.weight");
    EXPECT_EQ(names("modelhead.weight"), "modelhead.weight");
    EXPECT_EQ((Names{"", model, {}, dialect}("xweight")), "weight");
    EXPECT_EQ(names("other.weight"), "other.weight") << "neither is in the model";
    EXPECT_EQ(names("model.other"), "model.other") << "neither is in the model";
  }
}

TEST(RenamerTest, BasePrefixIsStrippedBeforeItIsAdded) {
  const Names names{"model", {"head", "model.model.head"}, {}};
  EXPECT_EQ(names("model.head"), "head");
}

TEST(RenamerTest, BasePrefixIsAddedToANameThatBeginsWithIt) {
  const Names names{"model", {"model.modelling.w", "model.model"}, {}};
  EXPECT_EQ(names("modelling.w"), "model.modelling.w");
  EXPECT_EQ(names("model"), "model.model");
}

TEST(RenamerTest, BasePrefixIsAPattern) {
  const Names names{"a.b", {"w"}, {}};
  EXPECT_EQ(names("a.b.w"), "w");
  EXPECT_EQ(names("aXb.w"), "aXb.w") << "it is looked for as text, and stripped as a pattern";
}

TEST(RenamerTest, BasePrefixStepComesAfterTheRules) {
  const Names names{"model", {"model.b"}, {MakeRename({"^a$"}, {"b"})}};
  EXPECT_EQ(names("a"), "model.b");
  EXPECT_EQ(names.Look("a").renamed, "b");
}

TEST(RenamerTest, ANameThatOnlyTheModelKnowsIsRescued) {
  const std::vector<Rule> rules = {MakeRename({"a"}, {"b"})};
  EXPECT_EQ((Names{"m", {"a.w"}, rules}("a.w")), "a.w");
  EXPECT_EQ((Names{"m", {"b.w", "a.w"}, rules}("a.w")), "b.w");
  EXPECT_EQ((Names{"m", {"m.b.w"}, rules}("a.w")), "m.b.w");
  EXPECT_EQ((Names{"m", {}, rules}("a.w")), "b.w") << "neither is in the model";
  EXPECT_EQ((Names{"m", {"m.a.w"}, rules}("a.w")), "b.w") << "the original name itself must be";
}

TEST(RenamerTest, TheOldDialectDoesNotRescue) {
  EXPECT_EQ((Names{"m", {"a.w"}, {MakeRename({"a"}, {"b"})}, Oldest()}("a.w")), "b.w");
}

TEST(RenamerTest, ARescuedNameHasNoConversion) {
  const Names names{"m", {"a.w"}, {MakeConvert({"a"}, {"b"})}};
  const RenamedKey key = names.Look("a.w");
  EXPECT_EQ(key.with_prefix, "a.w");
  EXPECT_EQ(key.rule, -1);
  EXPECT_EQ(key.source, -1);
  EXPECT_EQ(key.owner, -1);
}

TEST(RenamerTest, ARescuedNameGoesThroughTheBasePrefixStep) {
  const Names names{"m", {"m.w", "w"}, {MakeRename({"^m"}, {"q"})}};
  EXPECT_EQ(names("m.w"), "w");
}

TEST(RenamerTest, RenamesChainAndOneConversionMatches) {
  const std::vector<Rule> rules = {MakeConvert({"c.w"}, {"d"}), MakeRename({"a"}, {"b"}),
                                   MakeRename({"b"}, {"c"}), MakeConvert({"d"}, {"e"})};
  EXPECT_EQ((Names{"m", {}, rules}("a.w")), "d");
}

TEST(RenamerTest, ASharedSourcePatternRunsTheLastConversion) {
  const Names names{"m", {}, {MakeConvert({"a"}, {"b"}), MakeConvert({"a"}, {"c"})}};
  const RenamedKey key = names.Look("a");
  EXPECT_EQ(key.renamed, "b");
  EXPECT_EQ(key.rule, 0);
  EXPECT_EQ(key.owner, 1);
}

TEST(RenamerTest, KeysOfOneShapeAreRenamedWithinTheirScope) {
  Rule rule = MakeRename({"^fc\\.(\\d+)"}, {"proj.\\1.out"});
  rule.has_scope = true;
  rule.scope_prefix = "vision";
  rule.scope_base = "model";
  EXPECT_THAT(RenamedInTurn({rule}, {"model.vision.fc.1.w", "model.vision.fc.2.w", "vision.fc.1.w",
                                     "vision.fc.7.w", "fc.1.w", "fc.7.w"}),
              ElementsAre("model.vision.proj.1.out.w", "model.vision.proj.2.out.w",
                          "vision.proj.1.out.w", "vision.proj.7.out.w", "fc.1.w", "fc.7.w"));
}

TEST(RenamerTest, AScopeTellsNumbersApart) {
  Rule rule = MakeRename({"fc"}, {"proj"});
  rule.has_scope = true;
  rule.scope_prefix = "towers.0";
  EXPECT_THAT(RenamedInTurn({rule}, {"towers.0.fc", "towers.1.fc", "towers.0.fc"}),
              ElementsAre("towers.0.proj", "towers.1.fc", "towers.0.proj"));
}

TEST(RenamerTest, KeysOfOneShapeWaitForTheGuardEachByItself) {
  Rule rule = MakeRename({"b.(\\d+).norm0", "b.(\\d+).norm1"}, {"b.\\1.norm1", "b.\\1.norm2"});
  rule.kind = RuleKind::kRenameGroup;
  EXPECT_THAT(RenamedInTurn({rule}, {"b.1.norm1", "b.2.norm0", "b.3.norm1", "b.4.norm0"}),
              ElementsAre("b.1.norm1", "b.2.norm1", "b.3.norm2", "b.4.norm1"));
}

TEST(RenamerTest, TheGuardIsThatOfOneLoad) {
  Rule rule = MakeRename({"norm0", "norm1"}, {"norm1", "norm2"});
  rule.kind = RuleKind::kRenameGroup;
  EXPECT_THAT(RenamedInTurn({rule}, {"norm0", "norm1"}), ElementsAre("norm1", "norm2"));
  EXPECT_THAT(RenamedInTurn({rule}, {"norm1"}), ElementsAre("norm1"));
}

TEST(RenamerTest, KeysOfOneShapeAreShiftedEachByItself) {
  Rule rule = MakeRename({"q\\.(\\d+)"}, {"layers.\\1.q"});
  rule.kind = RuleKind::kRenameIndex;
  rule.offset = 1;
  EXPECT_THAT(RenamedInTurn({rule}, {"q.3.w", "q.8.w", "q.9.w"}),
              ElementsAre("layers.4.q.w", "layers.9.q.w", "layers.10.q.w"));
}

TEST(RenamerTest, KeysOfOneShapeReplaceTheTextWhereverItOccurs) {
  const std::vector<Rule> rules = {MakeRename({"x.\\d+"}, {"y"})};
  const std::vector<std::string> keys = {"x.1.x.2", "x.1.x.1", "x.3.x.3", "x.3.x.4"};
  EXPECT_THAT(RenamedInTurn(rules, keys), ElementsAre("y.x.2", "y.x.1", "y.x.3", "y.x.4"));
  EXPECT_THAT(RenamedInTurn(rules, keys, Oldest()), ElementsAre("y.x.2", "y.y", "y.y", "y.x.4"));
}

}  // namespace
}  // namespace zerocast
