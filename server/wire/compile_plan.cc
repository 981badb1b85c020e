#include <vector>

#include "kernels/base/status_macros.h"
#include "server/conversion/model_spec.h"
#include "server/plan/plan.h"
#include "server/wire/key_mapping.h"
#include "server/wire/plan_input.h"

namespace zerocast {

absl::StatusOr<Plan> CompilePlanInput(const PlanInput& input, Report* report) {
  ZC_ASSIGN_OR_RETURN(const std::vector<Rule> key_mapping, ParseKeyMapping(input.key_mapping_json));
  if (input.model_spec_json.empty()) {
    return CompilePlan(input.manifest, nullptr, key_mapping, input.layout, report);
  }
  ZC_ASSIGN_OR_RETURN(const ModelSpec spec, ParseModelSpec(input.model_spec_json));
  return CompilePlan(input.manifest, &spec, key_mapping, input.layout, report);
}

}  // namespace zerocast
