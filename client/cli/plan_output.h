#ifndef ZEROCAST_CLIENT_CLI_PLAN_OUTPUT_H_
#define ZEROCAST_CLIENT_CLI_PLAN_OUTPUT_H_

#include <nlohmann/json.hpp>
#include <string>

#include "zerocast/v1/types.pb.h"

namespace zerocast {

// What commands say of how a plan lays shards out, and why so.

// Adds `zero_stage`, for which the shards are laid out, and why; null where it is not known.
void AddStage(const v1::PlanSummary& plan, nlohmann::ordered_json* document);
// A line that says the same; empty where it is not known.
std::string StageText(const v1::PlanSummary& plan);

// "device" or "host"; "" where it is not known.
std::string PlacementName(v1::Placement placement);
// A line that says why shards lie in host memory where the config decided it; else empty.
std::string PlacementText(const v1::PlanSummary& plan);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_CLI_PLAN_OUTPUT_H_
