// What was converted and taken back is the checkpoint it came from.  ZC_GOLDEN_CHECKPOINTS may name
// a folder with the whole recording.

#include "server/conversion/reverse.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "kernels/copy/algebra.h"
#include "nlohmann/json.hpp"
#include "server/conversion/catalogue.h"
#include "server/conversion/convert.h"
#include "server/conversion/model_spec.h"
#include "server/conversion/rule_json.h"
#include "tests/each_element.h"
#include "tests/server/conversion/golden.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

// A recorded checkpoint, converted.
struct Case {
  ModelSpec spec;
  std::map<std::string, StoredTensor> stored;
  std::vector<SourceTensor> sources;
  ConversionRules rules;
  Conversion conversion;
  std::vector<SourceTensor> model;  // the tensors that were made
};

void Load(const std::string& folder, Case* c) {
  ZC_ASSERT_OK_AND_ASSIGN(c->spec, ParseModelSpec(ReadWholeFile(folder + "/expected.json")));
  c->stored = ReadSafetensors(folder);
  for (const auto& [name, tensor] : c->stored) {
    c->sources.push_back({name, tensor.dtype, tensor.shape});
  }
  ZC_ASSERT_OK_AND_ASSIGN(c->rules.dialect, CatalogueDialect("5.23.0"));
  c->rules.config_json = ReadWholeFile(folder + "/config.json");
  c->rules.base_model_prefix = c->spec.base_model_prefix;
  c->rules.has_base_model_prefix = c->spec.has_base_model_prefix;
  c->rules.rules = c->spec.transforms;
  std::vector<SpecTensor> model = c->spec.params;
  model.insert(model.end(), c->spec.buffers.begin(), c->spec.buffers.end());
  ConversionInput input;
  input.sources = c->sources;
  input.rules = &c->rules;
  input.model = model;
  ZC_ASSERT_OK_AND_ASSIGN(c->conversion, Convert(input));
  for (const ConvertedTensor& tensor : c->conversion.tensors) {
    c->model.push_back({tensor.name, tensor.dtype, tensor.shape});
  }
}

// The bytes that boxes of sources of one dtype give.
std::string RunBoxes(const std::vector<Box>& boxes, int64_t num_elements, int64_t size,
                     const std::vector<const std::string*>& sources) {
  std::string bytes(num_elements * size, '?');
  for (const Box& box : boxes) {
    ForEachElement(box, [&](int64_t from, int64_t to) {
      bytes.replace(to * size, size, *sources.at(box.source), from * size, size);
    });
  }
  return bytes;
}

// The bytes of `reversed` as the checkpoint's bytes went through the model and back; every source
// is copied as it is stored.
std::string RoundTrip(const Case& c, const ConvertedTensor& reversed, int64_t size) {
  std::vector<Box> boxes;
  for (const Box& box : reversed.boxes) {
    EXPECT_THAT(Compose(c.conversion.tensors[box.source].boxes, {&box, 1}, 1 << 20, &boxes),
                IsOk());
  }
  std::vector<const std::string*> bytes;
  for (const SourceTensor& source : c.sources) bytes.push_back(&c.stored.at(source.name).bytes);
  int64_t numel = 1;
  for (const int64_t extent : reversed.shape) numel *= extent;
  return RunBoxes(boxes, numel, size, bytes);
}

std::vector<std::string> Folders() {
  std::vector<std::string> folders;
  for (const auto& entry :
       std::filesystem::directory_iterator(GoldenFolder("ZC_GOLDEN_CHECKPOINTS", "checkpoints"))) {
    const std::string path = entry.path();
    // Of these the library itself cannot save what it read: other names, pieces missing.
    bool whole = true;
    for (const char* kind : {"-base", "-damaged", "-broken"}) {
      whole = whole && path.find(kind) == std::string::npos;
    }
    if (whole) folders.push_back(path);
  }
  std::sort(folders.begin(), folders.end());
  return folders;
}

TEST(ReverseTest, ConvertedCheckpointsComeBackNameByNameAndByteByByte) {
  int folders = 0, tensors = 0;
  for (const std::string& folder : Folders()) {
    SCOPED_TRACE(folder);
    Case c;
    Load(folder, &c);
    if (HasFatalFailure()) continue;
    ReverseInput input;
    input.tensors = c.model;
    input.rules = &c.rules;
    input.used_rules = c.conversion.used_rules;
    ZC_ASSERT_OK_AND_ASSIGN(const Reversal reversal, Reverse(input));
    for (const ConversionError& error : reversal.errors) {
      ADD_FAILURE() << error.target << ": " << error.message;
    }
    std::set<std::string> read;
    for (const ConvertedTensor& tensor : c.conversion.tensors) {
      for (const int32_t source : tensor.sources) read.insert(c.sources[source].name);
    }
    for (const ConvertedTensor& tensor : reversal.tensors) {
      ASSERT_EQ(read.erase(tensor.name), 1u) << tensor.name << " is not in the checkpoint";
      const StoredTensor& original = c.stored.at(tensor.name);
      EXPECT_EQ(tensor.shape, original.shape) << tensor.name;
      EXPECT_EQ(Sha256Hex(RoundTrip(c, tensor, SizeOf(original.dtype))), Sha256Hex(original.bytes))
          << tensor.name;
      ++tensors;
    }
    EXPECT_THAT(read, IsEmpty()) << "not written again";
    ++folders;
  }
  std::printf("%d folders, %d tensors\n", folders, tensors);
  EXPECT_GE(folders, 15);
}

