#ifndef ZEROCAST_SERVER_PLAN_REPORT_JSON_H_
#define ZEROCAST_SERVER_PLAN_REPORT_JSON_H_

#include <string>

#include "nlohmann/json_fwd.hpp"
#include "server/plan/plan.h"
#include "server/plan/schedule.h"

namespace zerocast {

// What report.json says of a plan (DESIGN.md section 8): missing, unexpected, mismatched,
// conversion_errors, missing_unknown, dtype, dtype_reason, plan_digest.  Names are as they came,
// perhaps not UTF-8: dump with error_handler_t::replace.
nlohmann::ordered_json ReportToJson(const Report& report, const std::string& plan_digest);

// What `zerocast plan` says beyond the report: numbers of targets, boxes and rounds, the bytes each
// rank holds, and for each node its ranks, the bytes it reads, and an estimate of its memory: the
// arenas of its ranks and one round of reads.
nlohmann::ordered_json PlanSummaryToJson(const Plan& plan, const Schedule& schedule);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_PLAN_REPORT_JSON_H_
