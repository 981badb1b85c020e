// What is wrong with rules or with a checkpoint's tensors is told with the rule, the key and its
// file.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/base/errors.h"
#include "server/conversion/convert.h"
#include "server/conversion/explain.h"
#include "tests/made_rules.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

using Shape = std::vector<int64_t>;

constexpr char kExperts[] = "rule [e.*.gate, e.*.up] -> [e.gate_up]";

// A checkpoint of several files: each tensor comes with its own.
class BadInputTest : public ::testing::Test {
 protected:
  BadInputTest() { rules_.dialect = Newest(); }

  void Source(const std::string& name, const Shape& shape, const std::string& file) {
    sources_.push_back({name, DType::kBFloat16, shape});
    files_.push_back(file);
  }
  void Model(const std::string& name, const Shape& shape) {
    model_.push_back({name, shape, DType::kBFloat16});
  }
  void Experts() {
    rules_.rules = {MakeConvert({"e.*.gate", "e.*.up"}, {"e.gate_up"},
                                {MakeOp(OpKind::kStack), MakeOp(OpKind::kCat, 1)})};
  }
  // Experts in files "0" to "9", by number; `absent` is left out.
  void Expert(int number, const std::string& absent = "") {
    for (const char* part : {"gate", "up"}) {
      if (absent != part) {
        Source(absl::StrCat("e.", number, ".", part), {1, 2}, absl::StrCat(number, ".safetensors"));
      }
    }
  }
  absl::StatusOr<Conversion> Run() {
    ConversionInput input;
    input.sources = sources_;
    input.rules = &rules_;
    input.model = model_;
    input.any_name = model_.empty();
    input.file_of = [this](int32_t source) { return files_.at(source); };
    return Convert(input);
  }
  // The message of the only error, of `target`; nothing of the target is made.
  std::string OnlyError(const std::string& target) {
    const absl::StatusOr<Conversion> conversion = Run();
    if (!conversion.ok()) return conversion.status().ToString();
    for (const ConvertedTensor& tensor : conversion->tensors) EXPECT_NE(tensor.name, target);
    if (conversion->errors.size() != 1) return absl::StrCat(conversion->errors.size(), " errors");
    EXPECT_EQ(conversion->errors[0].target, target);
    return conversion->errors[0].message;
  }

  ConversionRules rules_;
  std::vector<SourceTensor> sources_;
  std::vector<std::string> files_;
  std::vector<SpecTensor> model_;
};

TEST_F(BadInputTest, RulesOfABadFormAreNamed) {
  const auto refused = [this](Rule rule, const std::string& name, const std::string& why) {
    rules_.rules = {MakeRename({"fine"}, {"fine"}), std::move(rule)};
    EXPECT_THAT(Run(),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         AllOf(HasSubstr("transforms[1]"), HasSubstr(name), HasSubstr(why))));
    EXPECT_EQ(ReasonOf(Run().status()), "CONVERSION_FAILED");
  };
  const Op cat = MakeOp(OpKind::kCat);
  refused(MakeRename({"a("}, {"b"}), "rule [a(] -> [b]", "missing closing parenthesis at offset");
  refused(MakeConvert({"a", "b"}, {"c", "d"}, {cat}), "rule [a, b] -> [c, d]", "one to many");
  refused(MakeConvert({"a"}, {"b"}, {}), "rule [a] -> [b]", "needs at least one operation");
  refused(MakeRename({"a"}, {"(b|c)", "(d|e)"}), "rule [a] -> [(b|c), (d|e)]",
          "different capture groups, (b|c) and (d|e)");
}

TEST_F(BadInputTest, ACatastrophicPatternIsNamedWithKeyAndFile) {
  const std::string key = std::string(60, 'a') + ".x";
  Source("fine", {1}, "one.safetensors");
  Source(key, {1}, "two.safetensors");
  rules_.rules = {MakeRename({"(\\w+\\w+)+\\.$"}, {"b"})};
  EXPECT_THAT(Run(),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr(absl::StrCat("rename '", key, "' in two.safetensors")),
                             HasSubstr("rule [(\\w+\\w+)+\\.$] -> [b]"), HasSubstr("limit"))));
  EXPECT_EQ(ReasonOf(Run().status()), "CONVERSION_FAILED");
}

