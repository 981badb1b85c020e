#include "server/rpc/compile.h"

#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/plan/check_buffers.h"
#include "server/plan/node_memory.h"
#include "server/plan/plan.h"
#include "server/plan/schedule.h"
#include "server/wire/plan_input.h"

namespace zerocast::rpc {
namespace {

jobs::PlanSummary Summarize(const Plan& plan, const Schedule& schedule) {
  jobs::PlanSummary summary;
  summary.digest = plan.digest;
  summary.num_targets = static_cast<int64_t>(plan.targets.size());
  for (const Target& target : plan.targets) {
    summary.num_boxes += static_cast<int64_t>(target.boxes.size());
  }
  summary.arena_bytes = plan.arena_bytes;
  summary.num_rounds = schedule.num_rounds();
  for (int32_t node = 0; node < plan.layout.num_nodes; ++node) {
    summary.read_bytes_by_node.push_back(schedule.ReadBytes(node));
  }
  summary.lie_on_devices = LieOnDevices(plan.layout);
  summary.zero_stage = plan.layout.zero_stage;
  return summary;
}

void AddNote(absl::string_view note, Report* report) {
  absl::StrAppend(&report->note, report->note.empty() ? "" : "; ", note);
}

// What became of what the job left open.
void TellOfEngine(const jobs::Job& job, const EngineCheckpoint& engine, Report* report) {
  if (job.zero_stage_reason == jobs::kByDefault && engine.stage != job.layout.zero_stage) {
    AddNote(absl::StrCat("the shards are laid out for ZeRO stage ", job.layout.zero_stage,
                         ", the default without a DeepSpeed config; the engine that saved the "
                         "checkpoint had stage ",
                         engine.stage, ": --zero-stage ", engine.stage, " lays them out as it did"),
            report);
  }
}

// Offloaded states of the optimizer live in host memory, and so does a shard that has some: it is
// one memory.  Who takes it copies the weights to its device.
bool OffloadsStates(const jobs::Job& job, const Manifest& manifest) {
  return !job.offload_optimizer_device.empty() && manifest.engine.has_value() &&
         !manifest.engine->states.empty() && !job.layout.weights_only && LieOnDevices(job.layout);
}

// What a load of `engine` cannot be compared with although it is registered; "" where there is no
// such thing.  Errors: CompareWithRegistered.
absl::StatusOr<std::string> Compare(const jobs::CompilePlanCommand& command,
                                    const EngineCheckpoint& engine,
                                    const RegisteredOf& registered) {
  const std::string& path = command.job->checkpoint_path;
  const std::vector<jobs::Checkpoint> all = registered(path, engine.tag);
  if (!command.checkpoint_digest.empty()) {
    ZC_RETURN_IF_ERROR(jobs::CompareWithRegistered(absl::StrCat(path, ", tag ", engine.tag),
                                                   command.checkpoint_digest, all));
    return "";
  }
  for (const jobs::Checkpoint& checkpoint : all) {
    if (!checkpoint.digest.empty()) return checkpoint.name;
  }
  return "";
}

absl::Status Compile(const jobs::CompilePlanCommand& command, const RegisteredOf& registered,
                     jobs::PlanCompiled* out) {
  PlanInput input;
  absl::StatusOr<Manifest> manifest = DecompressManifest(command.compressed_manifest);
  if (!manifest.ok()) return Annotate(manifest.status(), "manifest of the node of rank 0");
  if (manifest->variant != command.job->variant) {
    // An agent of an older version does not know of variants.
    return WithReason(
        absl::UnimplementedError(absl::StrCat(
            "read variant \"", command.job->variant, "\" of ", command.job->checkpoint_path,
            ": the agent of rank 0's node has read variant \"", manifest->variant,
            "\"; use an agent of the server's version")),
        "UNSUPPORTED");
  }
  if (!command.job->checkpoint_tag.empty() ||
      command.job->checkpoint_format == CheckpointFormat::kDeepSpeed) {
    const std::string found = manifest->engine.has_value() ? manifest->engine->tag : "";
    if (found.empty() ||
        (!command.job->checkpoint_tag.empty() && found != command.job->checkpoint_tag)) {
      // An agent of an older version does not know of tags.
      return WithReason(
          absl::UnimplementedError(
              absl::StrCat("read DeepSpeed checkpoint \"", command.job->checkpoint_tag, "\" of ",
                           command.job->checkpoint_path, ": the agent of rank 0's node has read \"",
                           found, "\"; use an agent of the server's version")),
          "UNSUPPORTED");
    }
  }
  input.manifest = std::make_shared<const Manifest>(*std::move(manifest));
  std::string not_compared;
  if (input.manifest->engine.has_value()) {
    ZC_ASSIGN_OR_RETURN(not_compared, Compare(command, *input.manifest->engine, registered));
  }
  input.model_spec_json = command.job->model_spec_json;
  input.key_mapping_json = command.job->key_mapping_json;
  input.layout = command.job->layout;
  const bool offloads_states = OffloadsStates(*command.job, *input.manifest);
  if (offloads_states) input.layout.placement = Placement::kHost;
  if (command.job->round_follows_buffers) {
    input.layout.round_bytes = DefaultRoundBytes(command.max_buffer_bytes);
  }
  Report report;
  absl::StatusOr<Plan> compiled = CompilePlanInput(input, &report);
  // The report is there where the compiler came as far as the weights.
  if (compiled.ok() || ReasonOf(compiled.status()) == "WEIGHTS_INCOMPLETE") {
    report.dtype_reason = command.job->dtype_reason;
    if (report.engine.has_value()) TellOfEngine(*command.job, *input.manifest->engine, &report);
    if (!not_compared.empty()) {
      AddNote(absl::StrCat("not compared with ", not_compared,
                           ", as which it is registered: that was done meanwhile, or the agent of "
                           "rank 0's node is of an older version"),
              &report);
    }
    out->report = std::move(report);
  }
  ZC_RETURN_IF_ERROR(compiled.status());
  const auto plan = ExchangePlan(std::make_shared<const Plan>(*std::move(compiled)));
  ZC_ASSIGN_OR_RETURN(const Schedule schedule, Schedule::Create(*plan));
  out->plan = Summarize(*plan, schedule);
  out->plan->placement_reason =
      offloads_states
          ? absl::StrCat("offload_optimizer.device is ", command.job->offload_optimizer_device)
          : command.job->placement_reason;
  out->plan->zero_stage_reason = command.job->zero_stage_reason;
  if (command.plan_only) {
    out->plan->memory_by_node =
        MemoryOfNodes(*plan, schedule, input.layout, command.agents, command.job->max_buffer_bytes);
    // As the load would end.
    ZC_RETURN_IF_ERROR(CheckBuffersOfNodes(out->plan->memory_by_node, input.layout, command.agents,
                                           command.job->max_buffer_bytes));
  }
  out->compressed_plan_input = std::make_shared<const std::string>(CompressPlanInput(input));
  return absl::OkStatus();
}

}  // namespace

jobs::PlanCompiled CompileForLoad(const jobs::CompilePlanCommand& command,
                                  const RegisteredOf& registered) {
  jobs::PlanCompiled event;
  event.load = command.load;
  event.epoch = command.epoch;
  event.status = Compile(command, registered, &event);
  return event;
}

}  // namespace zerocast::rpc
