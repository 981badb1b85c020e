#ifndef ZEROCAST_SERVER_WIRE_REPORT_WIRE_H_
#define ZEROCAST_SERVER_WIRE_REPORT_WIRE_H_

#include <vector>

#include "server/plan/node_memory.h"
#include "server/plan/plan.h"
#include "server/plan/schedule.h"
#include "zerocast/v1/types.pb.h"

namespace zerocast {

// What checkpoint and model do not agree on, both ways.  Total: every value has an image.
v1::LoadReport ReportToProto(const Report& report);
Report ReportFromProto(const v1::LoadReport& report);

// What `plan` will do; `schedule` must be the plan's.
v1::PlanSummary PlanSummaryToProto(const Plan& plan, const Schedule& schedule);

void AddMemory(const std::vector<MemoryNeeds>& memory, v1::PlanSummary* out);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_WIRE_REPORT_WIRE_H_
