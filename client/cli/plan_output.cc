#include "client/cli/plan_output.h"

#include "absl/strings/str_cat.h"
#include "server/base/utf8.h"

namespace zerocast {

using Json = nlohmann::ordered_json;

std::string PlacementName(v1::Placement placement) {
  switch (placement) {
    case v1::PLACEMENT_DEVICE:
      return "device";
    case v1::PLACEMENT_HOST:
      return "host";
    default:
      return "";
  }
}

void AddStage(const v1::PlanSummary& plan, Json* document) {
  const std::string& reason = plan.zero_stage_reason();
  (*document)["zero_stage"] = reason.empty() ? Json(nullptr) : Json(plan.zero_stage());
  (*document)["zero_stage_reason"] = reason;
}

std::string StageText(const v1::PlanSummary& plan) {
  if (plan.zero_stage_reason().empty()) return "";
  return absl::StrCat("shards of ZeRO stage ", plan.zero_stage(), " (",
                      EscapeControls(plan.zero_stage_reason()), ")\n");
}

std::string PlacementText(const v1::PlanSummary& plan) {
  if (plan.placement() != v1::PLACEMENT_HOST || plan.placement_reason().empty() ||
      plan.placement_reason() == "default" || plan.placement_reason() == "--device") {
    return "";
  }
  return absl::StrCat("shards in host memory: ", EscapeControls(plan.placement_reason()), "\n");
}

}  // namespace zerocast
