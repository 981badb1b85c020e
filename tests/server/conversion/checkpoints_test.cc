// Recorded checkpoints: what the conversion finds must be what the library found (missing,
// unexpected, mismatched, failed), and its boxes, run one element at a time, must give the
// library's bytes.  ZC_GOLDEN_CHECKPOINTS may name a folder with the whole recording.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "server/conversion/choose_rules.h"
#include "server/conversion/convert.h"
#include "server/conversion/model_spec.h"
#include "server/conversion/pattern.h"
#include "tests/server/conversion/golden.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using nlohmann::json;
using ::testing::UnorderedElementsAreArray;

using NamesAndShapes = std::map<std::string, std::vector<std::vector<int64_t>>>;

// One element as `to`: the same type, or float32 and bfloat16 (finite, nearest, ties to even) into
// each other.  "" for another cast.
std::string CastElement(const std::string& element, DType from, DType to) {
  if (from == to) return element;
  uint32_t bits = 0;
  uint16_t half = 0;
  if (from == DType::kFloat32 && to == DType::kBFloat16) {
    std::memcpy(&bits, element.data(), sizeof(bits));
    half = static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    return std::string(reinterpret_cast<const char*>(&half), sizeof(half));
  }
  if (from == DType::kBFloat16 && to == DType::kFloat32) {
    std::memcpy(&half, element.data(), sizeof(half));
    bits = static_cast<uint32_t>(half) << 16;
    return std::string(reinterpret_cast<const char*>(&bits), sizeof(bits));
  }
  return "";
}

// The target's bytes in `dtype`; nothing where the cast is not one that this test knows.
std::optional<std::string> RunBoxes(const ConvertedTensor& tensor,
                                    const std::vector<StoredTensor>& sources, DType dtype) {
  int64_t numel = 1;
  for (int64_t size : tensor.shape) numel *= size;
  const int64_t size = SizeOf(dtype);
  std::string bytes(numel * size, '\0');
  std::vector<int> written(numel, 0);
  for (const Box& box : tensor.boxes) {
    const StoredTensor& source = sources[box.source];
    int64_t index[kMaxBoxDims] = {};
    for (int64_t i = 0; i < NumElements(box); ++i) {
      int64_t from = box.source_offset, to = box.target_offset;
      for (int k = 0; k < box.num_dims; ++k) {
        from += index[k] * box.dims[k].source_stride;
        to += index[k] * box.dims[k].target_stride;
      }
      ++written.at(to);
      const int64_t source_size = SizeOf(source.dtype);
      const std::string element =
          CastElement(source.bytes.substr(from * source_size, source_size), source.dtype, dtype);
      if (element.empty()) return std::nullopt;
      bytes.replace(to * size, size, element);
      for (int k = box.num_dims - 1; k >= 0 && ++index[k] == box.dims[k].extent; --k) index[k] = 0;
    }
  }
  EXPECT_EQ(std::count(written.begin(), written.end(), 1), numel)
      << tensor.name << ": not every element is written exactly once";
  return bytes;
}

bool Ignored(const std::vector<std::string>& patterns, const std::string& name) {
  for (const std::string& pattern : patterns) {
    absl::StatusOr<Regex> regex = Regex::Compile(pattern);
    if (regex.ok() && regex->Search(name).value_or(false)) return true;
  }
  return false;
}

// One folder, read and converted.
struct Case {
  json expected;
  ModelSpec spec;
  std::vector<SpecTensor> model;  // with tied aliases
  std::vector<SourceTensor> sources;
  std::vector<StoredTensor> stored;
  Conversion conversion;
};

