#ifndef ZEROCAST_CLIENT_CLI_CHECKPOINT_OPTIMIZER_H_
#define ZEROCAST_CLIENT_CLI_CHECKPOINT_OPTIMIZER_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/formats/deepspeed/zero_checkpoint.h"

namespace zerocast {

// A group of an optimizer's parameters and its hyper-parameters ("lr", "weight_decay", "betas").
struct OptimizerGroup {
  int64_t num_parameters = 0, num_elements = 0;
  nlohmann::ordered_json values = nlohmann::ordered_json::object();

  nlohmann::ordered_json ToJson() const;
  // A value for people; "-" where there is none.
  std::string Text(const std::string& name) const;
};

// The groups of `checkpoint`, which has an optimizer: what rank 0 saved of them.  Values that JSON
// has no form for are left out.  Errors: DATA_LOSS, reason CHECKPOINT_CORRUPT.
absl::StatusOr<std::vector<OptimizerGroup>> OptimizerGroups(const ZeroCheckpoint& checkpoint);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_CLI_CHECKPOINT_OPTIMIZER_H_
