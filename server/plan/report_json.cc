#include "server/plan/report_json.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "nlohmann/json.hpp"
#include "server/plan/reads.h"

namespace zerocast {

using nlohmann::ordered_json;

ordered_json ReportToJson(const Report& report, const std::string& plan_digest) {
  ordered_json mismatched = ordered_json::array();
  for (const MismatchedWeight& weight : report.mismatched) {
    mismatched.push_back({{"name", weight.name},
                          {"checkpoint_shape", weight.checkpoint_shape},
                          {"model_shape", weight.model_shape}});
  }
  ordered_json errors = ordered_json::array();
  for (const ConversionError& error : report.conversion_errors) {
    errors.push_back(
        {{"target", error.target}, {"sources", error.sources}, {"message", error.message}});
  }
  ordered_json json;
  json["missing"] = report.missing;
  json["unexpected"] = report.unexpected;
  json["mismatched"] = std::move(mismatched);
  json["conversion_errors"] = std::move(errors);
  json["missing_unknown"] = report.missing_unknown;
  json["dtype"] = report.dtype;
  json["dtype_reason"] = report.dtype_reason;
  json["plan_digest"] = plan_digest;
  return json;
}

ordered_json PlanSummaryToJson(const Plan& plan, const Schedule& schedule) {
  int64_t num_boxes = 0, num_buffers = 0, num_elements = 0;
  for (const Target& target : plan.targets) {
    num_boxes += static_cast<int64_t>(target.boxes.size());
    num_buffers += target.is_buffer ? 1 : 0;
    num_elements += target.num_elements;
  }
  const std::vector<int32_t> first_ranks = FirstRanks(plan.layout);
  ordered_json nodes = ordered_json::array();
  for (int32_t node = 0; node < plan.layout.num_nodes; ++node) {
    const int64_t ranks = first_ranks[node + 1] - first_ranks[node];
    const int64_t reads = schedule.ReadBytes(node);
    nodes.push_back(
        {{"node", node},
         {"ranks", ranks},
         {"arena_bytes", ranks * plan.arena_bytes},
         {"read_bytes", reads},
         {"memory_bytes", ranks * plan.arena_bytes + std::min(reads, plan.layout.round_bytes)}});
  }
  ordered_json json;
  json["targets"] = plan.targets.size();
  json["buffers"] = num_buffers;
  json["boxes"] = num_boxes;
  json["elements"] = num_elements;
  json["rounds"] = schedule.num_rounds();
  json["world_size"] = plan.layout.world_size;
  json["arena_bytes_by_rank"] = plan.arena_bytes;
  json["nodes"] = std::move(nodes);
  json["plan_digest"] = plan.digest;
  return json;
}

}  // namespace zerocast