void Load(const std::string& folder, Case* result) {
  const std::string text = ReadWholeFile(folder + "/expected.json");
  result->expected = json::parse(text);
  ZC_ASSERT_OK_AND_ASSIGN(result->spec, ParseModelSpec(text));
  // What is written and read back is the same spec.
  ZC_ASSERT_OK_AND_ASSIGN(const ModelSpec again, ParseModelSpec(ModelSpecToJson(result->spec)));
  ASSERT_EQ(ModelSpecToJson(again), ModelSpecToJson(result->spec));
  result->model = again.params;
  result->model.insert(result->model.end(), again.buffers.begin(), again.buffers.end());
  std::map<std::string, SpecTensor> by_name;
  for (const SpecTensor& tensor : result->model) by_name[tensor.name] = tensor;
  for (const auto& [alias, holder] : again.tied) {
    if (by_name.count(alias) > 0) continue;
    SpecTensor tensor = by_name.at(holder);
    tensor.name = alias;
    result->model.push_back(tensor);
  }
  for (auto& [name, tensor] : ReadSafetensors(folder)) {
    result->sources.push_back({name, tensor.dtype, tensor.shape});
    result->stored.push_back(std::move(tensor));
  }
  ConversionRules rules;
  rules.rules = again.transforms;
  ZC_ASSERT_OK_AND_ASSIGN(rules.dialect, CatalogueDialect("5.23.0"));
  rules.base_model_prefix = again.base_model_prefix;
  rules.has_base_model_prefix = again.has_base_model_prefix;
  rules.config_json = ReadWholeFile(folder + "/config.json");
  ConversionInput input;
  input.sources = result->sources;
  input.rules = &rules;
  input.model = result->model;
  ZC_ASSERT_OK_AND_ASSIGN(result->conversion, Convert(input));
}

std::map<std::string, std::vector<int64_t>> ModelShapes(const Case& c) {
  std::map<std::string, std::vector<int64_t>> shapes;
  for (const SpecTensor& tensor : c.model) shapes[tensor.name] = tensor.shape;
  return shapes;
}

// Missing, unexpected and mismatched as recorded.
void CompareReport(const Case& c) {
  const auto shapes = ModelShapes(c);
  std::set<std::string> found;
  NamesAndShapes mismatched, want_mismatched;
  for (const ConvertedTensor& tensor : c.conversion.tensors) {
    found.insert(tensor.name);
    if (tensor.shape != shapes.at(tensor.name)) {
      mismatched[tensor.name] = {tensor.shape, shapes.at(tensor.name)};
    }
  }
  for (const auto& [alias, holder] : c.spec.tied) {
    if (found.count(alias) + found.count(holder) > 0) {
      found.insert(alias);
      found.insert(holder);
    }
  }
  std::vector<std::string> missing, unexpected;
  for (const auto& [name, shape] : shapes) {
    if (found.count(name) == 0 && !Ignored(c.spec.ignore_missing, name)) missing.push_back(name);
  }
  for (const std::string& name : c.conversion.unexpected) {
    if (!Ignored(c.spec.ignore_unexpected, name)) unexpected.push_back(name);
  }
  const json& info = c.expected["loading_info"];
  for (const json& entry : info["mismatched_keys"]) {
    want_mismatched[entry["name"]] = {entry["checkpoint_shape"], entry["model_shape"]};
  }
  EXPECT_THAT(missing,
              UnorderedElementsAreArray(info["missing_keys"].get<std::vector<std::string>>()));
  EXPECT_THAT(unexpected,
              UnorderedElementsAreArray(info["unexpected_keys"].get<std::vector<std::string>>()));
  EXPECT_EQ(mismatched, want_mismatched);
  EXPECT_TRUE(c.conversion.errors.empty())
      << c.conversion.errors[0].target << ": " << c.conversion.errors[0].message;
}

// The targets that the library could not convert, and why.
void CompareErrors(const Case& c) {
  std::map<std::string, std::string> messages;
  for (const ConversionError& error : c.conversion.errors) {
    messages[error.target] = error.message;
    EXPECT_FALSE(error.sources.empty()) << error.target;
  }
  for (const auto& [target, lines] : c.expected["conversion_errors"].items()) {
    ASSERT_EQ(messages.count(target), 1u) << target;
    EXPECT_THAT(messages[target], ::testing::HasSubstr(lines[0].get<std::string>()));
    messages.erase(target);
  }
  EXPECT_THAT(messages, ::testing::IsEmpty());
}

