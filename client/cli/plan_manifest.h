#ifndef ZEROCAST_CLIENT_CLI_PLAN_MANIFEST_H_
#define ZEROCAST_CLIENT_CLI_PLAN_MANIFEST_H_

#include <string>

#include "absl/status/statusor.h"
#include "zerocast/v1/job.pb.h"
#include "zerocast/v1/load.pb.h"

namespace zerocast {

// Compiles and proves, in this process, the plan of a checkpoint that exists as a listing only
// (model_listing.h; perhaps gzip).  `job` says the rest: topology and options, and a model spec
// that takes the place of the listing's; `num_threads` is what each agent would be told, 0:
// nothing.  Where the weights would stop a load, the answer has report and failure and no plan, as
// a server's.  Errors: those of reading the file; others of CompilePlan; each names it.
absl::StatusOr<v1::PlanLoadResponse> PlanManifest(const std::string& path, const v1::JobSpec& job,
                                                  int num_threads);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_CLI_PLAN_MANIFEST_H_
