#include "client/cli/plan_manifest.h"

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/agent/memory_needs.h"
#include "client/cli/model_listing.h"
#include "client/formats/file.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/plan/check_buffers.h"
#include "server/plan/node_memory.h"
#include "server/plan/plan.h"
#include "server/plan/schedule.h"
#include "server/wire/gzip.h"
#include "server/wire/plan_input.h"
#include "server/wire/plan_wire.h"
#include "server/wire/report_wire.h"
#include "server/wire/status.h"

namespace zerocast {
namespace {

constexpr int64_t kMaxListingBytes = int64_t{512} << 20;

absl::StatusOr<ModelListing> ReadListing(const std::string& path) {
  ZC_ASSIGN_OR_RETURN(std::string text, ReadTextFile(path, kMaxListingBytes));
  ZC_ASSIGN_OR_RETURN(text, GunzipIfPacked(std::move(text), path, kMaxListingBytes));
  absl::StatusOr<ModelListing> listing = ParseModelListing(text);
  if (!listing.ok()) return Annotate(listing.status(), path);
  return listing;
}

// As the server lays a job out: contiguous ranks, the first nodes hold one more.
absl::StatusOr<Layout> LayoutOf(const v1::JobSpec& job, std::string* dtype_reason) {
  const v1::LoadOptions& options = job.options();
  Layout layout;
  layout.world_size = job.topology().world_size();
  const int32_t named = job.topology().nodes_size();
  layout.num_nodes = job.topology().num_nodes();
  if (layout.num_nodes == 0) layout.num_nodes = std::max(named, 1);
  if (named > 0 && layout.num_nodes != named) {
    return InvalidFields({{"--nodes", absl::StrCat("must be the number of nodes named by --node, ",
                                                   named, ", was ", layout.num_nodes)}});
  }
  if (layout.num_nodes > layout.world_size) {
    return InvalidFields({{"--nodes", absl::StrCat("must be at most the ", layout.world_size,
                                                   " ranks, was ", layout.num_nodes)}});
  }
  layout.node_of_rank = PlaceRanks(layout.world_size, layout.num_nodes);
  if (options.has_zero_stage()) layout.zero_stage = options.zero_stage();
  ZC_ASSIGN_OR_RETURN(layout.read_mode, ReadModeFromProto(options.read_mode()));
  ZC_ASSIGN_OR_RETURN(layout.move_mode, MoveModeFromProto(options.move_mode()));
  ZC_ASSIGN_OR_RETURN(layout.device, LoadDeviceFromProto(options.device()));
  *dtype_reason = "default";
  if (options.dtype() != v1::DTYPE_POLICY_UNSPECIFIED) {
    ZC_ASSIGN_OR_RETURN(layout.dtype, DTypePolicyFromProto(options.dtype()));
    *dtype_reason = "--dtype";
  }
  layout.round_bytes = options.round_bytes() > 0 ? options.round_bytes()
                       : options.max_buffer_bytes() > 0
                           ? DefaultRoundBytes(options.max_buffer_bytes())
                           : layout.round_bytes;
  layout.allow_missing.assign(options.allow_missing().begin(), options.allow_missing().end());
  layout.ignore_mismatched = options.ignore_mismatched();
  layout.dialect = options.dialect();
  layout.rule_table_json = options.rule_table_json();
  return layout;
}

}  // namespace

absl::StatusOr<v1::PlanLoadResponse> PlanManifest(const std::string& path, const v1::JobSpec& job,
                                                  int num_threads) {
  if (!job.deepspeed_config_json().empty()) {
    return InvalidFields({{"--ds-config",
                           "a listing is planned without a server, which reads the "
                           "config; give --dtype instead"}});
  }
  ZC_ASSIGN_OR_RETURN(ModelListing listing, ReadListing(path));
  PlanInput input;
  input.manifest = std::make_shared<const Manifest>(std::move(listing.manifest));
  input.model_spec_json = job.model_spec_json();
  if (input.model_spec_json.empty()) input.model_spec_json = std::move(listing.model_spec_json);
  input.key_mapping_json = job.options().key_mapping_json();
  Report report;
  ZC_ASSIGN_OR_RETURN(input.layout, LayoutOf(job, &report.dtype_reason));
  absl::StatusOr<Plan> compiled = CompilePlanInput(input, &report);
  v1::PlanLoadResponse response;
  if (!compiled.ok()) {
    const absl::Status refused = Annotate(compiled.status(), path);
    if (ReasonOf(refused) != "WEIGHTS_INCOMPLETE") return refused;
    *response.mutable_report() = ReportToProto(report);
    *response.mutable_failure() = FailureFromStatus(refused);
    return response;
  }
  *response.mutable_report() = ReportToProto(report);
  const auto plan = ExchangePlan(std::make_shared<const Plan>(*std::move(compiled)));
  ZC_ASSIGN_OR_RETURN(const Schedule schedule, Schedule::Create(*plan));
  *response.mutable_plan() = PlanSummaryToProto(*plan, schedule);
  response.mutable_plan()->set_placement_reason(
      job.options().device() == v1::DEVICE_UNSPECIFIED ? "default" : "--device");
  response.mutable_plan()->set_zero_stage_reason(job.options().has_zero_stage() ? "--zero-stage"
                                                                                : "default");
  const int64_t max_buffer_bytes =
      job.options().max_buffer_bytes() > 0 ? job.options().max_buffer_bytes() : kDefaultBufferBytes;
  const std::vector<AgentLimits> agents(static_cast<size_t>(input.layout.num_nodes),
                                        {max_buffer_bytes, ReadingThreads(num_threads)});
  const std::vector<MemoryNeeds> memory =
      MemoryOfNodes(*plan, schedule, input.layout, agents, max_buffer_bytes);
  ZC_RETURN_IF_ERROR(CheckBuffersOfNodes(memory, input.layout, agents, max_buffer_bytes));
  AddMemory(memory, response.mutable_plan());
  return response;
}

}  // namespace zerocast