// The bytes of every tensor that the library loaded.  Returns how many were compared.
int CompareBytes(const Case& c) {
  std::map<std::string, std::string> digests;
  std::map<std::string, DType> dtypes;
  for (const char* kind : {"params", "buffers"}) {
    for (const json& tensor : c.expected[kind]) {
      if (tensor.contains("sha256")) digests[tensor["name"]] = tensor["sha256"];
      dtypes[tensor["name"]] = DTypeFromName(tensor["dtype"].get<std::string>().c_str());
    }
  }
  int compared = 0;
  for (const ConvertedTensor& tensor : c.conversion.tensors) {
    std::string name = tensor.name;
    if (digests.count(name) == 0 && c.spec.tied.count(name) > 0) name = c.spec.tied.at(name);
    if (digests.count(name) == 0) continue;
    const std::optional<std::string> bytes = RunBoxes(tensor, c.stored, dtypes[name]);
    if (!bytes.has_value()) {
      ADD_FAILURE() << name << ": stored as " << DTypeName(tensor.dtype) << ", wanted as "
                    << DTypeName(dtypes[name]) << ": the test does not know the cast";
      continue;
    }
    EXPECT_EQ(Sha256Hex(*bytes), digests[name]) << tensor.name;
    digests.erase(name);
    ++compared;
  }
  for (const auto& [alias, holder] : c.spec.tied) {
    if (digests.count(holder) == 0) digests.erase(alias);
  }
  for (const auto& [name, digest] : digests) ADD_FAILURE() << name << ": was not converted";
  return compared;
}

TEST(CheckpointsTest, ConvertAsByTheLibrary) {
  int folders = 0, compared = 0;
  std::vector<std::string> paths;
  for (const auto& entry :
       std::filesystem::directory_iterator(GoldenFolder("ZC_GOLDEN_CHECKPOINTS", "checkpoints"))) {
    paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  for (const std::string& path : paths) {
    SCOPED_TRACE(path);
    Case c;
    Load(path, &c);
    if (HasFatalFailure()) continue;
    ++folders;
    if (c.expected.contains("conversion_errors")) {
      CompareErrors(c);
    } else {
      CompareReport(c);
      compared += CompareBytes(c);
    }
  }
  std::printf("%d folders, %d tensors with equal digests\n", folders, compared);
  EXPECT_GE(folders, 20);
}

// Without a spec: the table's rules by the class in config.json, those of its sub-models in their
// scopes, any name taken as the model's.
bool CanDoWithoutSpec(const Case& c) {
  if (c.expected.contains("error") || !c.spec.buffers.empty() || !c.spec.tied.empty()) return false;
  const json variant = c.expected.contains("variant") ? c.expected["variant"] : json("");
  if (variant != json("") && variant.dump().find("shuffled") == std::string::npos) return false;
  for (const Rule& rule : c.spec.transforms) {
    for (const Op& op : rule.ops) {
      if (op.check_dims || op.kind == OpKind::kSplitByTarget) return false;
    }
  }
  return true;
}

TEST(CheckpointsTest, ConvertWithoutASpec) {
  int folders = 0, scoped = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(GoldenFolder("ZC_GOLDEN_CHECKPOINTS", "checkpoints"))) {
    SCOPED_TRACE(entry.path());
    Case c;
    Load(entry.path(), &c);
    if (HasFatalFailure() || !CanDoWithoutSpec(c)) continue;
    ++folders;
    const std::string config_json = ReadWholeFile(entry.path().string() + "/config.json");
    RuleChoice choice;
    choice.config_json = config_json;
    ZC_ASSERT_OK_AND_ASSIGN(const ConversionRules rules, ChooseRules(choice));
    scoped += std::any_of(rules.rules.begin(), rules.rules.end(),
                          [](const Rule& rule) { return rule.has_scope; });
    ConversionInput input;
    input.sources = c.sources;
    input.rules = &rules;
    input.any_name = true;
    ZC_ASSERT_OK_AND_ASSIGN(Conversion conversion, Convert(input));
    NamesAndShapes with_spec, without;
    for (const ConvertedTensor& tensor : c.conversion.tensors) {
      with_spec[tensor.name] = {tensor.shape};
    }
    for (const ConvertedTensor& tensor : conversion.tensors) {
      without[tensor.name] = {tensor.shape};
      EXPECT_EQ(without[tensor.name], with_spec[tensor.name]) << tensor.name;
    }
    EXPECT_EQ(without.size(), with_spec.size());
    c.conversion = std::move(conversion);
    CompareBytes(c);
  }
  EXPECT_GE(folders, 8);
  EXPECT_GE(scoped, 1);
  std::printf("%d folders, %d of them with rules of sub-models\n", folders, scoped);
}

}  // namespace
}  // namespace zerocast
