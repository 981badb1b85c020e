#include <spdlog/spdlog.h>
#include <sys/random.h>

#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/rpc/convert.h"
#include "server/rpc/core.h"
#include "server/rpc/records.h"

namespace zerocast::rpc {
namespace {

// How often a blocked dry run looks whether its caller is still there.
constexpr absl::Duration kPoll = absl::Milliseconds(100);

// Random bytes from the kernel, as hexadecimal digits.
std::string RandomHex(size_t num_bytes) {
  std::string bytes(num_bytes, '\0');
  for (size_t done = 0; done < num_bytes;) {
    // Fails for EINTR alone, once the kernel has started.
    const ssize_t got = ::getrandom(&bytes[done], num_bytes - done, 0);
    if (got > 0) done += static_cast<size_t>(got);
  }
  return absl::BytesToHexString(bytes);
}

template <typename T>
void Truncate(std::vector<T>* items, int limit, bool* more) {
  *more = static_cast<int>(items->size()) > limit;
  if (*more) items->resize(limit);
}

}  // namespace

// Names sort by creation: lists and page tokens follow them.  The revision makes them so, the
// random part keeps names of a server that lost its memory from coming back.
std::string Core::NewNameLocked(absl::string_view collection, int64_t revision) {
  return absl::StrFormat("%s/%012x-%s", collection, revision, RandomHex(4));
}

absl::StatusOr<Core::CreatedJob> Core::FindJobOf(const jobs::RequestKey& request) {
  MutexLock lock(&mutex_);
  ZC_RETURN_IF_ERROR(CheckUsableLocked());
  if (request.request_id.empty()) return CreatedJob();
  ZC_ASSIGN_OR_RETURN(const std::string name, machine_.FindJobOf(request));
  if (name.empty()) return CreatedJob();
  ZC_ASSIGN_OR_RETURN(const auto job, machine_.GetJob(name));
  return CreatedJob{JobToProto(*job), job->attach_token};
}

absl::StatusOr<Core::CreatedJob> Core::CreateJob(jobs::Job job, bool validate_only) {
  MutexLock lock(&mutex_);
  ZC_RETURN_IF_ERROR(CheckUsableLocked());
  if (!job.request.request_id.empty()) {
    ZC_ASSIGN_OR_RETURN(const std::string name, machine_.FindJobOf(job.request));
    if (!name.empty()) {
      ZC_ASSIGN_OR_RETURN(const auto made, machine_.GetJob(name));
      return CreatedJob{JobToProto(*made), made->attach_token};
    }
  }
  ZC_RETURN_IF_ERROR(CheckNotDrainingLocked());
  ZC_RETURN_IF_ERROR(machine_.CheckNewJob());
  job.create_time = clock_->Now();
  if (validate_only) return CreatedJob{JobToProto(job), ""};
  ZC_ASSIGN_OR_RETURN(const int64_t revision, store_->Revision());
  job.name = NewNameLocked("jobs", revision + 1);
  job.attach_token = RandomHex(16);
  ZC_RETURN_IF_ERROR(store_->Put(job.name, JobToRecord(job), 0).status());
  CreatedJob created{JobToProto(job), job.attach_token};
  std::vector<jobs::Command> commands;
  machine_.AddJob(std::move(job), &commands);
  CarryLocked(commands);
  return created;
}

absl::StatusOr<v1::Load> Core::CreateLoad(absl::string_view job, const jobs::RequestKey& request,
                                          bool validate_only) {
  MutexLock lock(&mutex_);
  ZC_RETURN_IF_ERROR(CheckUsableLocked());
  if (!request.request_id.empty()) {
    ZC_ASSIGN_OR_RETURN(const std::string name, machine_.FindLoadOf(request));
    if (!name.empty()) {
      ZC_ASSIGN_OR_RETURN(const jobs::Load* made, machine_.GetLoad(name));
      return ShowLocked(*made, true);
    }
  }
  ZC_RETURN_IF_ERROR(CheckNotDrainingLocked());
  ZC_RETURN_IF_ERROR(machine_.CheckNewLoad(job));
  jobs::Load load;
  ZC_ASSIGN_OR_RETURN(load.job, machine_.GetJob(job));
  load.create_time = clock_->Now();
  load.request = request;
  if (validate_only) return ShowLocked(load, true);
  ZC_ASSIGN_OR_RETURN(const int64_t revision, store_->Revision());
  load.name = NewNameLocked("loads", revision + 1);
  ZC_ASSIGN_OR_RETURN(load.epoch, store_->Put(load.name, LoadToRecord(load), 0));
  const std::string name = load.name;
  spdlog::info("{} of {} is created: {}, {} ranks on {} nodes", name, load.job->name,
               load.job->checkpoint_path, load.job->layout.world_size, load.job->layout.num_nodes);
  std::vector<jobs::Command> commands;
  machine_.AddLoad(std::move(load), Now(), &commands);
  CarryLocked(commands);
  ZC_ASSIGN_OR_RETURN(const jobs::Load* made, machine_.GetLoad(name));
  return ShowLocked(*made, true);
}

absl::StatusOr<v1::Job> Core::GetJob(absl::string_view name) {
  MutexLock lock(&mutex_);
  ZC_RETURN_IF_ERROR(CheckUsableLocked());
  ZC_ASSIGN_OR_RETURN(const auto job, machine_.GetJob(name));
  return JobToProto(*job);
}

absl::StatusOr<v1::Load> Core::GetLoad(absl::string_view name) {
  MutexLock lock(&mutex_);
  ZC_RETURN_IF_ERROR(CheckUsableLocked());
  ZC_ASSIGN_OR_RETURN(const jobs::Load* load, machine_.GetLoad(name));
  return ShowLocked(*load, true);
}

absl::StatusOr<std::vector<v1::Job>> Core::ListJobs(absl::string_view after, int limit,
                                                    bool* more) {
  MutexLock lock(&mutex_);
  ZC_RETURN_IF_ERROR(CheckUsableLocked());
  std::vector<v1::Job> page;
  const auto& all = machine_.jobs();
  for (auto it = all.upper_bound(after); it != all.end() && static_cast<int>(page.size()) <= limit;
       ++it) {
    page.push_back(JobToProto(*it->second));
  }
  Truncate(&page, limit, more);
  return page;
}

absl::StatusOr<std::vector<v1::Load>> Core::ListLoads(absl::string_view job,
                                                      absl::string_view after, int limit,
                                                      bool* more) {
  MutexLock lock(&mutex_);
  ZC_RETURN_IF_ERROR(CheckUsableLocked());
  std::vector<v1::Load> page;
  for (const jobs::Load* load : machine_.Loads()) {
    if (load->name <= after || load->plan_only) continue;
    if (!job.empty() && load->job->name != job) continue;
    page.push_back(ShowLocked(*load, false));
    if (static_cast<int>(page.size()) > limit) break;
  }
  Truncate(&page, limit, more);
  return page;
}

absl::StatusOr<v1::Job> Core::CancelJob(absl::string_view name) {
  MutexLock lock(&mutex_);
  ZC_RETURN_IF_ERROR(CheckUsableLocked());
  std::vector<jobs::Command> commands;
  ZC_RETURN_IF_ERROR(machine_.CancelJob(name, Now(), &commands));
  CarryLocked(commands);
  ZC_RETURN_IF_ERROR(CheckUsableLocked());
  ZC_ASSIGN_OR_RETURN(const auto job, machine_.GetJob(name));
  return JobToProto(*job);
}

absl::StatusOr<v1::Load> Core::CancelLoad(absl::string_view name) {
  MutexLock lock(&mutex_);
  ZC_RETURN_IF_ERROR(CheckUsableLocked());
  std::vector<jobs::Command> commands;
  ZC_RETURN_IF_ERROR(machine_.CancelLoadByName(name, Now(), &commands));
  CarryLocked(commands);
  ZC_RETURN_IF_ERROR(CheckUsableLocked());
  ZC_ASSIGN_OR_RETURN(const jobs::Load* load, machine_.GetLoad(name));
  return ShowLocked(*load, true);
}

absl::Status Core::DeleteJob(absl::string_view name, absl::string_view etag) {
  MutexLock lock(&mutex_);
  ZC_RETURN_IF_ERROR(CheckUsableLocked());
  ZC_ASSIGN_OR_RETURN(const auto job, machine_.GetJob(name));
  const std::string current = JobToProto(*job).etag();
  if (!etag.empty() && etag != current) {
    return WithReason(absl::AbortedError(absl::StrCat("delete ", name, ": its etag is ", current,
                                                      ", not ", etag, "; read it again")),
                      "WRONG_STATE");
  }
  ZC_ASSIGN_OR_RETURN(const std::vector<std::string> loads, machine_.CheckDeleteJob(name));
  std::vector<StoreWrite> writes = {{std::string(name), std::nullopt, std::nullopt}};
  for (const std::string& load : loads) writes.push_back({load, std::nullopt, std::nullopt});
  ZC_RETURN_IF_ERROR(store_->Commit(writes).status());
  machine_.RemoveJob(name);
  return absl::OkStatus();
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
