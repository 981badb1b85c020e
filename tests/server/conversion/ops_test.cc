// Recorded runs of single operations of both releases.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "kernels/copy/copy.h"
#include "kernels/copy/decode_box.h"
#include "nlohmann/json.hpp"
#include "server/conversion/decoders.h"
#include "server/conversion/lower.h"
#include "tests/each_element.h"
#include "tests/server/conversion/recorded_ops.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using nlohmann::json;

// The operations that move elements.
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

// What no load of a safetensors checkpoint runs, and why.
const std::map<std::string, std::string>& OutOfScope() {
  static const auto* const reasons = [] {
    const std::string gguf = "only GGUF files are loaded with it";
    const std::string peft = "only adapters are loaded with it";
    return new std::map<std::string, std::string>{
        {"Fp8Quantize", "quantises: the way back of Fp8Dequantize, when saving"},
        {"_IdentityOp", "the way back of Mxfp4Dequantize, when saving: stays unquantised"},
        {"MetalDequantize", "only checkpoints of quant_method metal, which are refused by name"},
        {"Cast", gguf},
        {"ConcatenateRows", gguf},
        {"LogNegate", gguf},
        {"PermuteInputFeatures", gguf},
        {"PermuteRows", gguf},
        {"SubtractOne", gguf},
        {"TiledToGroupedInputs", gguf},
        {"TiledToGroupedRows", gguf},
        {"Unsqueeze", gguf},
        {"FlattenDims", peft},
        {"PermuteDims", peft}};
  }();
  return *reasons;
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
  std::vector<std::string> bytes;
  std::vector<DType> dtypes;
};

Inputs ReadInputs(const json& inputs, const json& order) {
  Inputs result;
  const auto add = [&](const json& tensor, Entry* entry) {
    StoredTensor read = ReadRecordedTensor(tensor);
    entry->values.push_back(
        WholeValue(static_cast<int32_t>(result.elements.size()), std::move(read.shape)));
    result.elements.push_back(Elements(tensor));
    result.dtypes.push_back(read.dtype);
    result.bytes.push_back(std::move(read.bytes));
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
    ForEachElement(box, [&](int64_t from, int64_t to) {
      elements.at(to) = inputs.elements.at(box.source).at(from);
    });
  }
  return elements;
}

// Runs the boxes on the real bytes: decoded to `dtype`, or to what the decoder says where that is
// kInvalid.
std::string RunOnBytes(const Value& value, const Inputs& inputs,
                       const std::vector<SourceDecoder>& decoders, DType dtype) {
  std::string bytes;
  for (const Box& box : value.boxes) {
    const SourceDecoder* decoder = nullptr;
    for (const SourceDecoder& one : decoders) {
      if (one.source == box.source) decoder = &one;
    }
    const DType stored = inputs.dtypes[box.source];
    const DType to = decoder == nullptr         ? stored
                     : dtype != DType::kInvalid ? dtype
                                                : decoder->dtype;
    bytes.resize(Product(value.shape) * SizeOf(to), '?');
    if (decoder == nullptr) {
      CopyBox(box, inputs.bytes[box.source].data(), stored, bytes.data(), to);
    } else {
      DecodeBox(box, decoder->decoder,
                {inputs.bytes[box.source].data(), 0, inputs.bytes[decoder->scale].data(), 0},
                bytes.data(), to);
    }
  }
  return bytes;
}

// What a recorded operation gave, run here.
struct Output {
  absl::StatusOr<Entries> entries;
  Inputs inputs;
  std::vector<SourceDecoder> decoders;
  bool decodes = false;
  DType param_dtype = DType::kInvalid;  // of the parameter that is loaded
};

bool Equal(const json& expected, const Value& value, const Output& output) {
  if (expected["shape"] != json(value.shape)) return false;
  if (!output.decodes) return Elements(expected) == RunBoxes(value, output.inputs);
  return ReadRecordedTensor(expected).bytes ==
         RunOnBytes(value, output.inputs, output.decoders, output.param_dtype);
}

