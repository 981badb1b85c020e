#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/rpc/convert.h"
#include "server/rpc/core.h"
#include "server/rpc/random_hex.h"
#include "server/rpc/records.h"

namespace zerocast::rpc {
namespace {

// How often a blocked dry run looks whether its caller is still there.
constexpr absl::Duration kPoll = absl::Milliseconds(100);

// A page of a list, bounded in number and in bytes.
template <typename Resource>
class PageOf {
 public:
  explicit PageOf(int limit) : limit_(limit) {}

  // False when the page is full without it: then there is more.
  bool Add(Resource resource) {
    bytes_ += resource.ByteSizeLong();
    const bool fits = items_.empty() ||
                      (static_cast<int>(items_.size()) < limit_ && bytes_ <= Core::kMaxPageBytes);
    if (fits) items_.push_back(std::move(resource));
    return fits;
  }
  std::vector<Resource> Take() { return std::move(items_); }

 private:
  const int limit_;
  size_t bytes_ = 0;
  std::vector<Resource> items_;
};

}  // namespace

// Names sort by creation: lists and page tokens follow them.  The number makes them so, the random
// part keeps names of a server that lost its memory from coming back.
std::string Core::NewNameLocked(absl::string_view collection) {
  return absl::StrFormat("%s/%012x-%s", collection, ++last_number_, RandomHex(4));
}

absl::StatusOr<std::optional<Core::CreatedJob>> Core::FindJobLocked(const jobs::RequestKey& request,
                                                                    absl::Duration until) {
  if (request.request_id.empty()) return std::nullopt;
  ZC_ASSIGN_OR_RETURN(const std::string name, machine_.FindJobOf(request));
  if (name.empty()) return std::nullopt;
  ZC_ASSIGN_OR_RETURN(const auto job, machine_.GetJob(name));
  ZC_RETURN_IF_ERROR(AwaitDurableLocked(VersionLocked(name), until));
  return CreatedJob{JobToProto(*job), job->attach_token};
}

absl::StatusOr<Core::CreatedJob> Core::FindJobOf(const jobs::RequestKey& request,
                                                 absl::Duration timeout) {
  const absl::Duration until = Clock::Real()->Steady() + timeout;
  MutexLock lock(&mutex_);
  ZC_RETURN_IF_ERROR(CheckUsableLocked());
  ZC_ASSIGN_OR_RETURN(std::optional<CreatedJob> made, FindJobLocked(request, until));
  return made.has_value() ? *std::move(made) : CreatedJob();
}

absl::StatusOr<Core::CreatedJob> Core::CreateJob(jobs::Job job, bool validate_only,
                                                 absl::Duration timeout) {
  const absl::Duration until = Clock::Real()->Steady() + timeout;
  MutexLock lock(&mutex_);
  const std::string claim = absl::StrCat("request of a job ", job.request.request_id);
  ZC_RETURN_IF_ERROR(AwaitUnclaimedLocked(claim, until));
  ZC_RETURN_IF_ERROR(CheckUsableLocked());
  ZC_ASSIGN_OR_RETURN(std::optional<CreatedJob> made, FindJobLocked(job.request, until));
  if (made.has_value()) return *std::move(made);
  ZC_RETURN_IF_ERROR(CheckNotDrainingLocked());
  ZC_RETURN_IF_ERROR(machine_.CheckNewJob(NumChangesLocked(&Change::new_job)));
  job.create_time = clock_->Now();
  if (validate_only) return CreatedJob{JobToProto(job), ""};
  job.name = NewNameLocked("jobs");
  job.attach_token = RandomHex(16);
  CreatedJob created{JobToProto(job), job.attach_token};
  auto change = std::make_shared<Change>();
  if (!job.request.request_id.empty()) change->claims.push_back(claim);
  change->writes.push_back({job.name, JobToRecord(job), 0});
  change->new_job = std::move(job);
  ZC_RETURN_IF_ERROR(DoChangeLocked(change, until));
  return created;
}

absl::StatusOr<v1::Load> Core::CreateLoad(absl::string_view job, const jobs::RequestKey& request,
                                          bool validate_only, absl::Duration timeout) {
  const absl::Duration until = Clock::Real()->Steady() + timeout;
  MutexLock lock(&mutex_);
  const std::string job_claim(job);
  const std::string claim = absl::StrCat("request of a load ", request.request_id);
  while (claims_.count(job_claim) > 0 || claims_.count(claim) > 0) {
    ZC_RETURN_IF_ERROR(AwaitRoundLocked(until));
  }
  ZC_RETURN_IF_ERROR(CheckUsableLocked());
  if (!request.request_id.empty()) {
    ZC_ASSIGN_OR_RETURN(const std::string name, machine_.FindLoadOf(request));
    if (!name.empty()) return ReadLoadLocked(name, until);
  }
  ZC_RETURN_IF_ERROR(CheckNotDrainingLocked());
  ZC_RETURN_IF_ERROR(machine_.CheckNewLoad(job, NumChangesLocked(&Change::new_load)));
  jobs::Load load;
  ZC_ASSIGN_OR_RETURN(load.job, machine_.GetJob(job));
  load.create_time = clock_->Now();
  load.request = request;
  if (validate_only) return ShowLocked(load, true);
  load.name = NewNameLocked("loads");
  const std::string name = load.name;
  auto change = std::make_shared<Change>();
  change->claims.push_back(job_claim);
  if (!request.request_id.empty()) change->claims.push_back(claim);
  change->writes.push_back({name, LoadToRecord(load), 0});
  change->new_load = std::move(load);
  ZC_RETURN_IF_ERROR(DoChangeLocked(change, until));
  return ReadLoadLocked(name, until);
}

absl::StatusOr<v1::Job> Core::ReadJobLocked(absl::string_view name, absl::Duration until) {
  ZC_ASSIGN_OR_RETURN(const auto job, machine_.GetJob(name));
  ZC_RETURN_IF_ERROR(AwaitDurableLocked(VersionLocked(name), until));
  return JobToProto(*job);
}

absl::StatusOr<v1::Load> Core::ReadLoadLocked(absl::string_view name, absl::Duration until) {
  ZC_ASSIGN_OR_RETURN(const jobs::Load* load, machine_.GetLoad(name));
  v1::Load shown = ShowLocked(*load, true);
  ZC_RETURN_IF_ERROR(AwaitDurableLocked(VersionLocked(name), until));
  return shown;
}

absl::StatusOr<v1::Job> Core::GetJob(absl::string_view name, absl::Duration timeout) {
  const absl::Duration until = Clock::Real()->Steady() + timeout;
  MutexLock lock(&mutex_);
  ZC_RETURN_IF_ERROR(CheckUsableLocked());
  return ReadJobLocked(name, until);
}

absl::StatusOr<v1::Load> Core::GetLoad(absl::string_view name, absl::Duration timeout) {
  const absl::Duration until = Clock::Real()->Steady() + timeout;
  MutexLock lock(&mutex_);
  ZC_RETURN_IF_ERROR(CheckUsableLocked());
  return ReadLoadLocked(name, until);
}

absl::StatusOr<std::vector<v1::Job>> Core::ListJobs(absl::string_view after, int limit, bool* more,
                                                    absl::Duration timeout) {
  const absl::Duration until = Clock::Real()->Steady() + timeout;
  MutexLock lock(&mutex_);
  ZC_RETURN_IF_ERROR(CheckUsableLocked());
  PageOf<v1::Job> page(limit);
  uint64_t version = 0;
  *more = false;
  const auto& all = machine_.jobs();
  for (auto it = all.upper_bound(after); it != all.end() && !*more; ++it) {
    *more = !page.Add(JobToProto(*it->second));
    version = std::max(version, VersionLocked(it->first));
  }
  ZC_RETURN_IF_ERROR(AwaitDurableLocked(version, until));
  return page.Take();
}

absl::StatusOr<std::vector<v1::Load>> Core::ListLoads(absl::string_view job,
                                                      absl::string_view after, int limit,
                                                      bool* more, absl::Duration timeout) {
  const absl::Duration until = Clock::Real()->Steady() + timeout;
  MutexLock lock(&mutex_);
  ZC_RETURN_IF_ERROR(CheckUsableLocked());
  PageOf<v1::Load> page(limit);
  uint64_t version = 0;
  *more = false;
  for (const jobs::Load* load : machine_.Loads()) {
    if (load->name <= after || load->plan_only) continue;
    if (!job.empty() && load->job->name != job) continue;
    version = std::max(version, VersionLocked(load->name));
    *more = !page.Add(ShowLocked(*load, false));
    if (*more) break;
  }
  ZC_RETURN_IF_ERROR(AwaitDurableLocked(version, until));
  return page.Take();
}

absl::StatusOr<v1::Job> Core::CancelJob(absl::string_view name, absl::Duration timeout) {
  const absl::Duration until = Clock::Real()->Steady() + timeout;
  MutexLock lock(&mutex_);
  // A load that is being made would start after its job's end.
  ZC_RETURN_IF_ERROR(AwaitUnclaimedLocked(std::string(name), until));
  ZC_RETURN_IF_ERROR(CheckUsableLocked());
  std::vector<jobs::Command> commands;
  ZC_RETURN_IF_ERROR(machine_.CancelJob(name, Now(), &commands));
  CarryLocked(commands);
  return ReadJobLocked(name, until);
}

absl::StatusOr<v1::Job> Core::FinishJob(absl::string_view name, absl::Duration timeout) {
  const absl::Duration until = Clock::Real()->Steady() + timeout;
  MutexLock lock(&mutex_);
  // As of a cancel.
  ZC_RETURN_IF_ERROR(AwaitUnclaimedLocked(std::string(name), until));
  ZC_RETURN_IF_ERROR(CheckUsableLocked());
  std::vector<jobs::Command> commands;
  ZC_RETURN_IF_ERROR(machine_.FinishJob(name, Now(), &commands));
  CarryLocked(commands);
  return ReadJobLocked(name, until);
}

absl::StatusOr<v1::Job> Core::RenewJobLease(absl::string_view name, absl::Duration timeout) {
  const absl::Duration until = Clock::Real()->Steady() + timeout;
  MutexLock lock(&mutex_);
  ZC_RETURN_IF_ERROR(machine_.RenewJobLease(name, Now()));
  return ReadJobLocked(name, until);
}

absl::StatusOr<v1::Load> Core::CancelLoad(absl::string_view name, absl::Duration timeout) {
  const absl::Duration until = Clock::Real()->Steady() + timeout;
  MutexLock lock(&mutex_);
  if (const auto load = machine_.GetLoad(name); load.ok()) {
    ZC_RETURN_IF_ERROR(AwaitUnclaimedLocked(std::string((*load)->job->name), until));
  }
  ZC_RETURN_IF_ERROR(CheckUsableLocked());
  std::vector<jobs::Command> commands;
  ZC_RETURN_IF_ERROR(machine_.CancelLoadByName(name, Now(), &commands));
  CarryLocked(commands);
  return ReadLoadLocked(name, until);
}

absl::Status Core::DeleteJob(absl::string_view name, absl::string_view etag,
                             absl::Duration timeout) {
  const absl::Duration until = Clock::Real()->Steady() + timeout;
  MutexLock lock(&mutex_);
  ZC_RETURN_IF_ERROR(AwaitUnclaimedLocked(std::string(name), until));
  ZC_RETURN_IF_ERROR(CheckUsableLocked());
  ZC_ASSIGN_OR_RETURN(const auto job, machine_.GetJob(name));
  if (!etag.empty()) {
    const std::string current = JobToProto(*job).etag();
    if (etag != current) {
      return WithReason(absl::AbortedError(absl::StrCat("delete ", name, ": its etag is ", current,
                                                        ", not ", etag, "; read it again")),
                        "WRONG_STATE");
    }
  }
  ZC_ASSIGN_OR_RETURN(std::vector<std::string> loads, machine_.CheckDeleteJob(name));
  return DoChangeLocked(DeletionOf(name, std::move(loads)), until);
}

std::shared_ptr<Core::Change> Core::DeletionOf(absl::string_view job,
                                               std::vector<std::string> loads) {
  auto change = std::make_shared<Change>();
  change->claims.emplace_back(job);
  change->removed_job = std::string(job);
  loads.emplace_back(job);
  for (const std::string& each : loads)
    change->writes.push_back({each, std::nullopt, std::nullopt});
  return change;
}

absl::StatusOr<v1::Load> Core::PlanLoad(jobs::Job job, absl::Duration timeout,
                                        const std::function<bool()>& cancelled) {
  // Real time, as of the caller's deadline.
  const absl::Duration until = Clock::Real()->Steady() + timeout;
  MutexLock lock(&mutex_);
  ZC_RETURN_IF_ERROR(CheckNotDrainingLocked());
  ZC_RETURN_IF_ERROR(machine_.CheckLoadLimits());
  if (num_dry_runs_ >= options_.max_dry_runs) {
    return WithReason(absl::ResourceExhaustedError(
                          absl::StrCat("this server plans at most ", options_.max_dry_runs,
                                       " dry runs at once; try again later")),
                      "RESOURCE_EXHAUSTED");
  }
  ++num_dry_runs_;
  jobs::Load load;
  load.plan_only = true;
  load.name = absl::StrCat("loads/plan-", RandomHex(8));
  load.epoch = 1;  // its name is used once
  load.caller_deadline = Now().steady + timeout;
  load.create_time = clock_->Now();
  load.job = std::make_shared<const jobs::Job>(std::move(job));
  const std::string name = load.name;
  std::vector<jobs::Command> commands;
  machine_.AddLoad(std::move(load), Now(), &commands);
  CarryLocked(commands);
  absl::StatusOr<v1::Load> result = WithReason(
      absl::DeadlineExceededError("plan: the call's deadline passed before the plan was there"),
      "DEADLINE_EXCEEDED");
  while (true) {
    const auto now = machine_.GetLoad(name);
    if (now.ok() && jobs::IsFinal((*now)->state)) {
      result = ShowLocked(**now, false);
      break;
    }
    if (cancelled()) {
      result = WithReason(absl::CancelledError("plan: the caller gave up"), "CANCELLED");
      break;
    }
    const absl::Duration left = until - Clock::Real()->Steady();
    if (left <= absl::ZeroDuration()) break;
    changed_.WaitWithTimeout(&mutex_, std::min(left, kPoll));
  }
  commands.clear();
  machine_.RemovePlanOnly(name, Now(), &commands);
  CarryLocked(commands);
  --num_dry_runs_;
  return result;
}

}  // namespace zerocast::rpc
