#include "server/config/diff.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/config/content_hash.h"
#include "server/config/json_reader.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

ConfigValue Read(absl::string_view text) {
  const auto document = ReadJson(text, "test");
  EXPECT_THAT(document, IsOk()) << text.substr(0, 100);
  return document.ok() ? document->value : ConfigValue();
}

std::vector<std::string> Diff(absl::string_view before, absl::string_view after) {
  std::vector<std::string> lines;
  for (const ConfigDifference& difference : DiffConfigs(Read(before), Read(after))) {
    constexpr const char* kKinds[] = {"added", "removed", "changed", "type_changed"};
    lines.push_back(absl::StrCat(difference.path, " ", kKinds[static_cast<int>(difference.kind)],
                                 ": ", difference.before, " -> ", difference.after));
  }
  return lines;
}

TEST(DiffConfigs, IsEmptyWhereTheMeaningIsTheSame) {
  EXPECT_THAT(Diff(R"({"a": {"x": 1, "y": [1, 2]}, "b": 5e8, "n": NaN})",
                   R"({"n": NaN, "b": 500000000.0, "a": {"y": [1, 2], "x": 1}})"),
              IsEmpty());
}

TEST(DiffConfigs, NamesWhatIsAddedRemovedAndChangedByPath) {
  EXPECT_THAT(
      Diff(R"({"zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}},
                       "fp16": {"enabled": true}, "x": 1})",
           R"({"bf16": {"enabled": true}, "zero_optimization": {"stage": 3, "y": null},
                       "x": 1})"),
      ElementsAre("zero_optimization.stage changed: 2 -> 3",
                  "zero_optimization.offload_param removed: {\"device\": \"cpu\"} -> ",
                  "zero_optimization.y added:  -> null", "fp16 removed: {\"enabled\": true} -> ",
                  "bf16 added:  -> {\"enabled\": true}"));
}

TEST(DiffConfigs, TellsTypesApartThatPythonTakesForEqual) {
  EXPECT_THAT(Diff(R"({"a": 1, "b": 1, "c": 1.0, "d": null, "e": {}, "f": 0.0})",
                   R"({"a": 1.0, "b": true, "c": 2.0, "d": 0, "e": [], "f": -0.0})"),
              ElementsAre("a type_changed: 1 -> 1.0", "b type_changed: 1 -> true",
                          "c changed: 1.0 -> 2.0", "d type_changed: null -> 0",
                          "e type_changed: {} -> []", "f changed: 0.0 -> -0.0"));
}

TEST(DiffConfigs, ComparesShortListsByElementAndLongOnesAsAWhole) {
  EXPECT_THAT(Diff(R"({"betas": [0.9, 0.999, [1]]})", R"({"betas": [0.9, 0.95]})"),
              ElementsAre("betas[1] changed: 0.999 -> 0.95", "betas[2] removed: [1] -> "));
  EXPECT_THAT(Diff(R"({"a": [{"x": 1}]})", R"({"a": [{"x": 2}, 3]})"),
              ElementsAre("a[0].x changed: 1 -> 2", "a[1] added:  -> 3"));
  const std::string sixteen = "[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]";
  const std::string seventeen = "[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]";
  EXPECT_THAT(
      Diff(absl::StrCat("{\"a\":", sixteen, "}"), absl::StrCat("{\"a\":", seventeen, "}")),
      ElementsAre(absl::StrCat("a changed: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0] "
                               "-> ",
                               seventeen)));
}

TEST(DiffConfigs, ComparesValuesThatAreNoObjects) {
  EXPECT_THAT(Diff("[1]", "[2]"), ElementsAre(" changed: [1] -> [2]"));
  EXPECT_THAT(Diff("{}", "null"), ElementsAre(" type_changed: {} -> null"));
  EXPECT_THAT(Diff("[]", "[]"), IsEmpty());
}

TEST(DiffConfigs, ReportsASectionAsAWholeWhereThePathsWouldFillTheAnswer) {
  std::string before = "{\"a\": 1, \"", after = before;
  const std::string key(200'000, 'k');
  for (std::string* text : {&before, &after}) absl::StrAppend(text, key, "\": {\"z\": 0");
  for (int i = 0; i < 1000; ++i) {
    absl::StrAppend(&before, ", \"", i, "\": 1");
    absl::StrAppend(&after, ", \"", i, "\": 2");
  }
  for (std::string* text : {&before, &after}) absl::StrAppend(text, "}, \"b\": ");
  const auto differences = DiffConfigs(Read(before + "1}"), Read(after + "2}"));
  ASSERT_EQ(differences.size(), 2u);
  EXPECT_EQ(differences[0].path, key);
  EXPECT_EQ(differences[0].before.substr(0, 7), "{\"z\": 0");
  EXPECT_EQ(differences[1].path, "b");
}

// Random values: a difference is found where and only where the hashes differ.
TEST(DiffConfigs, AgreesWithTheContentHash) {
  const char* given = std::getenv("ZC_SEED");
  const unsigned seed = given == nullptr ? std::random_device()() : std::atoi(given);
  std::printf("ZC_SEED=%u\n", seed);
  std::mt19937 random(seed);
  const auto pick = [&random](int n) { return static_cast<int>(random() % n); };
  const std::function<ConfigValue(int)> make = [&](int depth) -> ConfigValue {
    switch (pick(depth == 0 ? 5 : 8)) {
      case 0:
        return ConfigValue(pick(3));
      case 1:
        return ConfigValue(pick(3) * 1.0);
      case 2:
        return ConfigValue(pick(2) == 0);
      case 3:
        return ConfigValue("auto");
      case 4:
        return ConfigValue();
      case 5: {
        ConfigValue::Array array;
        for (int i = pick(4); i > 0; --i) array.push_back(make(depth - 1));
        return ConfigValue(std::move(array));
      }
      default: {
        ConfigValue object{ConfigValue::Object()};
        for (int i = pick(4); i > 0; --i)
          object.Set(std::string(1, 'a' + pick(4)), make(depth - 1));
        return object;
      }
    }
  };
  int equal = 0;
  for (int i = 0; i < 20'000; ++i) {
    const ConfigValue a = make(2), b = make(2);
    const bool same = ContentHash(a) == ContentHash(b);
    equal += same ? 1 : 0;
    ASSERT_EQ(DiffConfigs(a, b).empty(), same) << WriteJson(a) << " " << WriteJson(b);
  }
  EXPECT_GT(equal, 100);
}

}  // namespace
}  // namespace zerocast
