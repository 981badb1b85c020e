#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/agent/data_path_flags.h"
#include "client/cli/command.h"
#include "client/cli/create_job.h"
#include "client/cli/embedded.h"
#include "client/cli/interruption.h"
#include "client/cli/job_flags.h"
#include "client/cli/output.h"
#include "client/cli/plan_manifest.h"
#include "client/cli/plan_output.h"
#include "client/cli/progress.h"
#include "client/cli/shard_output.h"
#include "client/verify/verify.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/wire/status.h"

namespace zerocast {
namespace {

// A part of the help.
constexpr char kWithoutServer[] = "Of the agents in this process, without --server";

struct LoadFlags {
  JobFlags job;
  DataPathFlags data_path;
  std::string out;
  bool verify = false;
  bool release = false;
  std::string request_id;
  double deadline_seconds = 3600;
};

// What only the agents of this process can be told.
absl::Status RefuseDataPath(const DataPathFlags& data_path) {
  std::vector<FieldViolation> violations;
  for (const std::string& flag : data_path.Given()) {
    violations.push_back(
        {flag, absl::StrCat("is for a load in this process; with --server (or ZEROCAST_SERVER) the "
                            "agents read as they were started: leave it out, and give it to "
                            "zerocast-agent")});
  }
  return InvalidFields(violations);
}

absl::StatusOr<ClusterHandle> OpenCluster(const GlobalOptions& global, const v1::JobSpec& spec,
                                          const DataPathFlags& data_path, absl::Time deadline) {
  const v1::Topology& topology = spec.topology();
  ClusterHandle handle;
  if (!global.server.empty()) {
    ZC_ASSIGN_OR_RETURN(handle.remote, global.Connect(deadline));
    return handle;
  }
  // The agents here are node0, node1, ...: a load that names another would wait for it in vain.
  for (int k = 0; k < topology.nodes_size(); ++k) {
    if (topology.nodes(k) == absl::StrCat("node", k)) continue;
    return InvalidFields(
        {{"--node", absl::StrCat("\"", topology.nodes(k), "\" needs --server: without one the ",
                                 "nodes are node0, node1, ... of this process")}});
  }
  EmbeddedCluster::Options options;
  options.num_agents = std::max({1, topology.num_nodes(), topology.nodes_size()});
  options.timeout = absl::Seconds(global.timeout_seconds);
  options.deadline = deadline;
  ZC_RETURN_IF_ERROR(data_path.Apply(&options.agent));
  // Its agents have no limit of their own.
  options.agent.max_buffer_bytes =
      std::max(options.agent.max_buffer_bytes, spec.options().max_buffer_bytes());
  ZC_ASSIGN_OR_RETURN(handle.embedded, EmbeddedCluster::Start(options));
  return handle;
}

absl::StatusOr<VerifyResult> Verify(const v1::Job& job, const v1::Load& load) {
  VerifyOptions options;
  options.checkpoint_path = job.spec().checkpoint_path();
  options.variant = job.spec().variant();
  options.model_spec_json = job.spec().model_spec_json();
  options.key_mapping_json = job.spec().options().key_mapping_json();
  options.dialect = job.spec().options().dialect();
  options.rule_table_json = job.spec().options().rule_table_json();
  options.dtype = load.report().dtype();
  options.world_size = job.spec().topology().world_size();
  options.zero_stage = job.zero_stage();
  options.hpz_partition_size = job.hpz_partition_size();
  if (load.report().has_engine()) {
    options.tag = load.report().engine().tag();
    options.weights_only = load.report().engine().states().empty();
    if (!job.resolved_config_json().empty()) {
      const auto config = nlohmann::json::parse(job.resolved_config_json(), nullptr, false, true);
      const auto is_on = [&config](const char* key) {
        const nlohmann::json::json_pointer path(absl::StrCat("/zero_optimization/", key));
        return config.is_object() && config.contains(path) && config[path] == true;
      };
      options.round_robin_gradients = is_on("round_robin_gradients");
      options.parameter_alignment = is_on("parameter_alignment");
    }
  }
  for (const std::string& name : load.report().missing()) options.absent.push_back(name);
  for (const v1::MismatchedWeight& weight : load.report().mismatched()) {
    options.absent.push_back(weight.name());
  }
  std::vector<DigestToVerify> digests;
  for (const v1::Shard& shard : load.shards()) {
    for (const v1::PartitionDigest& digest : shard.digests()) {
      digests.push_back({shard.rank(), digest.target(), digest.xxh3(), digest.secondary()});
    }
  }
  return VerifyPartitions(options, digests);
}

// What is printed at the end.
void PrintResult(const GlobalOptions& global, const v1::CreateJobResponse& created,
                 const v1::Load& load, bool released, const VerifyResult* verified,
                 double verify_seconds) {
  if (global.json()) {
    nlohmann::ordered_json document = LoadJson(load);
    if (!global.server.empty()) document["attach_token"] = created.attach_token();
    if (verified != nullptr) {
      document["verified"] = {{"partitions", verified->partitions},
                              {"bytes", verified->bytes},
                              {"seconds", verify_seconds}};
    }
    PrintJson(document);
    return;
  }
  std::fputs(LoadText(load).c_str(), stdout);
  if (verified != nullptr) {
    std::printf("\nverified %lld partitions, %s, against an independent reading in %.2f s\n",
                static_cast<long long>(verified->partitions), FormatBytes(verified->bytes).c_str(),
                verify_seconds);
  }
  if (global.server.empty() || released) return;
  // As job submit prints them: whoever takes or frees the shards needs them.
  const std::string& job = created.job().name();
  std::printf(
      "\nZEROCAST_JOB=%s\nZEROCAST_TOKEN=%s\nZEROCAST_LOAD=%s\n"
      "held by the agents; free with: zerocast job cancel %s --server %s\n",
      job.c_str(), created.attach_token().c_str(), load.name().c_str(), job.c_str(),
      global.server.c_str());
}

absl::Status RunLoad(const GlobalOptions& global, const LoadFlags& flags) {
  const absl::Time deadline = absl::Now() + absl::Seconds(flags.deadline_seconds);
  if (!global.server.empty()) ZC_RETURN_IF_ERROR(RefuseDataPath(flags.data_path));
  ZC_ASSIGN_OR_RETURN(v1::JobSpec spec, flags.job.ToSpec());
  spec.mutable_options()->set_compute_digests(flags.verify);
  // A signal gives what follows the time to end in order.
  const OnInterrupt in_order({});
  std::optional<ShardFolder> out;
  if (!flags.out.empty()) {
    if (spec.options().device() == v1::DEVICE_CUDA && !global.server.empty()) {
      return InvalidFields({{"--out",
                             "would take the shards from the job: what lies on devices has "
                             "one owner; leave --server or --out out"}});
    }
    ZC_ASSIGN_OR_RETURN(ShardFolder made, ShardFolder::Create(flags.out));
    out.emplace(std::move(made));
    ZC_RETURN_IF_ERROR(
        CheckNoOtherRanks(flags.out, ShardFile::kPrimary, spec.topology().world_size()));
  }
  ZC_ASSIGN_OR_RETURN(const ClusterHandle cluster,
                      OpenCluster(global, spec, flags.data_path, deadline));
  Client* const client = cluster.client();

  Client::CreateOptions create;
  create.request_id = flags.request_id;
  // The job is this command's, whoever named the request.
  ZC_ASSIGN_OR_RETURN(const v1::CreateJobResponse created,
                      CreateJobOrCancel(client, spec, create, deadline, UnknownJob::kCancel));
  const std::string job = created.job().name();
  OwnedJob owned(client, job, OwnedJob::kCancelIfFailed,
                 global.server.empty() ? OwnedJob::kEndsWithUs : OwnedJob::kOutlivesUs);
  if (out.has_value()) {
    const bool secondary =
        created.job().zero_stage() == 3 && created.job().hpz_partition_size() > 1;
    ZC_RETURN_IF_ERROR(CheckNoOtherRanks(flags.out, ShardFile::kSecondary,
                                         secondary ? spec.topology().world_size() : 0));
  }
  ZC_ASSIGN_OR_RETURN(v1::Load load, client->CreateLoad(job, create));
  {
    ProgressDisplay progress(!global.json());
    ZC_ASSIGN_OR_RETURN(load, client->WatchLoad(load.name(), absl::Seconds(flags.deadline_seconds),
                                                [&progress](const v1::Load& change) {
                                                  progress.Show(change);
                                                  return true;
                                                }));
  }
  if (load.state() != v1::LOAD_STATE_READY) {
    ZC_RETURN_IF_ERROR(CheckInterrupted());
    if (!global.json()) std::fputs(ReportText(load.report()).c_str(), stderr);
    return global.server.empty() ? LoadStatus(load) : ExplainReader(LoadStatus(load), spec);
  }

  VerifyResult verified;
  double verify_seconds = 0;
  if (flags.verify) {
    const absl::Time start = absl::Now();
    const auto result = Verify(created.job(), load);
    if (!result.ok()) return Annotate(result.status(), "verify");
    verified = *result;
    verify_seconds = absl::ToDoubleSeconds(absl::Now() - start);
  }
  ZC_RETURN_IF_ERROR(CheckInterrupted());
  if (out.has_value()) {
    ZC_RETURN_IF_ERROR(WriteShards(load, created.attach_token(),
                                   spec.options().device() == v1::DEVICE_CUDA, flags.out));
    out->Keep();
  }
  ZC_RETURN_IF_ERROR(flags.release ? owned.Finish() : owned.Keep());
  ZC_RETURN_IF_ERROR(CheckInterrupted());
  PrintResult(global, created, load, flags.release, flags.verify ? &verified : nullptr,
              verify_seconds);
  return absl::OkStatus();
}

struct PlanFlags {
  JobFlags job;
  DataPathFlags data_path;
  std::string manifest;
};

// A plan of a checkpoint's folder needs an agent that sees it; one of a listing needs nobody.
absl::StatusOr<v1::PlanLoadResponse> MakePlan(const GlobalOptions& global, const v1::JobSpec& spec,
                                              const PlanFlags& flags) {
  if (!flags.manifest.empty()) {
    AgentOptions agent;
    ZC_RETURN_IF_ERROR(flags.data_path.Apply(&agent));
    return PlanManifest(flags.manifest, spec, agent.num_threads);
  }
  if (!global.server.empty()) ZC_RETURN_IF_ERROR(RefuseDataPath(flags.data_path));
  ZC_ASSIGN_OR_RETURN(const ClusterHandle cluster,
                      OpenCluster(global, spec, flags.data_path, absl::InfiniteFuture()));
  absl::StatusOr<v1::PlanLoadResponse> plan = cluster.client()->PlanLoad(spec);
  if (plan.ok() || global.server.empty()) return plan;
  return ExplainReader(plan.status(), spec);
}

// What each node reads, and the memory that it needs, as far as that is known.
std::string NodesText(const v1::PlanSummary& plan) {
  std::vector<std::vector<std::string>> rows = {{"node", "reads"}};
  if (plan.memory_by_node_size() > 0) {
    for (const char* column : {"shards", "to read", "to send", "to get"}) rows[0].push_back(column);
  }
  for (int node = 0; node < plan.read_bytes_by_node_size(); ++node) {
    rows.push_back({absl::StrCat(node), FormatBytes(plan.read_bytes_by_node(node))});
    if (node >= plan.memory_by_node_size()) continue;
    const v1::NodeMemory& memory = plan.memory_by_node(node);
    for (const int64_t bytes : {memory.arena_bytes(), memory.reading_bytes(),
                                memory.sending_bytes(), memory.receiving_bytes()}) {
      rows.back().push_back(FormatBytes(bytes));
    }
  }
  return FormatTable(rows);
}

void PrintPlan(const GlobalOptions& global, const v1::PlanLoadResponse& response,
               int32_t world_size) {
  const v1::PlanSummary& plan = response.plan();
  if (global.json()) {
    nlohmann::ordered_json document = ReportJson(response.report());
    document["plan_digest"] = plan.digest();
    document["num_targets"] = plan.num_targets();
    document["num_boxes"] = plan.num_boxes();
    document["num_rounds"] = plan.num_rounds();
    document["arena_bytes"] = plan.arena_bytes();
    document["arena_bytes_all_ranks"] = plan.arena_bytes() * world_size;
    document["read_bytes_by_node"] =
        std::vector<int64_t>(plan.read_bytes_by_node().begin(), plan.read_bytes_by_node().end());
    document["memory_by_node"] = nlohmann::ordered_json::array();
    for (const v1::NodeMemory& memory : plan.memory_by_node()) {
      document["memory_by_node"].push_back({{"arena_bytes", memory.arena_bytes()},
                                            {"reading_bytes", memory.reading_bytes()},
                                            {"sending_bytes", memory.sending_bytes()},
                                            {"receiving_bytes", memory.receiving_bytes()},
                                            {"device_arena_bytes", memory.device_arena_bytes()}});
    }
    document["placement"] = PlacementName(plan.placement());
    document["placement_reason"] = plan.placement_reason();
    AddStage(plan, &document);
    PrintJson(document);
    return;
  }
  std::printf("plan %s\n%lld targets, %lld boxes, %lld %s, dtype %s%s\n\n", plan.digest().c_str(),
              static_cast<long long>(plan.num_targets()), static_cast<long long>(plan.num_boxes()),
              static_cast<long long>(plan.num_rounds()),
              plan.num_rounds() == 1 ? "round" : "rounds", response.report().dtype().c_str(),
              response.report().dtype_reason().empty()
                  ? ""
                  : absl::StrCat(" (", response.report().dtype_reason(), ")").c_str());
  std::printf("%s\n%s a rank, %s for all %d ranks\n", NodesText(plan).c_str(),
              FormatBytes(plan.arena_bytes()).c_str(),
              FormatBytes(plan.arena_bytes() * world_size).c_str(), world_size);
  int64_t buffers = 0;
  for (const v1::NodeMemory& memory : plan.memory_by_node()) {
    buffers = std::max(buffers,
                       memory.reading_bytes() + memory.sending_bytes() + memory.receiving_bytes());
  }
  // In the words of the load's own report.
  if (buffers > 0) std::printf("%s\n", BuffersText(buffers).c_str());
  std::fputs(StageText(plan).c_str(), stdout);
  std::fputs(PlacementText(plan).c_str(), stdout);
  std::fputs(ReportText(response.report()).c_str(), stdout);
}

absl::Status RunPlan(const GlobalOptions& global, const PlanFlags& flags) {
  if (flags.job.checkpoint.empty() == flags.manifest.empty()) {
    return InvalidFields({{"command line", "plan needs one of CKPT and --manifest"}});
  }
  ZC_ASSIGN_OR_RETURN(const v1::JobSpec spec, flags.job.ToSpec());
  ZC_ASSIGN_OR_RETURN(const v1::PlanLoadResponse response, MakePlan(global, spec, flags));
  if (response.has_plan()) {
    PrintPlan(global, response, spec.topology().world_size());
    return absl::OkStatus();
  }
  // The report is what was asked for, also where it says that there is no plan.
  if (!global.json()) std::fputs(ReportText(response.report()).c_str(), stdout);
  SetErrorContext(ReportJson(response.report()));
  if (response.has_failure()) return StatusFromFailure(response.failure());
  // Servers before PlanLoadResponse.failure.
  return WithReason(absl::FailedPreconditionError(
                        "plan: the server made none; what its report lists would stop a load"),
                    "WEIGHTS_INCOMPLETE");
}

}  // namespace

void AddLoadCommand(CLI::App* app, const GlobalOptions* global, Run* run) {
  auto flags = std::make_shared<LoadFlags>();
  CLI::App* command =
      app->add_subcommand("load", "Put a checkpoint into its ranks; --server is optional");
  flags->job.AddTo(command);
  flags->data_path.AddTo(command, kWithoutServer);
  command->add_option("--out", flags->out, "Write each rank's shard and report.json here")
      ->check(kNotEmpty)
      ->type_name("DIR");
  command->add_flag("--verify", flags->verify, "Compare every partition with another reading");
  command->add_flag("--release", flags->release,
                    "The job is done at the end: the agents free its shards");
  command
      ->add_option("--request-id", flags->request_id,
                   "Repeating a load with the same id is one load")
      ->type_name("ID");
  command
      ->add_option("--deadline", flags->deadline_seconds,
                   "Longest time until the load is ready, all calls included; only the\n"
                   "cancel after it may take 5 s more")
      ->check(kSeconds)
      ->type_name("SECONDS")
      ->capture_default_str();
  command->callback(
      [flags, global, run] { *run = [flags, global] { return RunLoad(*global, *flags); }; });
}

void AddPlanCommand(CLI::App* app, const GlobalOptions* global, Run* run) {
  auto flags = std::make_shared<PlanFlags>();
  CLI::App* command = app->add_subcommand(
      "plan", "Dry run: what a load would read, move and hold, or (exit 4) which weights stop it");
  flags->job.AddTo(command);
  flags->data_path.AddTo(command, kWithoutServer);
  command->get_option("checkpoint")->required(false);
  command
      ->add_option("--manifest", flags->manifest,
                   "Instead of CKPT: a listing of names, shapes and dtypes, JSON, perhaps gzip")
      ->type_name("FILE");
  command->callback(
      [flags, global, run] { *run = [flags, global] { return RunPlan(*global, *flags); }; });
}

}  // namespace zerocast
