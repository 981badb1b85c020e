// Recorded runs of single operations of both releases.  ZC_GOLDEN_OPS may name a folder with the
// whole recording.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "server/conversion/lower.h"
#include "server/conversion/rule_json.h"
#include "tests/server/conversion/golden.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using nlohmann::json;

// The operations that move elements.  Others compute values.
const std::set<std::string>& Movers() {
  static const auto* const movers =
      new std::set<std::string>{"MergeModulelist",
                                "SplitModulelist",
                                "Concatenate",
                                "Chunk",
                                "Split",
                                "Transpose",
                                "Interleave",
                                "PermuteForRope",
                                "ErnieFuseAndSplitTextVisionExperts",
                                "ErnieSplitAndDecoupleTextVisionExperts",
                                "Conv3dToLinear",
                                "LinearToConv3d",
                                "Force16BytesAlignment",
                                "VisionFuseAndPermuteForRope",
                                "VisionUnfuseAndPermuteForRope"};
  return *movers;
}

// The elements of a recorded tensor, each as text.
std::vector<std::string> Elements(const json& tensor) {
  std::vector<std::string> elements;
  if (tensor.contains("hex")) {
    const std::string hex = tensor["hex"];
    const size_t digits = 2 * SizeOf(DTypeFromName(tensor["dtype"].get<std::string>().c_str()));
    for (size_t at = 0; at < hex.size(); at += digits) elements.push_back(hex.substr(at, digits));
  } else {
    // As doubles: an integer in a joined tensor of floats is recorded as a float.
    for (const json& value : tensor["data"]) {
      elements.push_back(value.is_number() ? std::to_string(value.get<double>()) : value.dump());
    }
  }
  return elements;
}

struct Inputs {
  Entries entries;
  std::vector<std::vector<std::string>> elements;  // by source number
};

Inputs ReadInputs(const json& inputs, const json& order) {
  Inputs result;
  const auto add = [&](const json& tensor, Entry* entry) {
    entry->values.push_back(WholeValue(static_cast<int32_t>(result.elements.size()),
                                       tensor["shape"].get<std::vector<int64_t>>()));
    result.elements.push_back(Elements(tensor));
  };
  for (const json& name : order) {
    const json& value = inputs[name.get<std::string>()];
    Entry entry;
    entry.name = name;
    entry.is_list = value.is_array();
    if (entry.is_list) {
      for (const json& tensor : value) add(tensor, &entry);
    } else {
      add(value, &entry);
    }
    result.entries.push_back(std::move(entry));
  }
  return result;
}

std::vector<std::string> RunBoxes(const Value& value, const Inputs& inputs) {
  std::vector<std::string> elements(Product(value.shape), "not written");
  for (const Box& box : value.boxes) {
    int64_t index[kMaxBoxDims] = {};
    for (int64_t i = 0; i < NumElements(box); ++i) {
      int64_t from = box.source_offset, to = box.target_offset;
      for (int k = 0; k < box.num_dims; ++k) {
        from += index[k] * box.dims[k].source_stride;
        to += index[k] * box.dims[k].target_stride;
      }
      elements.at(to) = inputs.elements.at(box.source).at(from);
      for (int k = box.num_dims - 1; k >= 0 && ++index[k] == box.dims[k].extent; --k) index[k] = 0;
    }
  }
  return elements;
}

bool Equal(const json& expected, const Value& value, const Inputs& inputs) {
  return expected["shape"] == json(value.shape) && Elements(expected) == RunBoxes(value, inputs);
}

// "" where the operation did what it did in the library.
std::string Difference(const json& line) {
  json op_json = line["args"];
  op_json["op"] = line["op"];
  const json rule_json = {{"class", "WeightConverter"},
                          {"source_patterns", line["source_patterns"]},
                          {"target_patterns", line["target_patterns"]},
                          {"operations", json::array({op_json})}};
  const absl::StatusOr<Rule> rule = RuleFromJson(rule_json, "rule");
  if (!rule.ok()) return rule.status().ToString();

  std::map<std::string, std::vector<int64_t>> model;
  if (line.contains("model_params")) {
    for (const auto& [name, tensor] : line["model_params"].items()) {
      model[name] = tensor["shape"].get<std::vector<int64_t>>();
    }
  }
  const auto model_shape = [&](absl::string_view name) -> const std::vector<int64_t>* {
    const auto found = model.find(std::string(name));
    return found == model.end() ? nullptr : &found->second;
  };
  const json config = line.contains("config") ? line["config"] : json::object();
  const std::string full_name =
      line.contains("full_layer_name") ? line["full_layer_name"].get<std::string>() : "";
  const int generation = line["dialect"] == "5.1.0" ? 1 : 2;
  const OpContext context{rule->from, rule->to, full_name, model_shape, true, &config, generation};

  json order = json::array();
  for (const auto& [name, value] : line["inputs"].items()) order.push_back(name);
  const Inputs inputs = ReadInputs(line["inputs"], order);
  absl::StatusOr<Entries> output = inputs.entries;
  for (const Op& op : rule->ops) {
    if (output.ok()) output = ApplyOp(op, *std::move(output), context);
  }
  const json& expect = line["expect"];
  if (expect.contains("error")) return output.ok() ? "should be an error" : "";
  if (!output.ok()) return output.status().ToString();
  if (output->size() != expect.size()) return "another number of results";
  for (const Entry& entry : *output) {
    if (!expect.contains(entry.name)) return "another name: " + entry.name;
    const json& wanted = expect[entry.name];
    if (wanted.is_array() != entry.is_list) return entry.name + ": a list and a tensor";
    const json list = wanted.is_array() ? wanted : json::array({wanted});
    if (list.size() != entry.values.size()) return entry.name + ": another length";
    for (size_t i = 0; i < list.size(); ++i) {
      if (!Equal(list[i], entry.values[i], inputs)) {
        return entry.name + ": other values, shape " + ShapeText(entry.values[i].shape);
      }
    }
  }
  return "";
}

TEST(OpsTest, MoveElementsAsInTheLibrary) {
  int lines = 0, failures = 0;
  for (const std::string& text :
       ReadLines(GoldenFolder("ZC_GOLDEN_OPS", "ops") + "/ops.jsonl.gz")) {
    const json line = json::parse(text);
    if (Movers().count(line["op"]) == 0) continue;
    ++lines;
    const std::string difference = Difference(line);
    if (difference.empty()) continue;
    if (++failures <= 30) ADD_FAILURE() << difference << "\n  " << text.substr(0, 900);
  }
  EXPECT_GE(lines, 300);
  EXPECT_EQ(failures, 0) << "of " << lines << " lines";
}

}  // namespace
}  // namespace zerocast
