// How jobs end: by a caller, or with their lease.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/jobs/machine.h"

namespace zerocast::jobs {
namespace {

absl::Status WrongState(absl::string_view message) {
  return WithReason(absl::FailedPreconditionError(message), "WRONG_STATE");
}

}  // namespace

std::string Machine::ActiveLoadOf(absl::string_view job) const {
  const auto it = std::find_if(active_.begin(), active_.end(), [&](const std::string& name) {
    const Load& load = runs_.at(name).load;
    return !load.plan_only && load.job->name == job;
  });
  return it == active_.end() ? "" : *it;
}

void Machine::EndJob(std::shared_ptr<const Job>* job, JobState state, absl::string_view why,
                     const Moment& now, std::vector<Command>* out) {
  const std::string name = (*job)->name;
  if (!IsFinal((*job)->state)) {
    Job ended = **job;
    ended.state = state;
    ended.end_time = now.wall;
    if (lease_ends_.erase(name) > 0) ended_.insert({ended.end_time, name});
    *job = std::make_shared<const Job>(std::move(ended));
    out->push_back(PersistJob{name});
    out->push_back(NotifyJob{name});
  }
  for (auto& [load_name, run] : runs_) {
    if (run.load.job->name == name && !run.load.plan_only) CancelRun(&run, why, now, out);
  }
}

absl::Status Machine::CancelJob(absl::string_view name, const Moment& now,
                                std::vector<Command>* out) {
  ZC_RETURN_IF_ERROR(GetJob(name).status());
  EndJob(&jobs_.find(name)->second, JobState::kCancelled, absl::StrCat(name, " was cancelled"), now,
         out);
  return absl::OkStatus();
}

absl::Status Machine::FinishJob(absl::string_view name, const Moment& now,
                                std::vector<Command>* out) {
  ZC_ASSIGN_OR_RETURN(const std::shared_ptr<const Job> job, GetJob(name));
  if (job->state == JobState::kDone) return absl::OkStatus();
  if (IsFinal(job->state)) {
    return WrongState(absl::StrCat("finish ", name, ": the job is ", JobStateName(job->state)));
  }
  if (const std::string active = ActiveLoadOf(name); !active.empty()) {
    return WrongState(absl::StrCat("finish ", name, ": ", active, " of this job is ",
                                   LoadStateName(runs_.at(active).load.state),
                                   "; wait for it or cancel it"));
  }
  EndJob(&jobs_.find(name)->second, JobState::kDone, absl::StrCat(name, " is done"), now, out);
  return absl::OkStatus();
}

absl::Status Machine::RenewJobLease(absl::string_view name, const Moment& now) {
  ZC_ASSIGN_OR_RETURN(const std::shared_ptr<const Job> job, GetJob(name));
  if (IsFinal(job->state)) {
    return WrongState(
        absl::StrCat("renew the lease of ", name, ": the job is ", JobStateName(job->state)));
  }
  if (job->lease <= absl::ZeroDuration()) {
    return WrongState(absl::StrCat("renew the lease of ", name,
                                   ": it has none, and lives until somebody ends it"));
  }
  lease_ends_[job->name] = now.steady + job->lease;
  return absl::OkStatus();
}

void Machine::TickLeases(const Moment& now, std::vector<Command>* out) {
  std::vector<std::string> expired;
  for (auto& [name, end] : lease_ends_) {
    if (end == absl::InfiniteDuration()) end = now.steady + jobs_.at(name)->lease;
    if (now.steady > end) expired.push_back(name);
  }
  for (const std::string& name : expired) {
    std::shared_ptr<const Job>* const job = &jobs_.at(name);
    EndJob(job, JobState::kExpired,
           absl::StrCat(name, " expired: nobody renewed its lease of ",
                        absl::FormatDuration((*job)->lease), ", so who made it is gone"),
           now, out);
    out->push_back(JobExpired{name});
  }
  for (const auto& [end_time, name] : ended_) {
    if (now.wall - end_time <= options_.keep_ended) break;
    out->push_back(ForgetJob{name});
  }
}

}  // namespace zerocast::jobs