// A trainer's folder does not say which rules the load needed.
TEST(ReverseTest, WithoutKnowingTheUsedRulesOnlyPrefixesStayAway) {
  int same = 0, folders = 0;
  for (const std::string& folder : Folders()) {
    SCOPED_TRACE(folder);
    Case c;
    Load(folder, &c);
    if (HasFatalFailure()) continue;
    ReverseInput input;
    input.tensors = c.model;
    input.rules = &c.rules;
    ZC_ASSERT_OK_AND_ASSIGN(const Reversal reversal, Reverse(input));
    std::set<std::string> names;
    for (const ConvertedTensor& tensor : reversal.tensors) names.insert(tensor.name);
    std::set<std::string> original;
    for (const SourceTensor& source : c.sources) original.insert(source.name);
    ++folders;
    same += names == original && reversal.errors.empty() ? 1 : 0;
  }
  std::printf("%d of %d folders with the same names\n", same, folders);
  EXPECT_GE(folders, 15);
  EXPECT_GE(same * 10, folders * 9);
}

class ReverseRulesTest : public ::testing::Test {
 protected:
  ReverseRulesTest() { rules_.dialect = CatalogueDialect("5.23.0").value(); }

  void AddRule(const char* text) {
    absl::StatusOr<Rule> rule = RuleFromJson(json::parse(text), "rule");
    ASSERT_THAT(rule, IsOk());
    rules_.rules.push_back(*std::move(rule));
  }
  void AddTensor(std::string name, std::vector<int64_t> shape) {
    tensors_.push_back({std::move(name), DType::kFloat32, std::move(shape)});
  }
  absl::StatusOr<Reversal> Run(std::vector<bool> used = {}) {
    ReverseInput input;
    input.tensors = tensors_;
    input.rules = &rules_;
    input.used_rules = std::move(used);
    return Reverse(input);
  }
  std::vector<std::string> Names(std::vector<bool> used = {}) {
    const absl::StatusOr<Reversal> reversal = Run(std::move(used));
    if (!reversal.ok()) return {reversal.status().ToString()};
    std::vector<std::string> names;
    for (const ConversionError& error : reversal->errors) {
      names.push_back(error.target + ": " + error.message);
    }
    for (const ConvertedTensor& tensor : reversal->tensors) names.push_back(tensor.name);
    return names;
  }

  ConversionRules rules_;
  std::vector<SourceTensor> tensors_;
};

constexpr char kGateUp[] = R"j({"kind": "convert", "from": ["e.*.gate", "e.*.up"], "to": ["e.gu"],
    "ops": [{"op": "stack", "dim": 0}, {"op": "cat", "dim": 1}]})j";

TEST_F(ReverseRulesTest, ExpertsAreCutOutAndNumbered) {
  AddRule(kGateUp);
  AddTensor("l.3.e.gu", {2, 4, 3});
  ZC_ASSERT_OK_AND_ASSIGN(const Reversal reversal, Run());
  ASSERT_THAT(reversal.tensors, SizeIs(4));
  EXPECT_EQ(reversal.tensors[1].name, "l.3.e.1.gate");
  EXPECT_THAT(reversal.tensors[1].shape, ElementsAre(2, 3));
  EXPECT_EQ(reversal.tensors[1].boxes[0].source_offset, 12);
  EXPECT_EQ(reversal.tensors[2].name, "l.3.e.0.up");
}

TEST_F(ReverseRulesTest, RenamesAreUndoneLastToFirst) {
  AddRule(R"j({"kind": "rename", "from": "^a\\.", "to": "b."})j");
  AddRule(R"j({"kind": "rename", "from": "^b\\.(\\d+)", "to": "c.\\1"})j");
  AddTensor("c.7.w", {1});
  EXPECT_THAT(Names(), ElementsAre("a.7.w"));
}

TEST_F(ReverseRulesTest, ScopesStay) {
  AddRule(R"j({"kind": "rename", "from": "^fc", "to": "proj", "scope_prefix": "vision",
              "scope_base": "model"})j");
  AddTensor("model.vision.proj.w", {1});
  AddTensor("model.text.proj.w", {1});
  EXPECT_THAT(Names(), ElementsAre("model.text.proj.w", "model.vision.fc.w"));
}

