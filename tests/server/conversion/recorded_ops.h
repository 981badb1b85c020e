#ifndef ZEROCAST_TESTS_SERVER_CONVERSION_RECORDED_OPS_H_
#define ZEROCAST_TESTS_SERVER_CONVERSION_RECORDED_OPS_H_

// Recorded runs of single conversion operations of the real library: a JSON object a line, with
// "op", "args", "source_patterns", "target_patterns", "inputs" and "expect".

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "server/conversion/rule.h"
#include "tests/server/conversion/golden.h"

namespace zerocast {

// The lines, as text.  ZC_GOLDEN_OPS may name a folder with the whole recording.
std::vector<std::string> ReadRecordedOps();

// A rule whose only operation is the line's.
absl::StatusOr<Rule> RuleOfRecordedOp(const nlohmann::json& line);

// A tensor: small numbers, or bytes in hexadecimal.
StoredTensor ReadRecordedTensor(const nlohmann::json& recorded);
// The tensors of a list, or the one that is no list.
std::vector<StoredTensor> ReadRecordedTensors(const nlohmann::json& recorded);

// What the operation is told of the model.
struct RecordedModel {
  std::string name;  // of the parameter that is loaded; may be empty
  std::map<std::string, std::vector<int64_t>> shapes;
  DType dtype = DType::kInvalid;  // of that parameter, where the model has it
  nlohmann::json config;          // an object
};
RecordedModel ReadRecordedModel(const nlohmann::json& line);

}  // namespace zerocast

#endif  // ZEROCAST_TESTS_SERVER_CONVERSION_RECORDED_OPS_H_
