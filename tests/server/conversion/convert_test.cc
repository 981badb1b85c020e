#include "server/conversion/convert.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/conversion/catalogue.h"
#include "server/conversion/model_spec.h"
#include "server/conversion/promote.h"
#include "tests/made_rules.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

using Shape = std::vector<int64_t>;

// The rules of a fused mixture of experts.
std::vector<Rule> Experts() {
  return {MakeConvert({"mlp.experts.*.gate_proj.weight", "mlp.experts.*.up_proj.weight"},
                      {"mlp.experts.gate_up_proj"},
                      {MakeOp(OpKind::kStack), MakeOp(OpKind::kCat, 1)})};
}

std::vector<Rule> FusedQkv() {
  return {MakeConvert({"attn.qkv"}, {"attn.q", "attn.k", "attn.v"}, {MakeOp(OpKind::kChunk)})};
}

class ConvertTest : public ::testing::Test {
 protected:
  ConvertTest() { rules_.dialect = Newest(); }

  void Source(const std::string& name, const Shape& shape, DType dtype = DType::kBFloat16) {
    sources_.push_back({name, dtype, shape});
  }
  void Model(const std::string& name, const Shape& shape) {
    model_.push_back({name, shape, DType::kBFloat16});
  }

  absl::StatusOr<Conversion> Run(bool any_name = false) {
    ConversionInput input;
    input.sources = sources_;
    input.rules = &rules_;
    input.model = model_;
    input.any_name = any_name;
    return Convert(input);
  }

  // Element `place` of the target as {source name, element}.
  std::string At(const ConvertedTensor& tensor, int64_t place) const {
    for (const Box& box : tensor.boxes) {
      for (int64_t i = 0; i < NumElements(box); ++i) {
        int64_t from = box.source_offset, to = box.target_offset, rest = i;
        for (int k = box.num_dims - 1; k >= 0; --k) {
          from += rest % box.dims[k].extent * box.dims[k].source_stride;
          to += rest % box.dims[k].extent * box.dims[k].target_stride;
          rest /= box.dims[k].extent;
        }
        if (to == place) return absl::StrCat(sources_[box.source].name, "[", from, "]");
      }
    }
    return "nothing";
  }

  ConversionRules rules_;
  std::vector<SourceTensor> sources_;
  std::vector<SpecTensor> model_;
};

TEST_F(ConvertTest, ExpertsComeInNaturalOrderAndSourcesInTheRulesOrder) {
  rules_.rules = Experts();
  for (int expert : {10, 2, 0, 1}) {
    Source(absl::StrCat("mlp.experts.", expert, ".up_proj.weight"), {1, 2});
    Source(absl::StrCat("mlp.experts.", expert, ".gate_proj.weight"), {1, 2});
  }
  Model("mlp.experts.gate_up_proj", {4, 2, 2});
  ZC_ASSERT_OK_AND_ASSIGN(const Conversion conversion, Run());
  ASSERT_EQ(conversion.tensors.size(), 1u);
  const ConvertedTensor& tensor = conversion.tensors[0];
  EXPECT_EQ(tensor.shape, (Shape{4, 2, 2}));
  EXPECT_EQ(At(tensor, 0), "mlp.experts.0.gate_proj.weight[0]");
  EXPECT_EQ(At(tensor, 3), "mlp.experts.0.up_proj.weight[1]");
  EXPECT_EQ(At(tensor, 12), "mlp.experts.10.gate_proj.weight[0]");
  EXPECT_EQ(At(tensor, 15), "mlp.experts.10.up_proj.weight[1]");
  EXPECT_THAT(tensor.sources, ElementsAre(0, 1, 2, 3, 4, 5, 6, 7));
}

TEST_F(ConvertTest, TheGuardOfAGroupIsSeenInNaturalOrder) {
  Rule rule;
  rule.kind = RuleKind::kRenameGroup;
  rule.from = {"b.(\\d+).norm0", "b.(\\d+).norm1"};
  rule.to = {"b.\\1.norm1", "b.\\1.norm2"};
  rules_.rules = {rule};
  Source("b.10.norm1", {1});  // first in the file, and as text
  Source("b.2.norm0", {1});
  ZC_ASSERT_OK_AND_ASSIGN(const Conversion conversion, Run(/*any_name=*/true));
  std::vector<std::string> names;
  for (const ConvertedTensor& tensor : conversion.tensors) names.push_back(tensor.name);
  EXPECT_THAT(names, ElementsAre("b.2.norm1", "b.10.norm2"));
}

