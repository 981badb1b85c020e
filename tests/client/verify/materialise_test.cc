// Every recorded checkpoint: the witness's own targets must be the bytes that the library loaded.
// ZC_GOLDEN_CHECKPOINTS may name a folder with the whole recording.

#include "client/verify/materialise.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <utility>

#include "client/verify/cast.h"
#include "nlohmann/json.hpp"
#include "tests/server/conversion/golden.h"
#include "tests/status_matchers.h"

namespace zerocast::verify {
namespace {

using nlohmann::json;

struct Loaded {
  std::string sha256;
  DType dtype = DType::kInvalid;
  Shape shape;
};

// The targets that the library filled from the checkpoint, by name.
std::map<std::string, Loaded> Expected(const json& expected, const ModelSpec& spec) {
  std::set<std::string> unfilled;
  if (!expected.contains("loading_info")) return {};  // the library raised
  for (const json& name : expected["loading_info"]["missing_keys"]) {
    unfilled.insert(name.get<std::string>());
  }
  std::map<std::string, Loaded> loaded;
  const auto add = [&](const json& list, const std::vector<SpecTensor>& tensors) {
    for (size_t i = 0; i < tensors.size(); ++i) {
      const std::string& name = tensors[i].name;
      if (!list[i].contains("sha256") || spec.tied.count(name) != 0) continue;
      if (unfilled.count(name) != 0) continue;
      loaded[name] = {list[i]["sha256"].get<std::string>(), tensors[i].dtype, tensors[i].shape};
    }
  };
  add(expected["params"], spec.params);
  if (expected.contains("buffers")) add(expected["buffers"], spec.buffers);
  return loaded;
}

// Returns how many targets were compared.
int CompareFolder(const std::string& folder) {
  const std::string text = ReadWholeFile(folder + "/expected.json");
  const absl::StatusOr<ModelSpec> spec = ParseModelSpec(text);
  EXPECT_THAT(spec, IsOk());
  const absl::StatusOr<CheckpointFiles> files = OpenCheckpoint(folder);
  EXPECT_THAT(files, IsOk());
  if (!spec.ok() || !files.ok()) return 0;
  const std::map<std::string, Loaded> expected = Expected(json::parse(text), *spec);
  std::map<std::string, Shape> model;
  for (const SpecTensor& tensor : spec->params) model[tensor.name] = tensor.shape;
  for (const SpecTensor& tensor : spec->buffers) model[tensor.name] = tensor.shape;
  std::set<std::string> seen;
  int compared = 0;
  std::map<std::string, std::string> unfilled;
  MaterialiseInput input;
  input.files = &*files;
  input.spec = &*spec;
  const absl::Status run = MaterialiseTargets(
      input,
      [&](MaterialisedTarget target) {
        if (model.count(target.name) == 0 || model[target.name] != target.tensor.shape) {
          return absl::OkStatus();
        }
        EXPECT_TRUE(seen.insert(target.name).second) << target.name;
        const auto loaded = expected.find(target.name);
        if (loaded == expected.end()) {
          if (!expected.empty()) ADD_FAILURE() << target.name << " was not loaded by the library";
          return absl::OkStatus();
        }
        const absl::StatusOr<std::string> bytes =
            CastBytes(std::move(target.tensor.bytes), target.tensor.dtype, loaded->second.dtype);
        EXPECT_THAT(bytes, IsOk());
        if (!bytes.ok()) return absl::OkStatus();
        EXPECT_EQ(Sha256Hex(*bytes), loaded->second.sha256) << target.name;
        ++compared;
        return absl::OkStatus();
      },
      &unfilled);
  EXPECT_THAT(run, IsOk());
  for (const auto& [name, _] : expected) {
    EXPECT_EQ(seen.count(name), 1u)
        << name << " is not made; " << (unfilled.count(name) != 0 ? unfilled[name] : "");
  }
  return compared;
}

TEST(Materialise, EqualsTheLibrary) {
  const std::string root = GoldenFolder("ZC_GOLDEN_CHECKPOINTS", "checkpoints");
  std::set<std::string> folders;
  for (const auto& entry : std::filesystem::directory_iterator(root)) {
    if (std::filesystem::exists(entry.path() / "expected.json")) folders.insert(entry.path());
  }
  ASSERT_GE(folders.size(), 5u) << root;
  int compared = 0;
  for (const std::string& folder : folders) {
    SCOPED_TRACE(folder);
    compared += CompareFolder(folder);
  }
  EXPECT_GE(compared, 100);
  RecordProperty("targets", compared);
}

TEST(Materialise, KeyMappingKeepsItsOrder) {
  ZC_ASSERT_OK_AND_ASSIGN(const std::vector<Rule> rules,
                          RenamesFromKeyMapping(R"({"^z": "a", "^a": "b"})"));
  ASSERT_EQ(rules.size(), 2u);
  EXPECT_EQ(rules[0].from[0], "^z");
  EXPECT_EQ(rules[1].to[0], "b");
  EXPECT_FALSE(RenamesFromKeyMapping(R"({"^z": 1})").ok());
  EXPECT_FALSE(RenamesFromKeyMapping("[").ok());
}

}  // namespace
}  // namespace zerocast::verify
