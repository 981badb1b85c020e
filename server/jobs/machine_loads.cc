// A load goes from state to state.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/base/errors.h"
#include "server/jobs/machine.h"
#include "server/jobs/reason.h"

namespace zerocast::jobs {
namespace {

// How many heartbeats the server waits beyond the time that the agents have themselves, so that
// their error, which names the file or the peer, comes first.
constexpr int kGraceHeartbeats = 2;

template <typename Container, typename Value>
bool Contains(const Container& container, const Value& value) {
  return std::find(container.begin(), container.end(), value) != container.end();
}

bool Advanced(const NodeProgress& before, const NodeProgress& after) {
  return after.stage != before.stage || after.round != before.round ||
         after.bytes_read != before.bytes_read || after.bytes_sent != before.bytes_sent ||
         after.bytes_received != before.bytes_received;
}

}  // namespace

template <typename Report>
Machine::Run* Machine::FindReported(const Report& report, std::initializer_list<LoadState> states,
                                    const Moment& now) {
  Agent* agent = FindAgent(report.session);
  if (agent == nullptr) return nullptr;
  agent->last_heard = now.steady;
  const auto it = runs_.find(report.load);
  const bool counts = it != runs_.end() && it->second.load.epoch == report.epoch &&
                      Contains(states, it->second.load.state);
  return counts ? &it->second : nullptr;
}

template <typename Report>
Machine::Run* Machine::Accept(const Report& report, std::initializer_list<LoadState> states,
                              const Moment& now, int32_t* node) {
  Run* const run = FindReported(report, states, now);
  if (run != nullptr) {
    const auto session = std::find(run->sessions.begin(), run->sessions.end(), report.session);
    if (session != run->sessions.end()) {
      *node = static_cast<int32_t>(session - run->sessions.begin());
      return run;
    }
  }
  ++num_dropped_;
  return nullptr;
}

void Machine::Touch(const Run& run, std::vector<Command>* out) const {
  out->push_back(NotifyLoad{run.load.name});
}

void Machine::RestartWait(Run* run, const Moment& now) const {
  run->deadline = now.steady + run->load.job->stage_timeout;
  const bool inspecting = run->load.state == LoadState::kInspecting && !run->compiling;
  if (inspecting || run->load.state == LoadState::kLoading) {
    run->deadline += kGraceHeartbeats * options_.heartbeat_interval;
  }
}

void Machine::Enter(Run* run, LoadState state, const Moment& now, std::vector<Command>* out) {
  run->load.state = state;
  RestartWait(run, now);
  run->reported.assign(run->sessions.size(), false);
  Touch(*run, out);
}

void Machine::End(Run* run, LoadState state, const Moment& now, std::vector<Command>* out) {
  run->load.state = state;
  run->load.elapsed = now.steady - run->started;
  active_.erase(run->load.name);
  if (!run->load.plan_only) out->push_back(PersistLoad{run->load.name});
  Touch(*run, out);
  out->push_back(LoadEnded{run->load.name});
}

void Machine::SendCancel(const Run& run, absl::string_view why, SessionId except,
                         std::vector<Command>* out) {
  for (const SessionId session : run.sessions) {
    if (session == except || node_of_session_.count(session) == 0) continue;
    out->push_back(Send{session, CancelLoad{run.load.name, run.load.epoch, std::string(why)}});
  }
  for (const Run::Donor& donor : run.donors) {
    if (donor.session == except || node_of_session_.count(donor.session) == 0) continue;
    out->push_back(
        Send{donor.session, CancelLoad{run.load.name, run.load.epoch, std::string(why)}});
  }
}

void Machine::Fail(Run* run, absl::Status failure, SessionId except, const Moment& now,
                   std::vector<Command>* out) {
  run->load.failure = WithSomeReason(std::move(failure));
  SendCancel(*run, run->load.failure.message(), except, out);
  End(run, LoadState::kFailed, now, out);
}

std::vector<std::string> Machine::Missing(const Run& run) {
  std::vector<std::string> names;
  for (size_t node = 0; node < run.reported.size(); ++node) {
    if (!run.reported[node]) names.push_back(run.load.nodes[node].node_name);
  }
  if (run.load.state != LoadState::kPreparing) return names;
  for (const Run::Donor& donor : run.donors) {
    if (!donor.accepted) names.push_back(donor.node_name);
  }
  return names;
}

std::vector<std::string> Machine::WaitsFor(absl::string_view load) const {
  const auto it = runs_.find(load);
  if (it == runs_.end() || IsFinal(it->second.load.state)) return {};
  const Run& run = it->second;
  if (run.load.state != LoadState::kPending) return Missing(run);
  std::vector<std::string> names;
  for (const std::string& name : run.load.job->nodes) {
    if (agents_.count(name) == 0) names.push_back(name);
  }
  return names;
}

bool Machine::AllReported(const Run& run) const {
  return std::all_of(run.reported.begin(), run.reported.end(), [](bool b) { return b; });
}

void Machine::Expire(Run* run, const Moment& now, std::vector<Command>* out) {
  const Load& load = run->load;
  const std::string waited =
      absl::StrCat("load ", load.name, " (", LoadStateName(load.state), ") waited ",
                   absl::FormatDuration(load.job->stage_timeout));
  if (load.state == LoadState::kPreparing && !run->donors.empty()) {
    StartFromFiles(run, "the agents that hold its shards did not answer in time", now, out);
    return;
  }
  if (load.state == LoadState::kPending) {
    std::vector<std::string> connected;
    for (const auto& [name, agent] : agents_) connected.push_back(name);
    const std::string wanted =
        load.job->nodes.empty()
            ? absl::StrCat(load.job->layout.num_nodes, " agents")
            : absl::StrCat("the agents of ", absl::StrJoin(load.job->nodes, ", "));
    Fail(run,
         WithReason(absl::UnavailableError(
                        absl::StrCat(waited, " for ", wanted, "; connected: ",
                                     connected.empty() ? "none" : absl::StrJoin(connected, ", "),
                                     "; start the missing agents, then create a new load")),
                    "NOT_ENOUGH_AGENTS"),
         0, now, out);
    return;
  }
  std::string what = "the reports";
  if (load.state == LoadState::kInspecting) {
    what = run->compiling ? "the plan compiler of the server" : "the checkpoint's headers";
  } else if (load.state == LoadState::kPreparing) {
    what = "the agents to get ready";
  } else if (load.state == LoadState::kLoading) {
    what = "progress";
  }
  const std::string of =
      run->compiling ? "" : absl::StrCat(" of node ", absl::StrJoin(Missing(*run), ", "));
  Fail(run,
       WithReason(
           absl::DeadlineExceededError(absl::StrCat(
               waited, " for ", what, of, "; see the agent's log there, or raise stage_timeout")),
           "DEADLINE_EXCEEDED"),
       0, now, out);
}

void Machine::TryPlace(Run* run, const Moment& now, std::vector<Command>* out) {
  if (run->load.state != LoadState::kPending) return;
  const Job& job = *run->load.job;
  std::vector<const Agent*> agents = PickAgents(job);
  if (agents.empty()) return;
  run->limits.clear();
  for (const Agent* agent : agents) run->limits.push_back(agent->limits);
  // A dry run needs only the node that reads the headers.
  if (run->load.plan_only) agents.resize(1);
  for (const Agent* agent : agents) {
    NodeProgress progress;
    progress.node_name = agent->node_name;
    run->load.nodes.push_back(std::move(progress));
    run->sessions.push_back(agent->session);
  }
  Enter(run, LoadState::kInspecting, now, out);
  // Only the node of rank 0 has something to do.
  run->reported.assign(run->sessions.size(), true);
  run->reported[0] = false;
  const absl::Duration deadline =
      std::min(now.steady + job.stage_timeout, run->load.caller_deadline);
  out->push_back(
      Send{run->sessions[0],
           InspectCheckpoint{run->load.name, run->load.epoch, job.checkpoint_path, job.variant,
                             deadline, job.checkpoint_format, job.checkpoint_tag}});
}

void Machine::On(const ManifestReport& event, const Moment& now, std::vector<Command>* out) {
  int32_t node;
  Run* run = Accept(event, {LoadState::kInspecting}, now, &node);
  if (run == nullptr) return;
  if (node != 0 || run->compiling) {
    ++num_dropped_;
    return;
  }
  if (!event.failure.ok()) {
    Fail(run, Annotate(event.failure, absl::StrCat("node ", run->load.nodes[0].node_name)),
         event.session, now, out);
    return;
  }
  run->compiling = true;
  run->reported[0] = true;
  RestartWait(run, now);
  CompilePlanCommand command;
  command.load = run->load.name;
  command.epoch = run->load.epoch;
  command.job = run->load.job;
  command.compressed_manifest = event.compressed_manifest;
  command.checkpoint_digest = event.checkpoint_digest;
  command.max_buffer_bytes = run->load.job->max_buffer_bytes;
  command.agents = run->limits;
  for (const AgentLimits& limits : run->limits) {
    if (limits.max_buffer_bytes == 0) continue;
    command.max_buffer_bytes = std::min(command.max_buffer_bytes, limits.max_buffer_bytes);
  }
  command.plan_only = run->load.plan_only;
  out->push_back(std::move(command));
}

void Machine::On(const PlanCompiled& event, const Moment& now, std::vector<Command>* out) {
  const auto it = runs_.find(event.load);
  if (it == runs_.end() || it->second.load.epoch != event.epoch || !it->second.compiling ||
      it->second.load.state != LoadState::kInspecting) {
    ++num_dropped_;
    return;
  }
  Run& run = it->second;
  run.compiling = false;
  run.load.report = event.report;
  if (!event.status.ok()) {
    Fail(&run, event.status, 0, now, out);
    return;
  }
  run.load.plan = event.plan;
  if (run.load.plan_only) {
    End(&run, LoadState::kReady, now, out);
    return;
  }
  Enter(&run, LoadState::kPreparing, now, out);
  out->push_back(PersistLoad{run.load.name});
  std::vector<std::string> names;
  for (const NodeProgress& progress : run.load.nodes) names.push_back(progress.node_name);
  for (size_t i = 0; i < run.sessions.size(); ++i) {
    out->push_back(
        Send{run.sessions[i],
             PreparePlan{run.load.name, run.load.epoch, run.load.job, event.compressed_plan_input,
                         event.plan->digest, static_cast<int32_t>(i), names}});
  }
}

void Machine::On(const PlanReport& event, const Moment& now, std::vector<Command>* out) {
  int32_t node;
  Run* run = Accept(event, {LoadState::kPreparing}, now, &node);
  if (run == nullptr) return;
  const std::string& name = run->load.nodes[node].node_name;
  if (!event.failure.ok()) {
    Fail(run, Annotate(event.failure, absl::StrCat("node ", name)), event.session, now, out);
    return;
  }
  if (event.plan_digest != run->load.plan->digest) {
    Fail(run,
         WithReason(absl::FailedPreconditionError(absl::StrCat(
                        "load ", run->load.name, ": node ", name, " compiled the plan to digest ",
                        event.plan_digest, ", the server to ", run->load.plan->digest,
                        "; server and agent must be of the same version")),
                    "PLAN_REFUSED"),
         0, now, out);
    return;
  }
  if (run->reported[node]) {  // said twice: what was decided by the first stays
    ++num_dropped_;
    return;
  }
  run->reported[node] = true;
  run->shards.resize(run->sessions.size());
  run->shards[node] = event.shards;
  if (!AllReported(*run)) {
    Touch(*run, out);
    return;
  }
  ChooseAndStart(run, now, out);
}

void Machine::On(const RendezvousEntry& event, const Moment& now, std::vector<Command>* out) {
  Run* run = FindReported(event, {LoadState::kPreparing, LoadState::kLoading}, now);
  if (run == nullptr ||
      (!Contains(run->sessions, event.session) && FindDonor(run, event.session) == nullptr)) {
    ++num_dropped_;
    return;
  }
  std::vector<SessionId> others = run->sessions;
  for (const Run::Donor& donor : run->donors) others.push_back(donor.session);
  for (const SessionId session : others) {
    if (session == event.session) continue;
    out->push_back(
        Send{session, RelayEntry{run->load.name, run->load.epoch, event.key, event.value}});
  }
}

void Machine::On(const ProgressReport& event, const Moment& now, std::vector<Command>* out) {
  int32_t node;
  Run* run = Accept(event, {LoadState::kPreparing, LoadState::kLoading}, now, &node);
  if (run == nullptr) return;
  NodeProgress progress = event.progress;
  progress.node_name = run->load.nodes[node].node_name;
  if (Advanced(run->load.nodes[node], progress)) RestartWait(run, now);
  run->load.nodes[node] = std::move(progress);
  Touch(*run, out);
}

absl::Status Machine::CheckShards(const Run& run, int32_t node, const std::vector<Shard>& shards) {
  std::vector<int32_t> wanted, got;
  const std::vector<int32_t>& node_of_rank = run.load.job->layout.node_of_rank;
  for (size_t rank = 0; rank < node_of_rank.size(); ++rank) {
    if (node_of_rank[rank] == node) wanted.push_back(static_cast<int32_t>(rank));
  }
  for (const Shard& shard : shards) got.push_back(shard.rank);
  std::sort(got.begin(), got.end());
  if (got == wanted) return absl::OkStatus();
  return WithReason(absl::InternalError(absl::StrCat(
                        "load ", run.load.name, ": node ", run.load.nodes[node].node_name,
                        " reported shards of ranks ", absl::StrJoin(got, ","), ", it holds ranks ",
                        absl::StrJoin(wanted, ","))),
                    "INTERNAL");
}

void Machine::On(const NodeReport& event, const Moment& now, std::vector<Command>* out) {
  int32_t node;
  // An agent may find the end of its road before the load starts: a failure counts then too.
  Run* run = Accept(event, {LoadState::kPreparing, LoadState::kLoading}, now, &node);
  if (run == nullptr) return;
  NodeProgress progress = event.progress;
  progress.node_name = run->load.nodes[node].node_name;
  run->load.nodes[node] = progress;
  if (!event.failure.ok()) {
    Fail(run, Annotate(event.failure, absl::StrCat("node ", progress.node_name)), event.session,
         now, out);
    return;
  }
  if (run->load.state != LoadState::kLoading || run->reported[node]) {
    ++num_dropped_;
    return;
  }
  const absl::Status checked = CheckShards(*run, node, event.shards);
  if (!checked.ok()) {
    Fail(run, checked, 0, now, out);
    return;
  }
  run->reported[node] = true;
  for (Shard shard : event.shards) {
    shard.node_name = progress.node_name;
    if (shard.agent_socket.empty()) shard.agent_socket = agents_.at(shard.node_name).socket_path;
    run->load.shards.push_back(std::move(shard));
  }
  if (!AllReported(*run)) {
    RestartWait(run, now);
    Touch(*run, out);
    return;
  }
  std::sort(run->load.shards.begin(), run->load.shards.end(),
            [](const Shard& a, const Shard& b) { return a.rank < b.rank; });
  End(run, LoadState::kReady, now, out);
  for (const NodeProgress& each : run->load.nodes) UpdateHeld(run->load, each.node_name);
}

template <typename Report>
Machine::Run* Machine::AcceptReady(const Report& report, const Agent* agent) {
  const auto it = runs_.find(report.load);
  if (agent == nullptr || it == runs_.end() || it->second.load.epoch != report.epoch ||
      it->second.load.state != LoadState::kReady) {
    ++num_dropped_;
    return nullptr;
  }
  return &it->second;
}

void Machine::On(const HandOverReport& event, const Moment& now, std::vector<Command>* out) {
  Agent* agent = FindAgent(event.session);
  if (agent != nullptr) agent->last_heard = now.steady;
  Run* run = AcceptReady(event, agent);
  if (run == nullptr) return;
  std::vector<Shard>& shards = run->load.shards;
  if (event.rank < 0 || event.rank >= static_cast<int32_t>(shards.size()) ||
      shards[event.rank].node_name != agent->node_name ||
      (event.mode != "shared" && event.mode != "private")) {
    ++num_dropped_;
    return;
  }
  Shard& shard = shards[event.rank];
  shard.handed_over = event.mode;
  shard.way = event.way;
  shard.way_because = event.because;
  // A shard that went over as it was is the training process's, whatever became of its agent since.
  if (event.mode == "shared") shard.freed = absl::OkStatus();
  UpdateHeld(run->load, agent->node_name);
  out->push_back(PersistLoad{event.load});
  Touch(*run, out);
}

void Machine::On(const ShardsFreedReport& event, const Moment& now, std::vector<Command>* out) {
  Agent* agent = FindAgent(event.session);
  const auto it = runs_.find(event.load);
  if (it != runs_.end() && !IsFinal(it->second.load.state)) {
    // Its node was done long before the others, and waited for longer than it keeps shards.
    int32_t node;
    Run* run = Accept(event, {LoadState::kPreparing, LoadState::kLoading}, now, &node);
    if (run == nullptr || event.why.ok()) return;
    Fail(run, Annotate(event.why, absl::StrCat("node ", run->load.nodes[node].node_name)), 0, now,
         out);
    return;
  }
  if (agent != nullptr) agent->last_heard = now.steady;
  Run* run = AcceptReady(event, agent);
  if (run == nullptr) return;
  if (event.why.ok()) {
    ++num_dropped_;
    return;
  }
  FreeShards(run, agent->node_name, event.ranks, WithSomeReason(event.why), out);
}

void Machine::FreeShards(Run* run, const std::string& node_name, const std::vector<int32_t>& ranks,
                         const absl::Status& why, std::vector<Command>* out) {
  bool changed = false;
  for (const int32_t rank : ranks) {
    if (rank < 0 || rank >= static_cast<int32_t>(run->load.shards.size())) continue;
    Shard& shard = run->load.shards[rank];
    if (shard.node_name != node_name || shard.handed_over == "shared" || shard.freed == why) {
      continue;
    }
    shard.freed = why;
    changed = true;
  }
  if (!changed) {
    ++num_dropped_;
    return;
  }
  UpdateHeld(run->load, node_name);
  out->push_back(PersistLoad{run->load.name});
  Touch(*run, out);
}

void Machine::UpdateHeld(const Load& load, const std::string& node_name) {
  bool holds = load.state == LoadState::kReady && !load.released && !load.plan_only;
  if (holds) {
    int here = 0, left = 0;
    for (const Shard& shard : load.shards) {
      if (shard.node_name != node_name) continue;
      ++here;
      if (shard.handed_over != "shared" && shard.freed.ok()) ++left;
    }
    // A node without a rank keeps the load on its books, too, until it is cancelled.
    holds = here == 0 || left > 0;
  }
  if (holds) {
    held_[node_name].insert(load.name);
    return;
  }
  const auto held = held_.find(node_name);
  if (held == held_.end()) return;
  held->second.erase(load.name);
  if (held->second.empty()) held_.erase(held);
}

}  // namespace zerocast::jobs
