// What callers ask for; machine_jobs.cc has the ends of jobs, machine_agents.cc and
// machine_loads.cc have the events.
#include "server/jobs/machine.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"

namespace zerocast::jobs {
namespace {

absl::Status NoSuch(absl::string_view what, absl::string_view name) {
  return WithReason(absl::NotFoundError(absl::StrCat("find ", what, " '", name, "': no such ", what,
                                                     "; it was never created, or deleted")),
                    "NOT_FOUND");
}

absl::Status Exhausted(absl::string_view what, int64_t limit, absl::string_view help) {
  return WithReason(absl::ResourceExhaustedError(
                        absl::StrCat("the server keeps at most ", limit, " ", what, "; ", help)),
                    "RESOURCE_EXHAUSTED");
}

absl::Status WrongState(absl::string_view message) {
  return WithReason(absl::FailedPreconditionError(message), "WRONG_STATE");
}

absl::Status OtherBody(const RequestKey& request) {
  return InvalidFields(
      {{"request_id",
        absl::StrCat("'", request.request_id, "' came before with another body; use a new id")}});
}

}  // namespace

void Machine::RestoreJob(Job job) {
  if (!job.request.request_id.empty()) job_of_request_[job.request.request_id] = job.name;
  const std::string name = job.name;
  if (job.lease > absl::ZeroDuration()) {
    if (IsFinal(job.state)) {
      ended_.insert({job.end_time, name});
    } else {
      lease_ends_[name] = absl::InfiniteDuration();
    }
  }
  jobs_[name] = std::make_shared<const Job>(std::move(job));
}

void Machine::RestoreLoad(Load load, std::vector<Command>* out) {
  if (!load.request.request_id.empty()) load_of_request_[load.request.request_id] = load.name;
  const std::string name = load.name;
  if (!IsFinal(load.state)) {
    load.state = LoadState::kFailed;
    load.failure =
        WithReason(absl::UnavailableError(absl::StrCat(
                       "load ", name, ": the server restarted during the load; create a new load")),
                   "AGENT_LOST");
    out->push_back(PersistLoad{name});
    out->push_back(LoadEnded{name});
  }
  Run& run = runs_[name];
  run.load = std::move(load);
  for (const NodeProgress& node : run.load.nodes) UpdateHeld(run.load, node.node_name);
}

absl::StatusOr<std::string> Machine::FindJobOf(const RequestKey& request) const {
  const auto it = job_of_request_.find(request.request_id);
  if (it == job_of_request_.end()) return "";
  if (jobs_.at(it->second)->request.fingerprint != request.fingerprint) return OtherBody(request);
  return it->second;
}

absl::StatusOr<std::string> Machine::FindLoadOf(const RequestKey& request) const {
  const auto it = load_of_request_.find(request.request_id);
  if (it == load_of_request_.end()) return "";
  if (runs_.at(it->second).load.request.fingerprint != request.fingerprint) {
    return OtherBody(request);
  }
  return it->second;
}

absl::Status Machine::CheckNewJob(int64_t being_made) const {
  if (static_cast<int64_t>(jobs_.size()) + being_made >= options_.max_jobs) {
    return Exhausted("jobs", options_.max_jobs, "cancel and delete old ones");
  }
  return absl::OkStatus();
}

void Machine::AddJob(Job job, std::vector<Command>* out) {
  const std::string name = job.name;
  RestoreJob(std::move(job));
  out->push_back(NotifyJob{name});
}

absl::Status Machine::CheckLoadLimits(int64_t being_made) const {
  if (static_cast<int64_t>(active_.size()) + being_made >= options_.max_active_loads) {
    return Exhausted("active loads", options_.max_active_loads, "try again when some have ended");
  }
  if (static_cast<int64_t>(runs_.size()) + being_made >= options_.max_loads) {
    return Exhausted("loads", options_.max_loads, "cancel and delete old jobs");
  }
  return absl::OkStatus();
}

absl::Status Machine::CheckNewLoad(absl::string_view job, int64_t being_made) const {
  ZC_ASSIGN_OR_RETURN(const std::shared_ptr<const Job> found, GetJob(job));
  if (IsFinal(found->state)) {
    return WrongState(
        absl::StrCat("create a load of ", job, ": the job is ", JobStateName(found->state)));
  }
  if (const std::string active = ActiveLoadOf(job); !active.empty()) {
    return WrongState(absl::StrCat("create a load of ", job, ": ", active, " of this job is ",
                                   LoadStateName(runs_.at(active).load.state),
                                   "; wait for it or cancel it"));
  }
  return CheckLoadLimits(being_made);
}

void Machine::AddLoad(Load load, const Moment& now, std::vector<Command>* out) {
  if (!load.request.request_id.empty()) load_of_request_[load.request.request_id] = load.name;
  const std::string name = load.name;
  Run& run = runs_[name];
  run.load = std::move(load);
  run.started = now.steady;
  active_.insert(name);
  Enter(&run, LoadState::kPending, now, out);
  TryPlace(&run, now, out);
}

absl::StatusOr<std::shared_ptr<const Job>> Machine::GetJob(absl::string_view name) const {
  const auto it = jobs_.find(name);
  if (it == jobs_.end()) return NoSuch("job", name);
  return it->second;
}

absl::StatusOr<const Load*> Machine::GetLoad(absl::string_view name) const {
  const auto it = runs_.find(name);
  if (it == runs_.end()) return NoSuch("load", name);
  return &it->second.load;
}

std::vector<const Load*> Machine::Loads() const {
  std::vector<const Load*> loads;
  loads.reserve(runs_.size());
  for (const auto& [name, run] : runs_) loads.push_back(&run.load);
  return loads;
}

absl::Status Machine::CancelLoadByName(absl::string_view name, const Moment& now,
                                       std::vector<Command>* out) {
  const auto it = runs_.find(name);
  if (it == runs_.end()) return NoSuch("load", name);
  CancelRun(&it->second, "the load was cancelled", now, out);
  return absl::OkStatus();
}

void Machine::CancelRun(Run* run, absl::string_view why, const Moment& now,
                        std::vector<Command>* out) {
  const std::string& name = run->load.name;
  if (!IsFinal(run->load.state)) {
    SendCancel(*run, why, 0, out);
    End(run, LoadState::kCancelled, now, out);
  } else if (run->load.state == LoadState::kReady && !run->load.released) {
    run->load.released = true;
    for (Shard& shard : run->load.shards) {
      if (shard.handed_over == "shared" || !shard.freed.ok()) continue;
      shard.freed = WithReason(absl::CancelledError(why), "CANCELLED");
    }
    if (!run->load.plan_only) out->push_back(PersistLoad{name});
    for (const NodeProgress& node : run->load.nodes) {
      const auto held = held_.find(node.node_name);
      if (held == held_.end() || held->second.count(name) == 0) continue;
      UpdateHeld(run->load, node.node_name);
      const auto agent = agents_.find(node.node_name);
      if (agent == agents_.end()) continue;
      out->push_back(
          Send{agent->second.session, CancelLoad{name, run->load.epoch, std::string(why)}});
    }
  }
}

absl::StatusOr<std::vector<std::string>> Machine::CheckDeleteJob(absl::string_view name) const {
  ZC_ASSIGN_OR_RETURN(const std::shared_ptr<const Job> job, GetJob(name));
  if (!IsFinal(job->state)) {
    return WrongState(absl::StrCat("delete ", name, ": the job is active; cancel it first"));
  }
  // The end of a job has ended all its loads.
  std::vector<std::string> loads;
  for (const auto& [load_name, run] : runs_) {
    if (run.load.job->name == name && !run.load.plan_only) loads.push_back(load_name);
  }
  return loads;
}

void Machine::RemoveJob(absl::string_view name) {
  const auto it = jobs_.find(name);
  if (it == jobs_.end()) return;
  for (auto run = runs_.begin(); run != runs_.end();) {
    const Load& load = run->second.load;
    if (load.job->name != name || load.plan_only) {
      ++run;
      continue;
    }
    // The loads of a job that is over are released, unless the server died between the two records.
    run->second.load.released = true;
    for (const NodeProgress& node : load.nodes) UpdateHeld(load, node.node_name);
    load_of_request_.erase(load.request.request_id);
    active_.erase(load.name);
    run = runs_.erase(run);
  }
  job_of_request_.erase(it->second->request.request_id);
  ended_.erase({it->second->end_time, it->first});
  lease_ends_.erase(it->first);
  jobs_.erase(it);
}

void Machine::RemovePlanOnly(absl::string_view name, const Moment& now, std::vector<Command>* out) {
  const auto it = runs_.find(name);
  if (it == runs_.end() || !it->second.load.plan_only) return;
  CancelRun(&it->second, "the dry run ended", now, out);
  runs_.erase(it);
}

}  // namespace zerocast::jobs
