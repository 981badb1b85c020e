// Recorded runs of single operations of Transformers 5.23.0, and of the decoders of 5.1.0: the same
// elements, shapes, dtypes and names.

#include "client/verify/operations.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "tests/server/conversion/recorded_ops.h"
#include "tests/status_matchers.h"

namespace zerocast::verify {
namespace {

using nlohmann::json;

// The operations that move elements.
const char* const kMovers[] = {"MergeModulelist",
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
                               "VisionFuseAndPermuteForRope",
                               "VisionUnfuseAndPermuteForRope"};

// Those that decode quantised tensors.
const char* const kDecoders[] = {"Fp8Dequantize", "Mxfp4Dequantize"};

template <size_t kSize>
bool IsOneOf(const char* const (&names)[kSize], const std::string& name) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

std::vector<Tensor> ReadList(const json& recorded) {
  std::vector<Tensor> tensors;
  for (StoredTensor& one : ReadRecordedTensors(recorded)) {
    Tensor tensor;
    tensor.dtype = one.dtype;
    tensor.shape = std::move(one.shape);
    tensor.bytes = std::move(one.bytes);
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

// Tensors that this room does not join: it casts only among floating types.
bool MixesIntegers(const std::vector<NamedTensors>& input) {
  std::set<DType> dtypes;
  for (const NamedTensors& named : input) {
    for (const Tensor& tensor : named.tensors) dtypes.insert(tensor.dtype);
  }
  return dtypes.size() > 1 && !std::all_of(dtypes.begin(), dtypes.end(), IsFloating);
}

absl::StatusOr<std::vector<NamedTensors>> Run(const json& line, std::vector<NamedTensors> tensors) {
  const absl::StatusOr<Rule> rule = RuleOfRecordedOp(line);
  if (!rule.ok()) return rule.status();
  const RecordedModel model = ReadRecordedModel(line);
  // 5.1.0 decodes to the dtype of the scales, or bfloat16, whatever the parameter has.
  const DType dtype = line["dialect"] == "5.23.0" ? model.dtype : DType::kInvalid;
  const OperationContext context{rule->from,    rule->to,      model.name,
                                 &model.shapes, &model.config, dtype};
  for (const Op& step : rule->ops) {
    auto made = RunOperation(step, std::move(tensors), context);
    if (!made.ok()) return made.status();
    tensors = *std::move(made);
  }
  return tensors;
}

// "" where the operation did what it did in the library.
std::string Difference(const json& line, const std::vector<NamedTensors>& input) {
  const auto output = Run(line, input);
  const json& expect = line["expect"];
  if (expect.contains("error")) return output.ok() ? "should be an error" : "";
  if (!output.ok()) return output.status().ToString();
  if (output->size() != expect.size()) return "another number of results";
  for (const NamedTensors& made : *output) {
    if (!expect.contains(made.pattern)) return "another name: " + made.pattern;
    const std::vector<Tensor> wanted = ReadList(expect[made.pattern]);
    if (wanted.size() != made.tensors.size()) return made.pattern + ": another length";
    for (size_t i = 0; i < wanted.size(); ++i) {
      const Tensor& tensor = made.tensors[i];
      if (tensor.shape != wanted[i].shape) {
        return made.pattern + ": another shape: " + ShapeText(tensor.shape);
      }
      if (tensor.dtype != wanted[i].dtype) return made.pattern + ": another dtype";
      if (tensor.bytes != wanted[i].bytes) return made.pattern + ": other values";
    }
  }
  return "";
}

TEST(Operations, DoWhatTheLibraryDoes) {
  int compared = 0, decoded = 0, failures = 0;
  for (const std::string& text : ReadRecordedOps()) {
    const json line = json::parse(text);
    const bool decodes = IsOneOf(kDecoders, line["op"]);
    if (line["dialect"] != "5.23.0" && !decodes) continue;
    if (!decodes && !IsOneOf(kMovers, line["op"])) continue;
    std::vector<NamedTensors> input;
    for (const auto& [name, value] : line["inputs"].items()) {
      input.push_back({name, ReadList(value), /*single=*/!value.is_array()});
    }
    if (!decodes && MixesIntegers(input)) continue;
    ++compared;
    if (decodes) ++decoded;
    const std::string difference = Difference(line, input);
    if (difference.empty()) continue;
    if (++failures <= 30) ADD_FAILURE() << difference << "\n  " << text.substr(0, 900);
  }
  EXPECT_GE(compared, 300);
  EXPECT_GE(decoded, 140);
  EXPECT_EQ(failures, 0) << "of " << compared << " lines";
}

}  // namespace
}  // namespace zerocast::verify
