// Agents come, go and fall silent; time passes.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/base/errors.h"
#include "server/jobs/machine.h"

namespace zerocast::jobs {
namespace {

// A missed heartbeat may be a lost packet; three in a row are a lost agent.
constexpr int kMissedHeartbeats = 3;

}  // namespace

void Machine::Apply(const Event& event, const Moment& now, std::vector<Command>* out) {
  std::visit([&](const auto& e) { On(e, now, out); }, event);
}

Agent* Machine::FindAgent(SessionId session) {
  const auto it = node_of_session_.find(session);
  return it == node_of_session_.end() ? nullptr : &agents_.at(it->second);
}

absl::Status Machine::CheckNewAgent(const AgentRegistered& event, const Moment& now) const {
  const auto old = agents_.find(event.node_name);
  if (old == agents_.end() || old->second.incarnation == event.incarnation ||
      now.steady - old->second.last_heard > kMissedHeartbeats * options_.heartbeat_interval) {
    return absl::OkStatus();
  }
  return WithReason(absl::AlreadyExistsError(absl::StrCat(
                        "register node ", event.node_name, ": another agent named ",
                        event.node_name, " is connected; give this one another --node")),
                    "ALREADY_EXISTS");
}

void Machine::On(const AgentRegistered& event, const Moment& now, std::vector<Command>* out) {
  if (absl::Status checked = CheckNewAgent(event, now); !checked.ok()) {
    out->push_back(EndSession{event.session, std::move(checked)});
    return;
  }
  const auto old = agents_.find(event.node_name);
  if (old != agents_.end()) {
    const bool restarted = old->second.incarnation != event.incarnation;
    out->push_back(EndSession{
        old->second.session,
        WithReason(absl::AbortedError(absl::StrCat("session of node ", event.node_name,
                                                   ": another stream of this node registered")),
                   "AGENT_LOST")});
    LoseAgent(event.node_name, restarted ? "its agent restarted" : "its stream was replaced", now,
              out);
  }
  Agent& agent = agents_[event.node_name];
  agent.session = event.session;
  agent.node_name = event.node_name;
  agent.incarnation = event.incarnation;
  agent.version = event.version;
  agent.socket_path = event.socket_path;
  agent.bulk_host = event.bulk_host;
  agent.last_heard = now.steady;
  agent.held_shards = event.held_shards;
  agent.cache_bytes = event.cache_bytes;
  agent.limits = event.limits;
  agent.gpus = event.gpus;
  agent.no_gpus_because = event.no_gpus_because;
  agent.looks_at_folders = event.looks_at_folders;
  node_of_session_[event.session] = event.node_name;
  CompareHeld(agent, event.held_loads, out);
  // A copy: placing a load can end it.
  const std::vector<std::string> active(active_.begin(), active_.end());
  for (const std::string& name : active) {
    Run& run = runs_.at(name);
    TryPlace(&run, now, out);
    // Whom it waits for has changed.
    if (run.load.state == LoadState::kPending) Touch(run, out);
  }
}

void Machine::CompareHeld(const Agent& agent, const std::vector<HeldLoad>& held,
                          std::vector<Command>* out) {
  const auto expected = held_.find(agent.node_name);
  // What is left of it is lost.
  std::set<std::string> lost = expected == held_.end() ? std::set<std::string>() : expected->second;
  const std::set<std::string> wanted = lost;
  for (const HeldLoad& each : held) {
    if (wanted.count(each.load) > 0 && runs_.at(each.load).load.epoch == each.epoch) {
      lost.erase(each.load);
    } else {
      out->push_back(Send{
          agent.session,
          CancelLoad{each.load, each.epoch, "the server does not wait for these shards any more"}});
    }
  }
  for (const std::string& name : lost) {
    Run& run = runs_.at(name);
    std::vector<int32_t> ranks;
    for (const Shard& shard : run.load.shards) {
      if (shard.node_name == agent.node_name && shard.freed.ok()) ranks.push_back(shard.rank);
    }
    if (ranks.empty()) {  // a node without a rank
      held_[agent.node_name].erase(name);
      continue;
    }
    // Where the agent freed or handed over what is missing, its own report follows and counts.
    FreeShards(&run, agent.node_name, ranks,
               WithReason(absl::UnavailableError(
                              "the node's agent came back without it: it was restarted, and shards "
                              "live in its memory; create a new load"),
                          "AGENT_LOST"),
               out);
  }
}

void Machine::On(const SessionClosed& event, const Moment& now, std::vector<Command>* out) {
  const Agent* agent = FindAgent(event.session);
  if (agent == nullptr) return;
  const std::string node_name = agent->node_name;
  LoseAgent(node_name, event.why, now, out);
}

void Machine::LoseAgent(const std::string& node_name, absl::string_view why, const Moment& now,
                        std::vector<Command>* out) {
  const SessionId session = agents_.at(node_name).session;
  agents_.erase(node_name);
  node_of_session_.erase(session);
  const std::vector<std::string> active(active_.begin(), active_.end());
  for (const std::string& name : active) {
    Run& run = runs_.at(name);
    if (run.load.state == LoadState::kPending) Touch(run, out);
    if (FindDonor(&run, session) != nullptr) {
      OnDonorFailed(
          &run, session,
          WithReason(absl::UnavailableError(absl::StrCat("it was lost: ", why)), "AGENT_LOST"), now,
          out);
      continue;
    }
    if (std::find(run.sessions.begin(), run.sessions.end(), session) == run.sessions.end()) {
      continue;
    }
    Fail(&run,
         WithReason(absl::UnavailableError(absl::StrCat(
                        "load ", name, " (", LoadStateName(run.load.state), "): node ", node_name,
                        " was lost: ", why, "; see its agent's log, then create a new load")),
                    "AGENT_LOST"),
         session, now, out);
  }
}

void Machine::On(const Heartbeat& event, const Moment& now, std::vector<Command>*) {
  Agent* agent = FindAgent(event.session);
  if (agent != nullptr) agent->last_heard = now.steady;
}

void Machine::On(const Tick&, const Moment& now, std::vector<Command>* out) {
  const absl::Duration limit = kMissedHeartbeats * options_.heartbeat_interval;
  std::vector<std::pair<std::string, SessionId>> silent;
  for (const auto& [node_name, agent] : agents_) {
    if (now.steady - agent.last_heard > limit) silent.push_back({node_name, agent.session});
  }
  for (const auto& [node_name, session] : silent) {
    const std::string why = absl::StrCat("it was silent for ", absl::FormatDuration(limit));
    out->push_back(EndSession{session, WithReason(absl::DeadlineExceededError(absl::StrCat(
                                                      "session of node ", node_name, ": ", why)),
                                                  "AGENT_LOST")});
    LoseAgent(node_name, why, now, out);
  }
  const std::vector<std::string> active(active_.begin(), active_.end());
  for (const std::string& name : active) {
    Run& run = runs_.at(name);
    if (now.steady > run.deadline) Expire(&run, now, out);
  }
  TickLeases(now, out);
}

std::vector<std::string> Machine::LoadsOf(const Agent& agent) const {
  const auto held = held_.find(agent.node_name);
  std::set<std::string> loads = held == held_.end() ? std::set<std::string>() : held->second;
  for (const std::string& name : active_) {
    const Run& run = runs_.at(name);
    const bool gives = std::any_of(run.donors.begin(), run.donors.end(), [&](const auto& donor) {
      return donor.session == agent.session;
    });
    if (gives ||
        std::find(run.sessions.begin(), run.sessions.end(), agent.session) != run.sessions.end()) {
      loads.insert(name);
    }
  }
  return {loads.begin(), loads.end()};
}

std::vector<const Agent*> Machine::PickAgents(const Job& job) const {
  std::vector<const Agent*> picked;
  if (!job.nodes.empty()) {
    for (const std::string& node : job.nodes) {
      const auto it = agents_.find(node);
      if (it == agents_.end()) return {};
      picked.push_back(&it->second);
    }
    return picked;
  }
  // The least busy ones, by name where they are equal.
  std::vector<std::pair<size_t, const Agent*>> by_load;
  for (const auto& [name, agent] : agents_) by_load.push_back({LoadsOf(agent).size(), &agent});
  if (static_cast<int32_t>(by_load.size()) < job.layout.num_nodes) return {};
  std::stable_sort(by_load.begin(), by_load.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  for (int32_t i = 0; i < job.layout.num_nodes; ++i) picked.push_back(by_load[i].second);
  return picked;
}

}  // namespace zerocast::jobs