TEST_F(BadInputTest, APieceMissingInTheMiddleIsNamed) {
  Experts();
  for (const int number : {0, 1, 2, 3}) Expert(number, number == 2 ? "up" : "");
  Model("e.gate_up", {4, 2, 2});
  EXPECT_THAT(OnlyError("e.gate_up"),
              AllOf(HasSubstr("Expected size 4 but got size 3"), HasSubstr("there is no 'e.2.up'"),
                    HasSubstr(kExperts), HasSubstr("'e.0.gate' in 0.safetensors")));
}

TEST_F(BadInputTest, AWholeListMissingIsNamed) {
  Experts();
  for (const int number : {0, 1}) Expert(number, "up");
  Model("e.gate_up", {2, 2, 2});
  EXPECT_THAT(OnlyError("e.gate_up"),
              AllOf(HasSubstr("no tensor matches 'e.*.up'"), HasSubstr(kExperts),
                    HasSubstr("'e.0.gate' in 0.safetensors")));
}

TEST_F(BadInputTest, AnExpertMissingInTheMiddleIsAnotherShapeAndNamed) {
  Experts();
  for (const int number : {0, 1, 3}) Expert(number);
  Model("e.gate_up", {4, 2, 2});
  ZC_ASSERT_OK_AND_ASSIGN(const Conversion conversion, Run());
  ASSERT_EQ(conversion.tensors.size(), 1u);
  EXPECT_THAT(conversion.tensors[0].origin,
              AllOf(HasSubstr(kExperts), HasSubstr("there is no 'e.2.gate', 'e.2.up'"),
                    HasSubstr("from 'e.0.gate' in 0.safetensors"), HasSubstr("and 3 more")));
}

TEST_F(BadInputTest, AnExpertMissingInTheMiddleIsAnErrorWithoutASpec) {
  Experts();
  for (const int number : {0, 1, 3, 12}) Expert(number);
  rules_.config_json = R"({"text_config": {"num_experts": 13, "num_experts_per_tok": 2}})";
  EXPECT_THAT(OnlyError("e.gate_up"),
              AllOf(HasSubstr("config.json does not say that there are 4 experts"),
                    HasSubstr("there is no 'e.2.gate', 'e.2.up', 'e.4.gate' and 15 more"),
                    HasSubstr(kExperts), HasSubstr("'e.0.gate' in 0.safetensors")));
  for (const char* config : {"", "{}", R"({"num_experts": 4})", R"({"moe_num_experts": [4, 4]})"}) {
    rules_.config_json = config;
    ZC_ASSERT_OK_AND_ASSIGN(const Conversion conversion, Run());
    EXPECT_THAT(conversion.errors, IsEmpty()) << config;
    EXPECT_EQ(conversion.tensors.size(), 1u);
  }
}

TEST_F(BadInputTest, AnExpertOfAnotherShapeIsNamed) {
  Experts();
  for (const int number : {0, 1, 2}) Expert(number);
  sources_[3].shape = {2, 2};
  Model("e.gate_up", {3, 2, 2});
  EXPECT_THAT(
      OnlyError("e.gate_up"),
      AllOf(HasSubstr("stack expects each tensor to be equal size"),
            HasSubstr("'e.1.up' in 1.safetensors is [2, 2], 'e.0.up' in 0.safetensors [1, 2]"),
            HasSubstr(kExperts), HasSubstr("'e.0.gate' in 0.safetensors")));
}

TEST_F(BadInputTest, TwoSourcesOfOneNameAreNamedWithTheirRules) {
  rules_.rules = {MakeRename({"gamma"}, {"weight"})};
  Source("norm.weight", {2}, "one.safetensors");
  Source("norm.gamma", {2}, "two.safetensors");
  EXPECT_THAT(OnlyError("norm.weight"),
              AllOf(HasSubstr("several tensors"),
                    HasSubstr("'norm.gamma' in two.safetensors by rule [gamma] -> [weight]"),
                    HasSubstr("'norm.weight' in one.safetensors"),
                    Not(HasSubstr("'norm.weight' in one.safetensors by"))));
}