TEST_F(ReverseRulesTest, APrefixComesBackWhereTheLoadTookItOff) {
  AddRule(R"j({"kind": "prefix", "remove": "language_model", "under": "model"})j");
  AddTensor("model.w", {1});
  EXPECT_THAT(Names(), ElementsAre("model.w")) << "nobody knows whether it was there";
  EXPECT_THAT(Names({true}), ElementsAre("model.language_model.w"));
  EXPECT_THAT(Names({false}), ElementsAre("model.w"));
}

TEST_F(ReverseRulesTest, LegacyNamesAreNotMadeUnlessTheyWereRead) {
  rules_.rules = CatalogueRules("", "", "5.23.0").value();
  AddTensor("x.LayerNorm.weight", {1});
  EXPECT_THAT(Names(), ElementsAre("x.LayerNorm.weight"));
  EXPECT_THAT(Names(std::vector<bool>(rules_.rules.size(), true)),
              ElementsAre("x.LayerNorm.gamma"));
}

TEST_F(ReverseRulesTest, ATableOfAnotherReleaseIsReversedToo) {
  rules_.dialect.version = "5.24.0";
  AddRule(R"j({"kind": "rename", "from": "^a\\.", "to": "b."})j");
  AddTensor("b.w", {1});
  EXPECT_THAT(Names(), ElementsAre("a.w"));
}

TEST_F(ReverseRulesTest, AnIndexIsShiftedBack) {
  AddRule(R"j({"kind": "rename_index", "from": "q\\.(\\d+)", "to": "layers.\\1.q",
               "offset": 1})j");
  AddTensor("layers.10.q.w", {1});
  EXPECT_THAT(Names(), ElementsAre("q.9.w"));
}

TEST_F(ReverseRulesTest, AGroupIsUndoneFromItsGuardOn) {
  AddRule(R"j({"kind": "rename_group", "from": ["norm0", "norm1"], "to": ["norm1", "norm2"]})j");
  AddTensor("b.norm1", {1});
  AddTensor("b.norm2", {1});
  EXPECT_THAT(Names(), ElementsAre("b.norm0", "b.norm1"));
}

TEST_F(ReverseRulesTest, TheFirstReleaseRenamesBeforeItConverts) {
  rules_.dialect = CatalogueDialect("5.1.0").value();
  rules_.rules = CatalogueRules("MixtralForCausalLM", "mixtral", "5.1.0").value();
  AddTensor("model.layers.0.mlp.experts.gate_up_proj", {2, 4, 3});
  EXPECT_THAT(Names(), ElementsAre("model.layers.0.block_sparse_moe.experts.0.w1.weight",
                                   "model.layers.0.block_sparse_moe.experts.1.w1.weight",
                                   "model.layers.0.block_sparse_moe.experts.0.w3.weight",
                                   "model.layers.0.block_sparse_moe.experts.1.w3.weight"));
}

TEST_F(ReverseRulesTest, WhatDoesNotComeBackIsRefusedNamingTheRule) {
  AddRule(R"j({"kind": "rename", "from": "old_\\w+", "to": "new"})j");
  AddTensor("new.w", {1});
  EXPECT_THAT(Names(), ElementsAre(HasSubstr("new.w: cannot be taken back to the checkpoint's form "
                                             "by the reverse of rule [old_\\w+] -> [new]")));
}

TEST_F(ReverseRulesTest, TwoWeightsOfOneNameAreRefused) {
  AddRule(R"j({"kind": "rename", "from": "^a\\.", "to": "b."})j");
  AddTensor("b.w", {1});
  AddTensor("a.w", {1});
  EXPECT_THAT(Names(), ElementsAre(HasSubstr("several weights become 'a.w'")));
}

TEST_F(ReverseRulesTest, AShapeThatTheRuleCannotHaveMadeIsRefused) {
  AddRule(kGateUp);
  AddTensor("e.gu", {2, 1, 3});
  EXPECT_THAT(Names(), ElementsAre(HasSubstr(
                           "e.gu: cannot be taken back to the checkpoint's form by the reverse of "
                           "rule [e.*.gate, e.*.up] -> [e.gu]: unstack: ")));
}

TEST_F(ReverseRulesTest, ANameThatLoadingWouldChangeIsRefused) {
  rules_.dialect = CatalogueDialect("5.1.0").value();  // it takes no name back that rules changed
  AddRule(R"j({"kind": "rename", "from": "^a\\.", "to": "b."})j");
  AddTensor("a.w", {1});
  EXPECT_THAT(Names(), ElementsAre(HasSubstr("loading it again would not give this name")));
}

TEST_F(ReverseRulesTest, ARuleWithoutAReverseIsNamed) {
  AddRule(R"j({"kind": "convert", "from": ["w$", "w_scale_inv"], "to": ["w"],
              "ops": [{"op": "stack", "dim": 0}]})j");
  rules_.rules[0].from = {"q.(\\d+)", "r.(\\w+)"};
  AddTensor("w", {2, 1});
  EXPECT_THAT(Run(), StatusIs(absl::StatusCode::kUnimplemented,
                              HasSubstr("reverse the rule [q.(\\d+), r.(\\w+)] -> [w]")));
}

}  // namespace
}  // namespace zerocast