TEST_F(ConvertTest, AMissingPieceIsAnErrorOfItsTarget) {
  rules_.rules = Experts();
  for (int expert = 0; expert < 3; ++expert) {
    Source(absl::StrCat("mlp.experts.", expert, ".gate_proj.weight"), {1, 2});
    if (expert != 1) Source(absl::StrCat("mlp.experts.", expert, ".up_proj.weight"), {1, 2});
  }
  Model("mlp.experts.gate_up_proj", {3, 2, 2});
  ZC_ASSERT_OK_AND_ASSIGN(const Conversion conversion, Run());
  EXPECT_THAT(conversion.tensors, IsEmpty());
  ASSERT_EQ(conversion.errors.size(), 1u);
  EXPECT_EQ(conversion.errors[0].target, "mlp.experts.gate_up_proj");
  EXPECT_EQ(conversion.errors[0].sources.size(), 5u);
  EXPECT_THAT(conversion.errors[0].message,
              AllOf(HasSubstr("cat"), HasSubstr("Expected size 3 but got size 2")));
}

TEST_F(ConvertTest, WithoutAnyTensorOfOneSourceTheErrorIsTheReleases) {
  rules_.rules = Experts();
  Source("mlp.experts.0.gate_proj.weight", {1, 2});
  Model("mlp.experts.gate_up_proj", {1, 2, 2});
  ZC_ASSERT_OK_AND_ASSIGN(Conversion conversion, Run());
  ASSERT_EQ(conversion.errors.size(), 1u);
  EXPECT_THAT(conversion.errors[0].message, HasSubstr("expected a non-empty list of Tensors"));
  rules_.dialect = Oldest();
  ZC_ASSERT_OK_AND_ASSIGN(conversion, Run());
  ASSERT_EQ(conversion.errors.size(), 1u);
  EXPECT_THAT(conversion.errors[0].message, HasSubstr("mlp.experts.*.gate_proj.weight"));
}

TEST_F(ConvertTest, AWholeExpertMissingIsAnotherShape) {
  rules_.rules = Experts();
  Source("mlp.experts.0.gate_proj.weight", {1, 2});
  Source("mlp.experts.0.up_proj.weight", {1, 2});
  Model("mlp.experts.gate_up_proj", {2, 2, 2});
  ZC_ASSERT_OK_AND_ASSIGN(const Conversion conversion, Run());
  EXPECT_THAT(conversion.errors, IsEmpty());
  ASSERT_EQ(conversion.tensors.size(), 1u);
  EXPECT_EQ(conversion.tensors[0].shape, (Shape{1, 2, 2}));
}

TEST_F(ConvertTest, ResultsAreNamedAroundTheirTargets) {
  rules_.rules = FusedQkv();
  Source("model.layers.3.attn.qkv.weight", {6, 2});
  for (const char* part : {"v", "k", "q"}) {
    Model(absl::StrCat("model.layers.3.attn.", part, ".weight"), {2, 2});
  }
  ZC_ASSERT_OK_AND_ASSIGN(const Conversion conversion, Run());
  ASSERT_EQ(conversion.tensors.size(), 3u);
  EXPECT_EQ(conversion.tensors[0].name, "model.layers.3.attn.v.weight") << "the model's order";
  EXPECT_EQ(At(conversion.tensors[0], 0), "model.layers.3.attn.qkv.weight[8]");
  EXPECT_EQ(At(conversion.tensors[2], 3), "model.layers.3.attn.qkv.weight[3]");
}

TEST_F(ConvertTest, AFusedTensorOfTheWrongSizeIsRefusedWhole) {
  rules_.rules = FusedQkv();
  Source("attn.qkv", {7, 2});  // cut into 3, 3 and 1
  Model("attn.q", {3, 2});
  Model("attn.k", {2, 2});
  Model("attn.v", {2, 2});
  ZC_ASSERT_OK_AND_ASSIGN(const Conversion conversion, Run());
  std::vector<std::string> converted;
  for (const ConvertedTensor& tensor : conversion.tensors) converted.push_back(tensor.name);
  EXPECT_THAT(converted, ElementsAre("attn.k", "attn.v")) << "to be reported as mismatched";
  ASSERT_EQ(conversion.errors.size(), 1u);
  EXPECT_EQ(conversion.errors[0].target, "attn.q");
  EXPECT_THAT(conversion.errors[0].message, HasSubstr("wrong place"));
}