TEST_F(BadInputTest, TwoConversionsOfOneNameAreNamedBoth) {
  rules_.rules = {MakeConvert({"qkv"}, {"q", "k", "v"}, {MakeOp(OpKind::kChunk)}),
                  MakeConvert({"key"}, {"k"}, {MakeOp(OpKind::kCat)})};
  Source("a.qkv", {6}, "one.safetensors");
  Source("a.key", {2}, "two.safetensors");
  EXPECT_THAT(OnlyError("a.k"),
              AllOf(HasSubstr("rule [qkv] -> [q, k, v] from 'a.qkv' in one.safetensors"),
                    HasSubstr("rule [key] -> [k] from 'a.key' in two.safetensors")));
  rules_.rules.pop_back();
  sources_[1].name = "a.k";
  EXPECT_THAT(OnlyError("a.k"),
              AllOf(HasSubstr("rule [qkv] -> [q, k, v] from 'a.qkv' in one.safetensors"),
                    HasSubstr("from 'a.k' in two.safetensors")));
}

TEST_F(BadInputTest, AFusedTensorBesideItsPiecesIsNamed) {
  Experts();
  Expert(0);
  Source("e.gate_up", {1, 2, 2}, "fused.safetensors");
  EXPECT_THAT(
      OnlyError("e.gate_up"),
      AllOf(HasSubstr("no place for 'e.gate_up' in fused.safetensors"), HasSubstr(kExperts)));
}

TEST_F(BadInputTest, AChainOfMoreThanSixDimensionsIsNamed) {
  // Each splits its axis in two.
  std::vector<Op> ops;
  for (int dim = 0; dim < 4; ++dim) ops.push_back(MakeOp(OpKind::kInterleave, dim));
  rules_.rules = {MakeConvert({"w"}, {"v"}, ops)};
  Source("l.w", {4, 4, 4, 4}, "one.safetensors");
  EXPECT_THAT(Run(), StatusIs(absl::StatusCode::kUnimplemented,
                              AllOf(HasSubstr("convert 'l.v' by rule [w] -> [v] from 'l.w' in "
                                              "one.safetensors, operation "),
                                    HasSubstr("more than 6 loops"))));
  EXPECT_EQ(ReasonOf(Run().status()), "UNSUPPORTED");
}

TEST_F(BadInputTest, AnImpossibleShapeIsNamed) {
  Source("w", {int64_t{1} << 40, int64_t{1} << 40}, "one.safetensors");
  EXPECT_THAT(Run(), StatusIs(absl::StatusCode::kInvalidArgument,
                              HasSubstr("convert 'w' in one.safetensors: its shape")));
}

TEST(ExplainTest, OnlyANumberingHasGaps) {
  const auto between = [](const std::vector<std::string>& names) {
    std::vector<SourceTensor> tensors;
    for (const std::string& name : names) tensors.push_back({name, DType::kBFloat16, {1}});
    CollectedTensors list{"x", {}};
    for (const SourceTensor& tensor : tensors) list.tensors.push_back(&tensor);
    return MissingBetween({&list, 1});
  };
  EXPECT_THAT(between({"l.3.e.9.w1", "l.3.e.11.w1"}), ElementsAre("l.3.e.10.w1"));
  EXPECT_THAT(between({"e_1", "e_2", "e_3"}), IsEmpty());
  EXPECT_THAT(between({}), IsEmpty());
  EXPECT_THAT(between({"e.7"}), IsEmpty());
  EXPECT_THAT(between({"a.1.b.1", "a.3.b.3"}), IsEmpty()) << "two numbers vary";
  EXPECT_THAT(between({"a.1", "b.3"}), IsEmpty()) << "a text varies";
  EXPECT_THAT(between({"a.01", "a.3"}), IsEmpty()) << "these are not written as numbers";
  EXPECT_THAT(between({"a.0", "a.99999999"}), IsEmpty()) << "no numbering has such gaps";
  EXPECT_THAT(between({"a.0", "a.99999999999999999999999"}), IsEmpty());
}

}  // namespace
}  // namespace zerocast