Output Run(const Rule& rule, const json& line) {
  const RecordedModel model = ReadRecordedModel(line);
  Output output{Entries(), {}, {}, false, DType::kInvalid};
  const int generation = line["dialect"] == "5.1.0" ? 1 : 2;
  // 5.1.0 decodes to the dtype of the scales, or bfloat16, whatever the parameter has.
  if (generation > 1) output.param_dtype = model.dtype;
  const auto model_shape = [&](absl::string_view name) -> const std::vector<int64_t>* {
    const auto found = model.shapes.find(std::string(name));
    return found == model.shapes.end() ? nullptr : &found->second;
  };
  const OpContext context{rule.from, rule.to,       model.name, model_shape,
                          true,      &model.config, generation};
  json order = json::array();
  for (const auto& [name, value] : line["inputs"].items()) order.push_back(name);
  output.inputs = ReadInputs(line["inputs"], order);
  const auto dtype = [&output](int32_t source) { return output.inputs.dtypes[source]; };
  output.entries = output.inputs.entries;
  for (const Op& op : rule.ops) {
    if (!output.entries.ok()) break;
    output.decodes |= IsDecode(op.kind);
    output.entries =
        IsDecode(op.kind)
            ? ApplyDecode(op, *output.entries, {model.name, dtype, generation}, &output.decoders)
            : ApplyOp(op, *output.entries, context);
  }
  return output;
}

// "" where the operation did what it did in the library.
std::string Difference(const json& line) {
  const absl::StatusOr<Rule> rule = RuleOfRecordedOp(line);
  if (!rule.ok()) return rule.status().ToString();
  const Output output = Run(*rule, line);
  const json& expect = line["expect"];
  if (expect.contains("error")) return output.entries.ok() ? "should be an error" : "";
  if (!output.entries.ok()) return output.entries.status().ToString();
  if (output.entries->size() != expect.size()) return "another number of results";
  for (const Entry& entry : *output.entries) {
    if (!expect.contains(entry.name)) return "another name: " + entry.name;
    const json& wanted = expect[entry.name];
    if (wanted.is_array() != entry.is_list) return entry.name + ": a list and a tensor";
    const json list = wanted.is_array() ? wanted : json::array({wanted});
    if (list.size() != entry.values.size()) return entry.name + ": another length";
    for (size_t i = 0; i < list.size(); ++i) {
      if (!Equal(list[i], entry.values[i], output)) {
        return entry.name + ": other values, shape " + ShapeText(entry.values[i].shape);
      }
    }
  }
  return "";
}

// Lines by operation; passed, or out of scope.
void Print(const std::map<std::string, int>& passed, const std::map<std::string, int>& left_out) {
  for (const auto& [op, lines] : passed) std::printf("%-40s %4d passed\n", op.c_str(), lines);
  for (const auto& [op, lines] : left_out) {
    std::printf("%-40s %4d out of scope: %s\n", op.c_str(), lines, OutOfScope().at(op).c_str());
  }
}

TEST(OpsTest, DoWhatTheLibraryDoes) {
  const std::set<std::string> decoders = {"Fp8Dequantize", "Mxfp4Dequantize"};
  std::map<std::string, int> passed, left_out;
  int movers = 0, decoded = 0, failures = 0;
  for (const std::string& text : ReadRecordedOps()) {
    const json line = json::parse(text);
    const std::string op = line["op"];
    if (OutOfScope().count(op) != 0) {
      ++left_out[op];
      EXPECT_THAT(RuleOfRecordedOp(line),
                  StatusIs(absl::StatusCode::kUnimplemented,
                           testing::HasSubstr("'" + op + "' is not covered")));
      continue;
    }
    if (Movers().count(op) != 0) ++movers;
    if (decoders.count(op) != 0) ++decoded;
    const std::string difference = Difference(line);
    if (difference.empty()) {
      ++passed[op];
    } else if (++failures <= 30) {
      ADD_FAILURE() << difference << "\n  " << text.substr(0, 900);
    }
  }
  Print(passed, left_out);
  int lines = failures;
  for (const auto* counted : {&passed, &left_out}) {
    for (const auto& [op, count] : *counted) lines += count;
  }
  EXPECT_GE(lines, 1500) << "each line is run, or left out with a reason";
  EXPECT_EQ(failures, 0);
  EXPECT_GE(movers, 900);
  EXPECT_GE(decoded, 140);
}

}  // namespace
}  // namespace zerocast