TEST_F(ConvertTest, UnexpectedNamesAreTheRenamedOnesOnePerTarget) {
  rules_.rules = FusedQkv();
  Source("layers.9.attn.qkv.bias", {6});
  Source("extra", {1});
  ZC_ASSERT_OK_AND_ASSIGN(const Conversion conversion, Run());
  EXPECT_THAT(conversion.unexpected, ElementsAre("extra", "layers.9.attn.q.bias",
                                                 "layers.9.attn.k.bias", "layers.9.attn.v.bias"));
  EXPECT_THAT(conversion.tensors, IsEmpty());
}

TEST_F(ConvertTest, TwoTensorsForOneNameAreAnError) {
  Rule rename;
  rename.from = {"gamma"};
  rename.to = {"weight"};
  rules_.rules = {rename};
  Source("norm.gamma", {2});
  Source("norm.weight", {2});
  Model("norm.weight", {2});
  ZC_ASSERT_OK_AND_ASSIGN(const Conversion conversion, Run());
  EXPECT_THAT(conversion.tensors, IsEmpty());
  ASSERT_EQ(conversion.errors.size(), 1u);
  EXPECT_THAT(conversion.errors[0].sources, UnorderedElementsAre("norm.gamma", "norm.weight"));
}

TEST_F(ConvertTest, AFusedTensorNextToItsPiecesIsAnError) {
  rules_.rules = Experts();
  Source("mlp.experts.0.gate_proj.weight", {1, 2});
  Source("mlp.experts.0.up_proj.weight", {1, 2});
  Source("mlp.experts.gate_up_proj", {1, 2, 2});
  Model("mlp.experts.gate_up_proj", {1, 2, 2});
  ZC_ASSERT_OK_AND_ASSIGN(const Conversion conversion, Run());
  EXPECT_THAT(conversion.tensors, IsEmpty());
  ASSERT_EQ(conversion.errors.size(), 1u);
  EXPECT_THAT(conversion.errors[0].message, HasSubstr("no place for 'mlp.experts.gate_up_proj'"));
}

TEST_F(ConvertTest, TwoConversionsOfOneNameAreAnError) {
  rules_.rules = FusedQkv();
  Source("attn.qkv", {6, 2});
  Source("attn.k", {2, 2});
  for (const char* name : {"attn.q", "attn.k", "attn.v"}) Model(name, {2, 2});
  ZC_ASSERT_OK_AND_ASSIGN(const Conversion conversion, Run());
  EXPECT_EQ(conversion.tensors.size(), 2u);
  ASSERT_EQ(conversion.errors.size(), 1u);
  EXPECT_EQ(conversion.errors[0].target, "attn.k");
  EXPECT_THAT(conversion.errors[0].sources, UnorderedElementsAre("attn.k", "attn.qkv"));
}

TEST_F(ConvertTest, WithoutASpecEveryNameIsTaken) {
  rules_.rules = FusedQkv();
  Source("attn.qkv", {6, 2});
  Source("norm", {2}, DType::kFloat32);
  ZC_ASSERT_OK_AND_ASSIGN(const Conversion conversion, Run(/*any_name=*/true));
  std::vector<std::string> names;
  for (const ConvertedTensor& tensor : conversion.tensors) names.push_back(tensor.name);
  EXPECT_THAT(names, UnorderedElementsAre("attn.q", "attn.k", "attn.v", "norm"));
  EXPECT_THAT(conversion.unexpected, IsEmpty());
}

TEST_F(ConvertTest, ALookupOfTheModelIsUnimplementedWithoutASpec) {
  Op transpose = MakeOp(OpKind::kTranspose);
  transpose.b = 1;
  transpose.check_dims = true;
  rules_.rules = {MakeConvert({"w"}, {"v"}, {transpose})};
  Source("w", {2, 3});
  EXPECT_THAT(Run(/*any_name=*/true),
              StatusIs(absl::StatusCode::kUnimplemented,
                       AllOf(HasSubstr("convert 'v' by rule [w] -> [v]"), HasSubstr("transpose"))));
  Model("v", {2, 3});
  ZC_ASSERT_OK_AND_ASSIGN(Conversion conversion, Run());
  EXPECT_EQ(conversion.tensors.at(0).shape, (Shape{2, 3}));
  model_[0].shape = {3, 2};
  ZC_ASSERT_OK_AND_ASSIGN(conversion, Run());
  EXPECT_EQ(conversion.tensors.at(0).shape, (Shape{3, 2}));
  EXPECT_EQ(At(conversion.tensors[0], 1), "w[3]");
}

