#ifndef ZEROCAST_CLIENT_CLI_CHECKPOINT_OUTPUT_H_
#define ZEROCAST_CLIENT_CLI_CHECKPOINT_OUTPUT_H_

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "zerocast/v1/checkpoint.pb.h"

namespace zerocast {

// How the checkpoints that a server keeps are shown.

// "complete", "incomplete", "changed", "gone".
std::string StateName(const v1::Checkpoint& checkpoint);

// "2026-11-27T10:00:00Z".
std::string TimeText(const google::protobuf::Timestamp& time);

nlohmann::ordered_json CheckpointJson(const v1::Checkpoint& checkpoint);
nlohmann::ordered_json ListJson(const std::vector<v1::Checkpoint>& checkpoints);

// A table for each folder and job; beside each other their names would need more than 80 columns.
std::string TablesText(const std::vector<v1::Checkpoint>& checkpoints);

// A line for each that is not complete.
std::string ProblemsText(const std::vector<v1::Checkpoint>& checkpoints);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_CLI_CHECKPOINT_OUTPUT_H_
