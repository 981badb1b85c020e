#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "client/cli/command.h"
#include "client/cli/create_job.h"
#include "client/cli/job_flags.h"
#include "client/cli/output.h"
#include "client/cli/plan_output.h"
#include "client/cli/progress.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/base/utf8.h"

namespace zerocast {
namespace {

using Json = nlohmann::ordered_json;

struct SubmitFlags {
  JobFlags job;
  std::string request_id;
  bool validate_only = false;
  bool start = false;
  bool wait = false;
  bool verify = false;
  double deadline_seconds = 3600;
};

std::string JobStateName(v1::JobState state) {
  switch (state) {
    case v1::JOB_STATE_ACTIVE:
      return "active";
    case v1::JOB_STATE_CANCELLED:
      return "cancelled";
    case v1::JOB_STATE_DONE:
      return "done";
    case v1::JOB_STATE_EXPIRED:
      return "expired";
    default:  // of a newer server
      return absl::StrCat("unknown (", static_cast<int>(state), ")");
  }
}

Json JobJson(const v1::Job& job) {
  Json document = {{"job", job.name()},
                   {"display_name", job.spec().display_name()},
                   {"state", JobStateName(job.state())},
                   {"checkpoint", job.spec().checkpoint_path()},
                   {"variant", job.spec().variant()},
                   {"checkpoint_format", FormatName(job.spec().checkpoint_format())},
                   {"checkpoint_tag", job.spec().checkpoint_tag()},
                   {"world_size", job.spec().topology().world_size()},
                   {"zero_stage", job.zero_stage()},
                   {"zero_stage_reason", job.zero_stage_reason()},
                   {"hpz_partition_size", job.hpz_partition_size()},
                   {"dtype", job.config_dtype()},
                   {"placement", PlacementName(job.placement())},
                   {"placement_reason", job.placement_reason()},
                   {"lease_seconds", job.has_lease() ? Json(job.lease().seconds()) : Json()},
                   {"etag", job.etag()}};
  if (!job.resolved_config_json().empty()) {
    // Kept as the server wrote it: a config may hold Infinity, which strict JSON has not.
    Json config = Json::parse(job.resolved_config_json(), nullptr, /*allow_exceptions=*/false);
    document["resolved_config"] =
        config.is_discarded() ? Json(job.resolved_config_json()) : std::move(config);
  }
  return document;
}

// What was submitted; which tag a load has taken is its own.
std::string CheckpointText(const v1::JobSpec& spec) {
  std::string text = absl::StrCat("checkpoint ", EscapeControls(spec.checkpoint_path()));
  if (!spec.variant().empty()) absl::StrAppend(&text, ", variant ", spec.variant());
  if (spec.checkpoint_format() != v1::CHECKPOINT_FORMAT_UNSPECIFIED) {
    absl::StrAppend(&text, ", format ", FormatName(spec.checkpoint_format()));
  }
  if (!spec.checkpoint_tag().empty()) {
    absl::StrAppend(&text, ", tag ", EscapeControls(spec.checkpoint_tag()));
  }
  return text + "\n";
}

Json WithLoads(Json document, const std::vector<v1::Load>& loads) {
  Json list = Json::array();
  for (const v1::Load& load : loads) list.push_back(LoadJson(load));
  document["loads"] = std::move(list);
  return document;
}

void PrintJobs(const std::vector<v1::Job>& jobs) {
  std::vector<std::vector<std::string>> rows = {
      {"job", "state", "ranks", "stage", "dtype", "name"}};
  for (const v1::Job& job : jobs) {
    rows.push_back(
        {job.name(), JobStateName(job.state()), absl::StrCat(job.spec().topology().world_size()),
         absl::StrCat(job.zero_stage()), job.config_dtype().empty() ? "-" : job.config_dtype(),
         job.spec().display_name().empty() ? "-" : job.spec().display_name()});
  }
  std::fputs(FormatTable(rows).c_str(), stdout);
}

absl::StatusOr<v1::Load> Follow(Client* client, const std::string& load, double deadline_seconds,
                                bool show) {
  ProgressDisplay progress(show);
  return client->WatchLoad(load, absl::Seconds(deadline_seconds),
                           [&progress](const v1::Load& change) {
                             progress.Show(change);
                             return true;
                           });
}

// A load that did not get ready is an error: the border prints it, once.
absl::Status PrintEnd(const GlobalOptions& global, const v1::Load& load) {
  ZC_RETURN_IF_ERROR(LoadStatus(load));
  if (global.json()) {
    PrintJson(LoadJson(load));
  } else {
    std::fputs(LoadText(load).c_str(), stdout);
  }
  return absl::OkStatus();
}

absl::Status RunSubmit(const GlobalOptions& global, const SubmitFlags& flags) {
  const absl::Time deadline = absl::Now() + absl::Seconds(flags.deadline_seconds);
  ZC_ASSIGN_OR_RETURN(v1::JobSpec spec, flags.job.ToSpec());
  spec.mutable_options()->set_compute_digests(flags.verify);
  ZC_ASSIGN_OR_RETURN(const auto client, global.Connect(deadline));
  Client::CreateOptions create;
  create.request_id = flags.request_id;
  create.validate_only = flags.validate_only;
  ZC_ASSIGN_OR_RETURN(
      const v1::CreateJobResponse created,
      CreateJobOrCancel(client.get(), spec, create, deadline,
                        flags.request_id.empty() ? UnknownJob::kCancel : UnknownJob::kKeep));
  const std::string& job = created.job().name();
  // Only an interrupted command takes back what it made.
  std::optional<OwnedJob> owned;
  if (!flags.validate_only)
    owned.emplace(client.get(), job, OwnedJob::kKeepIfFailed, OwnedJob::kOutlivesUs);
  // Printed before anything can fail: a job that exists must be found again.
  if (global.json()) {
    SetErrorContext({{"job", job}, {"attach_token", created.attach_token()}});
  } else if (!flags.validate_only) {
    // Lines of KEY=VALUE: a batch script reads them as they are.
    std::printf("ZEROCAST_JOB=%s\nZEROCAST_TOKEN=%s\n", job.c_str(),
                created.attach_token().c_str());
    std::fflush(stdout);
  }
  std::vector<v1::Load> loads;
  if ((flags.start || flags.wait) && !flags.validate_only) {
    ZC_ASSIGN_OR_RETURN(v1::Load load, client->CreateLoad(job, create));
    if (!global.json()) std::printf("ZEROCAST_LOAD=%s\n", load.name().c_str());
    std::fflush(stdout);
    if (flags.wait) {
      ZC_ASSIGN_OR_RETURN(
          load, Follow(client.get(), load.name(), flags.deadline_seconds, !global.json()));
      ZC_RETURN_IF_ERROR(ExplainReader(LoadStatus(load), spec));
    }
    loads.push_back(std::move(load));
  }
  if (owned.has_value()) ZC_RETURN_IF_ERROR(owned->Keep());
  if (global.json()) {
    Json document = WithLoads(JobJson(created.job()), loads);
    document["attach_token"] = created.attach_token();
    PrintJson(document);
    return absl::OkStatus();
  }
  if (flags.validate_only) {
    std::puts("valid; nothing was created, and the checkpoint was not looked at");
    return absl::OkStatus();
  }
  return absl::OkStatus();
}

absl::Status RunGet(const GlobalOptions& global, const std::string& name) {
  ZC_ASSIGN_OR_RETURN(const auto client, global.Connect());
  if (absl::StartsWith(name, "loads/")) {
    ZC_ASSIGN_OR_RETURN(const v1::Load load, client->GetLoad(name));
    if (global.json()) {
      PrintJson(LoadJson(load));
    } else {
      std::fputs(LoadText(load).c_str(), stdout);
      if (load.state() == v1::LOAD_STATE_FAILED) {
        std::printf("failed: %s\n", load.failure().message().c_str());
      }
      if (load.has_freed()) std::printf("freed: %s\n", load.freed().message().c_str());
    }
    return absl::OkStatus();
  }
  ZC_ASSIGN_OR_RETURN(const v1::Job job, client->GetJob(name));
  ZC_ASSIGN_OR_RETURN(const std::vector<v1::Load> loads, client->ListLoads(name));
  if (global.json()) {
    PrintJson(WithLoads(JobJson(job), loads));
    return absl::OkStatus();
  }
  PrintJobs({job});
  std::fputs(CheckpointText(job.spec()).c_str(), stdout);
  for (const v1::Load& load : loads) {
    const std::string why = load.state() == v1::LOAD_STATE_FAILED
                                ? absl::StrCat(": ", load.failure().message())
                            : load.has_freed() ? absl::StrCat(": ", load.freed().message())
                                               : "";
    const std::string of = load.report().has_engine()
                               ? absl::StrCat(" of DeepSpeed checkpoint ",
                                              EscapeControls(load.report().engine().tag()))
                               : "";
    std::printf("%s %s%s%s\n", load.name().c_str(), StateText(load).c_str(), of.c_str(),
                why.c_str());
  }
  return absl::OkStatus();
}

absl::Status RunList(const GlobalOptions& global) {
  ZC_ASSIGN_OR_RETURN(const auto client, global.Connect());
  ZC_ASSIGN_OR_RETURN(const std::vector<v1::Job> jobs, client->ListJobs());
  if (!global.json()) {
    PrintJobs(jobs);
    return absl::OkStatus();
  }
  Json list = Json::array();
  for (const v1::Job& job : jobs) list.push_back(JobJson(job));
  PrintJson({{"jobs", list}});
  return absl::OkStatus();
}

absl::Status RunWatch(const GlobalOptions& global, const std::string& name,
                      double deadline_seconds) {
  const absl::Time deadline = absl::Now() + absl::Seconds(deadline_seconds);
  ZC_ASSIGN_OR_RETURN(const auto client, global.Connect(deadline));
  std::string load = name;
  if (!absl::StartsWith(name, "loads/")) {
    ZC_RETURN_IF_ERROR(client->GetJob(name).status());
    ZC_ASSIGN_OR_RETURN(const std::vector<v1::Load> loads, client->ListLoads(name));
    if (loads.empty()) {
      return WithReason(absl::NotFoundError(absl::StrCat("watch ", name, ": it has no load yet")),
                        "NOT_FOUND");
    }
    load = loads.back().name();
  }
  ZC_ASSIGN_OR_RETURN(const v1::Load ended,
                      Follow(client.get(), load, deadline_seconds, !global.json()));
  const absl::Status printed = PrintEnd(global, ended);
  if (printed.ok()) return printed;
  // Who the job names is in its spec; the failure stands without it too.
  const absl::StatusOr<v1::Job> job = client->GetJob(ended.job());
  return job.ok() ? ExplainReader(printed, job->spec()) : printed;
}

absl::Status RunCancel(const GlobalOptions& global, const std::string& name) {
  ZC_ASSIGN_OR_RETURN(const auto client, global.Connect());
  if (absl::StartsWith(name, "loads/")) {
    ZC_ASSIGN_OR_RETURN(const v1::Load load, client->CancelLoad(name));
    if (global.json()) PrintJson(LoadJson(load));
    if (!global.json()) std::printf("%s %s\n", name.c_str(), StateText(load).c_str());
    return absl::OkStatus();
  }
  ZC_ASSIGN_OR_RETURN(const v1::Job job, client->CancelJob(name));
  if (global.json()) PrintJson(JobJson(job));
  if (!global.json()) std::printf("%s %s\n", name.c_str(), JobStateName(job.state()).c_str());
  return absl::OkStatus();
}

absl::Status RunFinish(const GlobalOptions& global, const std::string& name) {
  if (!absl::StartsWith(name, "jobs/")) {
    return InvalidFields({{"name", "give jobs/ID: a load is done when its job is"}});
  }
  ZC_ASSIGN_OR_RETURN(const auto client, global.Connect());
  ZC_ASSIGN_OR_RETURN(const v1::Job job, client->FinishJob(name));
  if (global.json()) PrintJson(JobJson(job));
  if (!global.json()) std::printf("%s %s\n", name.c_str(), JobStateName(job.state()).c_str());
  return absl::OkStatus();
}

absl::Status RunDelete(const GlobalOptions& global, const std::string& name) {
  if (!absl::StartsWith(name, "jobs/")) {
    return InvalidFields({{"name", "give jobs/ID: loads go with their job"}});
  }
  ZC_ASSIGN_OR_RETURN(const auto client, global.Connect());
  ZC_RETURN_IF_ERROR(client->DeleteJob(name, ""));
  if (global.json()) PrintJson({{"deleted", name}});
  if (!global.json()) std::printf("%s deleted\n", name.c_str());
  return absl::OkStatus();
}

// The GPUs of all agents, a line each, below their node's name: beside it they would need more than
// 80 columns.
std::string GpuTable(const std::vector<v1::AgentInfo>& agents) {
  std::string text;
  for (const v1::AgentInfo& agent : agents) {
    if (agent.gpus().empty()) continue;
    std::vector<std::vector<std::string>> rows;
    for (const v1::Gpu& gpu : agent.gpus()) {
      rows.push_back({EscapeControls(gpu.uuid()), FormatBytes(gpu.memory_bytes()),
                      EscapeControls(gpu.name())});
    }
    absl::StrAppend(&text, "\nGPUs of ", agent.node_name(), ":\n", FormatTable(rows));
  }
  return text;
}

absl::Status RunAgents(const GlobalOptions& global) {
  ZC_ASSIGN_OR_RETURN(const auto client, global.Connect());
  ZC_ASSIGN_OR_RETURN(const std::vector<v1::AgentInfo> agents, client->ListAgents());
  if (global.json()) {
    Json list = Json::array();
    for (const v1::AgentInfo& agent : agents) {
      Json gpus = Json::array();
      for (const v1::Gpu& gpu : agent.gpus()) {
        gpus.push_back(
            {{"uuid", gpu.uuid()}, {"name", gpu.name()}, {"memory_bytes", gpu.memory_bytes()}});
      }
      list.push_back(
          {{"node", agent.node_name()},
           {"version", agent.version()},
           {"socket", agent.socket_path()},
           {"cache_bytes", agent.cache_bytes()},
           {"gpus", gpus},
           {"no_gpus_because", agent.no_gpus_because()},
           {"loads", std::vector<std::string>(agent.loads().begin(), agent.loads().end())}});
    }
    PrintJson({{"agents", list}});
    return absl::OkStatus();
  }
  std::vector<std::vector<std::string>> rows = {
      {"node", "version", "loads", "cache", "GPUs", "silent s", "socket"}};
  for (const v1::AgentInfo& agent : agents) {
    rows.push_back(
        {agent.node_name(), agent.version(), absl::StrCat(agent.loads_size()),
         FormatBytes(agent.cache_bytes()), absl::StrCat(agent.gpus_size()),
         absl::StrFormat("%.1f", static_cast<double>(agent.silent_for().seconds()) +
                                     static_cast<double>(agent.silent_for().nanos()) / 1e9),
         agent.socket_path()});
  }
  std::fputs((FormatTable(rows) + GpuTable(agents)).c_str(), stdout);
  return absl::OkStatus();
}

const CLI::Validator kResourceName(
    [](const std::string& name) -> std::string {
      const bool known = absl::StartsWith(name, "jobs/") || absl::StartsWith(name, "loads/");
      return known ? "" : absl::StrCat("\"", name, "\" is neither jobs/ID nor loads/ID");
    },
    "");

// A subcommand that takes the name of a job or load.
template <typename Function>
void AddNamed(CLI::App* parent, const char* name, const char* help, const GlobalOptions* global,
              Run* run, Function function) {
  auto resource = std::make_shared<std::string>();
  CLI::App* command = parent->add_subcommand(name, help);
  command->add_option("name", *resource, "jobs/ID or loads/ID")
      ->required()
      ->check(kResourceName)
      ->type_name("NAME");
  command->callback([resource, global, run, function] {
    *run = [resource, global, function] { return function(*global, *resource); };
  });
}

}  // namespace

void AddJobCommand(CLI::App* app, const GlobalOptions* global, Run* run) {
  CLI::App* job = app->add_subcommand("job", "Submit, watch and cancel jobs on a server");
  job->require_subcommand(1);

  auto submit = std::make_shared<SubmitFlags>();
  CLI::App* command = job->add_subcommand("submit", "Check a job's config and create the job.");
  submit->job.AddTo(command);
  command
      ->add_option("--request-id", submit->request_id, "Repeating it with the same id is one job")
      ->envname("ZEROCAST_REQUEST_ID")
      ->type_name("ID");
  command->add_flag("--validate-only", submit->validate_only, "Check everything, create nothing");
  command->add_flag("--start", submit->start, "Start a load of it");
  command->add_flag("--wait", submit->wait, "Start a load of it and wait until it is ready");
  command->add_flag("--digests", submit->verify, "Agents compute a digest of every partition");
  command
      ->add_option("--deadline", submit->deadline_seconds,
                   "Longest time until it ends, all calls included")
      ->check(kSeconds)
      ->type_name("SECONDS")
      ->capture_default_str();
  command->callback(
      [submit, global, run] { *run = [submit, global] { return RunSubmit(*global, *submit); }; });

  AddNamed(job, "get", "Show a job or a load.", global, run, RunGet);
  AddNamed(job, "cancel", "Cancel a job and its loads, or one load.", global, run, RunCancel);
  AddNamed(job, "finish", "A job is done: what nobody took of its shards is freed.", global, run,
           RunFinish);
  AddNamed(job, "delete", "Delete a job that is over.", global, run, RunDelete);

  auto deadline = std::make_shared<double>(3600);
  AddNamed(job, "watch", "Follow a load until it ends.", global, run,
           [deadline](const GlobalOptions& options, const std::string& name) {
             return RunWatch(options, name, *deadline);
           });
  job->get_subcommand("watch")
      ->add_option("--deadline", *deadline, "Longest time until it ends, all calls included")
      ->check(kSeconds)
      ->type_name("SECONDS")
      ->capture_default_str();

  CLI::App* list = job->add_subcommand("list", "List all jobs.");
  list->callback([global, run] { *run = [global] { return RunList(*global); }; });
}

void AddAgentsCommand(CLI::App* app, const GlobalOptions* global, Run* run) {
  CLI::App* command =
      app->add_subcommand("agents", "List the agents that are connected to a server");
  command->callback([global, run] { *run = [global] { return RunAgents(*global); }; });
}

}  // namespace zerocast
