#include "tests/server/conversion/recorded_ops.h"

#include <cstring>

#include "kernels/copy/copy.h"
#include "server/conversion/rule_json.h"

namespace zerocast {

using nlohmann::json;

std::vector<std::string> ReadRecordedOps() {
  return ReadLines(GoldenFolder("ZC_GOLDEN_OPS", "ops") + "/ops.jsonl.gz");
}

absl::StatusOr<Rule> RuleOfRecordedOp(const json& line) {
  json op = line["args"];
  op["op"] = line["op"];
  return RuleFromJson({{"class", "WeightConverter"},
                       {"source_patterns", line["source_patterns"]},
                       {"target_patterns", line["target_patterns"]},
                       {"operations", json::array({op})}},
                      "rule");
}

StoredTensor ReadRecordedTensor(const json& recorded) {
  StoredTensor tensor;
  tensor.dtype = DTypeFromName(recorded["dtype"].get<std::string>().c_str());
  tensor.shape = recorded["shape"].get<std::vector<int64_t>>();
  if (recorded.contains("hex")) {
    const std::string hex = recorded["hex"];
    for (size_t at = 0; at < hex.size(); at += 2) {
      tensor.bytes.push_back(static_cast<char>(std::stoi(hex.substr(at, 2), nullptr, 16)));
    }
    return tensor;
  }
  for (const json& value : recorded["data"]) {
    const double number = value.is_boolean() ? (value.get<bool>() ? 1 : 0) : value.get<double>();
    char element[8] = {};
    if (IsFloating(tensor.dtype)) {
      CastElements(&number, DType::kFloat64, element, tensor.dtype, 1);
    } else {
      const auto integer = static_cast<int64_t>(number);
      std::memcpy(element, &integer, SizeOf(tensor.dtype));
    }
    tensor.bytes.append(element, SizeOf(tensor.dtype));
  }
  return tensor;
}

std::vector<StoredTensor> ReadRecordedTensors(const json& recorded) {
  std::vector<StoredTensor> tensors;
  for (const json& one : recorded.is_array() ? recorded : json::array({recorded})) {
    tensors.push_back(ReadRecordedTensor(one));
  }
  return tensors;
}

RecordedModel ReadRecordedModel(const json& line) {
  RecordedModel model;
  model.name = line.value("full_layer_name", "");
  model.config = line.contains("config") ? line["config"] : json::object();
  if (!line.contains("model_params")) return model;
  for (const auto& [name, tensor] : line["model_params"].items()) {
    model.shapes[name] = tensor["shape"].get<std::vector<int64_t>>();
    if (name == model.name) {
      model.dtype = DTypeFromName(tensor["dtype"].get<std::string>().c_str());
    }
  }
  return model;
}

}  // namespace zerocast