TEST_F(ConvertTest, TheDtypeIsTheSourcesPromoted) {
  rules_.rules = {MakeConvert({"a", "b"}, {"c"}, {MakeOp(OpKind::kCat)})};
  Source("a", {2}, DType::kBFloat16);
  Source("b", {2}, DType::kFloat32);
  Model("c", {4});
  ZC_ASSERT_OK_AND_ASSIGN(const Conversion conversion, Run());
  EXPECT_EQ(conversion.tensors.at(0).dtype, DType::kFloat32);
  EXPECT_EQ(PromoteDTypes(DType::kFloat16, DType::kBFloat16), DType::kFloat32);
  EXPECT_EQ(PromoteDTypes(DType::kInt64, DType::kFloat16), DType::kFloat16);
  EXPECT_EQ(PromoteDTypes(DType::kUInt8, DType::kInt8), DType::kInt16);
  EXPECT_EQ(PromoteDTypes(DType::kBool, DType::kUInt8), DType::kUInt8);
}

TEST_F(ConvertTest, HostileInputsAreRefused) {
  Source("a", {int64_t{1} << 40, int64_t{1} << 40});
  EXPECT_THAT(Run(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("'a'")));
  sources_ = {{"a", DType::kBFloat16, {int64_t{1} << 60, 0, 4}}};
  EXPECT_THAT(Run(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("2^61")));
  sources_ = {{"b\xff", DType::kBFloat16, {1}}};
  Rule rename;
  rename.from = {"[b]"};
  rename.to = {"c"};
  rules_.rules = {rename};
  EXPECT_THAT(Run(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("UTF-8")));
  sources_.clear();
  rules_.config_json = "[1]";
  EXPECT_THAT(Run(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("config")));
  rules_.config_json.clear();
  rules_.rules[0].from = {"("};
  EXPECT_THAT(Run(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("transforms[0]")));
}

TEST_F(ConvertTest, EmptyAndScalarTensorsConvert) {
  Source("empty", {1, 0, 4});
  Source("scalar", {}, DType::kInt64);
  Model("empty", {1, 0, 4});
  Model("scalar", {});
  ZC_ASSERT_OK_AND_ASSIGN(const Conversion conversion, Run());
  ASSERT_EQ(conversion.tensors.size(), 2u);
  EXPECT_THAT(conversion.tensors[0].boxes, IsEmpty());
  EXPECT_THAT(conversion.tensors[0].sources, ElementsAre(0));
  EXPECT_EQ(conversion.tensors[1].boxes.size(), 1u);
}

// The library's own cases of ernie4_5_vl_moe: experts in two runs, sources joined in each.
class ErnieTest : public ConvertTest {
 protected:
  void Experts(int count, bool two_sources) {
    Op op = MakeOp(OpKind::kErnieFuseSplit);
    op.concat_dim = 1;
    std::vector<std::string> from = {"e.*.g"};
    if (two_sources) from.push_back("e.*.u");
    rules_.rules = {MakeConvert(from, {"text", "vision"}, {op})};
    for (int i = 0; i < count; ++i) {
      Source(absl::StrCat("e.", i, ".g"), {1, 2});
      if (two_sources) Source(absl::StrCat("e.", i, ".u"), {1, 2});
    }
  }
};

TEST_F(ErnieTest, OneSourceIsCutInTwoRuns) {
  Experts(5, false);
  ZC_ASSERT_OK_AND_ASSIGN(const Conversion conversion, Run(/*any_name=*/true));
  ASSERT_EQ(conversion.tensors.size(), 2u);
  EXPECT_EQ(conversion.tensors[0].shape, (Shape{3, 1, 2}));
  EXPECT_EQ(conversion.tensors[1].shape, (Shape{2, 1, 2}));
  EXPECT_EQ(At(conversion.tensors[1], 0), "e.3.g[0]");
}

TEST_F(ErnieTest, TwoSourcesAreJoinedInEachRun) {
  Experts(3, true);
  ZC_ASSERT_OK_AND_ASSIGN(const Conversion conversion, Run(/*any_name=*/true));
  ASSERT_EQ(conversion.tensors.size(), 2u);
  EXPECT_EQ(conversion.tensors[0].shape, (Shape{2, 2, 2}));
  EXPECT_EQ(At(conversion.tensors[0], 2), "e.0.u[0]");
  EXPECT_EQ(At(conversion.tensors[1], 0), "e.2.g[0]");
}

