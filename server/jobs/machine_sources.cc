// Where the shards of a prepared load come from, and the agents that give them.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/base/errors.h"
#include "server/jobs/machine.h"

namespace zerocast::jobs {

void Machine::On(const HeldShardsReport& event, const Moment& now, std::vector<Command>*) {
  Agent* agent = FindAgent(event.session);
  if (agent == nullptr) {
    ++num_dropped_;
    return;
  }
  agent->last_heard = now.steady;
  agent->held_shards = event.shards;
  agent->cache_bytes = event.cache_bytes;
}

SourceRequest Machine::DescribeSources(const Run& run) const {
  SourceRequest request;
  request.layout = &run.load.job->layout;
  request.plan_digest = run.load.plan->digest;
  request.nodes = run.shards;
  for (const NodeProgress& node : run.load.nodes) request.node_names.push_back(node.node_name);
  for (const auto& [name, agent] : agents_) {
    const bool is_node =
        std::find(run.sessions.begin(), run.sessions.end(), agent.session) != run.sessions.end();
    if (!is_node && !agent.held_shards.empty()) request.others[name] = &agent.held_shards;
  }
  return request;
}

void Machine::ChooseAndStart(Run* run, const Moment& now, std::vector<Command>* out) {
  run->choice = ChooseSource(DescribeSources(*run));
  for (const std::string& name : run->choice.donors) {
    run->donors.push_back({agents_.at(name).session, name});
  }
  if (run->donors.empty()) {
    StartAll(run, now, out);
  } else {
    AskDonors(run, now, out);
  }
}

void Machine::AskDonors(Run* run, const Moment& now, std::vector<Command>* out) {
  RestartWait(run, now);
  Touch(*run, out);
  const size_t first = run->choice.participants.size() - run->donors.size();
  for (size_t k = 0; k < run->donors.size(); ++k) {
    DonateShards command;
    command.load = run->load.name;
    command.epoch = run->load.epoch;
    command.job = run->load.job;
    command.plan_digest = run->load.plan->digest;
    command.content_key = run->choice.nodes[0].content_key;
    command.arena_bytes = run->load.plan->arena_bytes;
    command.peers = {run->choice.participants, static_cast<int32_t>(first + k),
                     run->choice.transfers};
    out->push_back(Send{run->donors[k].session, std::move(command)});
  }
}

void Machine::StartAll(Run* run, const Moment& now, std::vector<Command>* out) {
  Enter(run, LoadState::kLoading, now, out);
  for (size_t node = 0; node < run->sessions.size(); ++node) {
    const NodeSource& source = run->choice.nodes[node];
    StartLoad command{run->load.name, run->load.epoch, source.source, source.content_key, {}};
    if (source.source == LoadSource::kPeers) {
      command.peers = {run->choice.participants, source.participant, run->choice.transfers};
    }
    out->push_back(Send{run->sessions[node], std::move(command)});
  }
}

void Machine::StartFromFiles(Run* run, absl::string_view why, const Moment& now,
                             std::vector<Command>* out) {
  for (const Run::Donor& donor : run->donors) {
    if (node_of_session_.count(donor.session) == 0) continue;
    out->push_back(
        Send{donor.session, CancelLoad{run->load.name, run->load.epoch, std::string(why)}});
  }
  run->donors.clear();
  run->choice = ChooseFiles(DescribeSources(*run));
  StartAll(run, now, out);
}

Machine::Run::Donor* Machine::FindDonor(Run* run, SessionId session) {
  const auto found =
      std::find_if(run->donors.begin(), run->donors.end(),
                   [session](const Run::Donor& donor) { return donor.session == session; });
  return found == run->donors.end() ? nullptr : &*found;
}

void Machine::OnDonorFailed(Run* run, SessionId session, absl::Status why, const Moment& now,
                            std::vector<Command>* out) {
  const Run::Donor donor = *FindDonor(run, session);
  if (run->load.state == LoadState::kPreparing) {
    run->donors.erase(run->donors.begin() + (FindDonor(run, session) - run->donors.data()));
    StartFromFiles(run, absl::StrCat("node ", donor.node_name, " cannot give its shards"), now,
                   out);
    return;
  }
  Fail(run,
       Annotate(WithMessage(why, absl::StrCat(why.message(),
                                              "; create a new load: it takes what is left, or "
                                              "reads the files")),
                absl::StrCat("node ", donor.node_name, ", which gave shards that it holds")),
       session, now, out);
}

void Machine::On(const DonationReport& event, const Moment& now, std::vector<Command>* out) {
  Agent* agent = FindAgent(event.session);
  if (agent != nullptr) agent->last_heard = now.steady;
  const auto it = runs_.find(event.load);
  const bool is_active = agent != nullptr && it != runs_.end() &&
                         it->second.load.epoch == event.epoch && !IsFinal(it->second.load.state);
  Run* const run = is_active ? &it->second : nullptr;
  Run::Donor* const donor = run != nullptr ? FindDonor(run, event.session) : nullptr;
  if (donor == nullptr) {
    ++num_dropped_;
    return;
  }
  if (!event.failure.ok()) {
    OnDonorFailed(run, event.session, event.failure, now, out);
    return;
  }
  if (event.done) {
    // From now on it may go.
    run->donors.erase(run->donors.begin() + (donor - run->donors.data()));
    return;
  }
  donor->accepted = true;
  const bool all = std::all_of(run->donors.begin(), run->donors.end(),
                               [](const Run::Donor& each) { return each.accepted; });
  if (run->load.state != LoadState::kPreparing) return;
  if (all) {
    StartAll(run, now, out);
  } else {
    Touch(*run, out);
  }
}

}  // namespace zerocast::jobs