TEST_F(ErnieTest, AnEmptyRunIsAnError) {
  Experts(1, false);
  ZC_ASSERT_OK_AND_ASSIGN(const Conversion conversion, Run(/*any_name=*/true));
  ASSERT_EQ(conversion.errors.size(), 1u);
  EXPECT_THAT(conversion.errors[0].message, HasSubstr("stack expects a non-empty TensorList"));
}

TEST_F(ConvertTest, NamesOfRealRules) {
  const auto renamed = [this](const std::string& type, const std::string& dialect,
                              const std::string& key) {
    rules_.rules = CatalogueRules("", type, dialect).value();
    rules_.dialect = CatalogueDialect(dialect).value();
    sources_ = {{key, DType::kBFloat16, {4, 2}}};
    const absl::StatusOr<Conversion> conversion = Run(/*any_name=*/true);
    if (!conversion.ok() || conversion->tensors.empty()) return std::string("nothing");
    return conversion->tensors[0].name;
  };
  const std::string expert_scale = "mlp.experts.7.gate_proj.weight_scale_inv";
  EXPECT_EQ(renamed("phimoe", "5.23.0", "l.mlp.shared_expert_gate.weight"),
            "l.mlp.shared_expert.router.weight");
  EXPECT_EQ(renamed("", "5.23.0", "foo_weight_g"), "foo.parametrizations.weight.original0")
      << "a dot in a rule is any character";
  EXPECT_EQ(renamed("", "5.23.0", "x.weight_g"), "x.parametrizations.weight.original0");
  EXPECT_EQ(renamed("", "5.23.0", "x.weight_g.y"), "x.parametrizations.weight.original0.y");
  EXPECT_EQ(renamed("", "5.1.0", "x.weight_g.y"), "x.weight_g.y");
  EXPECT_EQ(renamed("qwen2_moe", "5.23.0", expert_scale), expert_scale);
}

TEST(CatalogueTest, BothTablesLoadAndBind) {
  ZC_ASSERT_OK_AND_ASSIGN(const Catalogue* newest, BuiltInCatalogue("5.23.0"));
  EXPECT_EQ(newest->by_class.size(), 105u);
  EXPECT_EQ(newest->by_model_type.size(), 145u);
  EXPECT_EQ(newest->dialect.generation, 2);
  ZC_ASSERT_OK_AND_ASSIGN(const Catalogue* oldest, BuiltInCatalogue("5.1.0"));
  EXPECT_EQ(oldest->by_model_type.size(), 37u);
  EXPECT_EQ(oldest->class_renames.size(), 82u);
  EXPECT_TRUE(oldest->dialect.replace_all);
  EXPECT_THAT(BuiltInCatalogue("4.0"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("'4.0'")));
}

TEST(CatalogueTest, TheClassComesBeforeTheModelTypeAndLegacyLast) {
  ZC_ASSERT_OK_AND_ASSIGN(const Catalogue* table, BuiltInCatalogue("5.23.0"));
  const size_t legacy = table->sets.at("legacy").size();
  ZC_ASSERT_OK_AND_ASSIGN(const std::vector<Rule> unknown, CatalogueRules("X", "y", "5.23.0"));
  EXPECT_EQ(unknown.size(), legacy);
  ZC_ASSERT_OK_AND_ASSIGN(const std::vector<Rule> by_class,
                          CatalogueRules("CLIPVisionModel", "mixtral", "5.23.0"));
  EXPECT_EQ(by_class[0].kind, RuleKind::kPrefix);
  ZC_ASSERT_OK_AND_ASSIGN(const std::vector<Rule> by_type,
                          CatalogueRules("MixtralForCausalLM", "mixtral", "5.23.0"));
  EXPECT_EQ(by_type[0].from, std::vector<std::string>{".block_sparse_moe."});
  EXPECT_EQ(by_type.back().to, unknown.back().to);
}

TEST(CatalogueTest, ABadTableIsRefusedNamingTheRule) {
  const std::string head =
      R"({"derived_from":{"version":"1"},"semantics":{"wildcard":["*.",".*\\."],"natural_key":"v2",)"
      R"("reverse":"v2"},"bindings":{},"rule_sets":)";
  EXPECT_THAT(ParseCatalogue(head + R"({"x":[{"kind":"rename","from":"a(","to":"b"}]}})"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("rule set x")));
  EXPECT_THAT(ParseCatalogue(head + R"({"x":[{"kind":"convert","from":"a","to":"b","ops":[)"
                                    R"({"op":"bnb4bit"}]}]}})"),
              StatusIs(absl::StatusCode::kUnimplemented,
                       AllOf(HasSubstr("rule_sets.x[0].ops[0]"), HasSubstr("bnb4bit"))));
  EXPECT_THAT(ParseCatalogue("{"), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("JSON")));
}

TEST(ModelSpecTest, ErrorsNameThePath) {
  const auto invalid = [](const std::string& path) {
    return StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(path));
  };
  EXPECT_THAT(ParseModelSpec("nonsense"), invalid("not JSON"));
  EXPECT_THAT(ParseModelSpec("[]"), invalid("object"));
  EXPECT_THAT(ParseModelSpec("{}"), invalid("params"));
  EXPECT_THAT(ParseModelSpec(R"({"params":[{"name":"a","shape":[1],"dtype":"x"}]})"),
              invalid("params[0].dtype"));
  EXPECT_THAT(ParseModelSpec(R"({"params":[{"name":"a","shape":[-1],"dtype":"bfloat16"}]})"),
              invalid("params[0].shape"));
  EXPECT_THAT(ParseModelSpec(R"({"params":[{"name":"a","dtype":"bfloat16"}]})"),
              invalid("params[0]"));
  EXPECT_THAT(ParseModelSpec(R"({"params":[],"tied":{"a":1}})"), invalid("tied.a"));
  EXPECT_THAT(ParseModelSpec(R"({"params":[],"transforms":[{"kind":"x"}]})"),
              invalid("transforms[0]"));
  EXPECT_THAT(ParseModelSpec(R"({"params":[],"transforms":[{"kind":"rename","from":1,"to":"b"}]})"),
              invalid("transforms[0].from"));
}

TEST(ModelSpecTest, AbsentAndEmptyPrefixDiffer) {
  EXPECT_FALSE(ParseModelSpec(R"({"params":[]})")->has_base_model_prefix);
  EXPECT_TRUE(ParseModelSpec(R"({"params":[],"base_model_prefix":""})")->has_base_model_prefix);
}

TEST(ModelSpecTest, EveryKindOfRuleIsWrittenAndReadBack) {
  const std::string text =
      R"json({"params":[],"transforms":[
        {"class":"PrefixChange","source_patterns":["x"],"target_patterns":["y"],
         "prefix_to_remove":"vision_model","model_prefix":"","scope_prefix":"tower",
         "base_model_prefix":"model"},
        {"class":"GroupWeightRename","source_patterns":["a","b"],"target_patterns":["b","c"]},
        {"class":"Inkling2IndexOffsetWeightRename","source_patterns":["q(\\d+)"],
         "target_patterns":["l\\1"],"offset":2},
        {"class":"WeightConverter","source_patterns":["s"],"target_patterns":["t"],"operations":[
          {"op":"Transpose","dim0":1,"dim1":2,"check_dims":true},
          {"op":"PermuteForRope","subconfig_key":"v","permute_layer_names":["q"],"inverse":true},
          {"op":"LinearToConv3d","in_channels":3,"kernel_size":[1,2,3]},
          {"op":"ErnieFuseAndSplitTextVisionExperts","stack_dim":0,"concat_dim":1}]}]
})json";
  ZC_ASSERT_OK_AND_ASSIGN(const ModelSpec spec, ParseModelSpec(text));
  ZC_ASSERT_OK_AND_ASSIGN(const ModelSpec again, ParseModelSpec(ModelSpecToJson(spec)));
  EXPECT_EQ(ModelSpecToJson(again), ModelSpecToJson(spec));
  ASSERT_EQ(again.transforms.size(), 4u);
  EXPECT_EQ(again.transforms[0].prefix_remove, "vision_model");
  EXPECT_TRUE(again.transforms[0].has_scope);
  EXPECT_EQ(again.transforms[0].scope_base, "model");
  EXPECT_EQ(again.transforms[2].offset, 2);
  const std::vector<Op>& ops = again.transforms[3].ops;
  ASSERT_EQ(ops.size(), 4u);
  EXPECT_EQ(ops[0].b, 2);
  EXPECT_TRUE(ops[0].check_dims);
  EXPECT_TRUE(ops[1].inverse);
  EXPECT_EQ(ops[1].only, std::vector<std::string>{"q"});
  EXPECT_EQ(ops[2].kernel, (Shape{1, 2, 3}));
  EXPECT_EQ(ops[3].concat_dim, 1);
}

}  // namespace
}  // namespace zerocast
