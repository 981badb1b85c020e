#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/rpc/convert.h"
#include "server/rpc/job_spec.h"
#include "server/rpc/services.h"
#include "server/rpc/watch.h"

namespace zerocast::rpc {
namespace {

constexpr absl::Duration kLeastLease = absl::Seconds(1), kLongestLease = absl::Hours(24);

absl::StatusOr<Core::CreatedJob> Create(Core* core, const v1::CreateJobRequest& request,
                                        absl::Duration left) {
  jobs::RequestKey key;
  const std::string problem = RequestIdProblem(request.request_id());
  if (problem.empty() && !request.request_id().empty() && !request.validate_only()) {
    v1::CreateJobRequest body = request;
    body.clear_request_id();
    key = {request.request_id(), Hash128(body.SerializeAsString())};
    // Before the work of resolving; asked again under the lock that makes the job.
    ZC_ASSIGN_OR_RETURN(Core::CreatedJob made, core->FindJobOf(key, left));
    if (!made.job.name().empty()) return made;
  }
  absl::StatusOr<jobs::Job> job = JobFromSpec(request.spec());
  std::vector<FieldViolation> violations;
  if (!problem.empty()) violations.push_back({"request_id", problem});
  const absl::Duration lease = DurationFromProto(request.lease());
  if (request.has_lease() && (lease < kLeastLease || lease > kLongestLease)) {
    violations.push_back(
        {"lease", absl::StrCat("must be 1s to 24h, was ", absl::FormatDuration(lease))});
  }
  if (!violations.empty()) {
    const std::vector<FieldViolation> of_spec = ViolationsOf(job.status());
    violations.insert(violations.end(), of_spec.begin(), of_spec.end());
    return InvalidFields(violations);
  }
  ZC_RETURN_IF_ERROR(job.status());
  job->request = std::move(key);
  job->lease = lease;
  return core->CreateJob(*std::move(job), request.validate_only(), left);
}

}  // namespace

grpc::Status JobServiceImpl::CreateJob(grpc::ServerContext* context,
                                       const v1::CreateJobRequest* request,
                                       v1::CreateJobResponse* response) {
  return RunUnary(env_, "JobService/CreateJob", context, [&](absl::Duration left) -> absl::Status {
    ZC_ASSIGN_OR_RETURN(Core::CreatedJob created, Create(env_.core, *request, left));
    *response->mutable_job() = std::move(created.job);
    response->set_attach_token(std::move(created.attach_token));
    return absl::OkStatus();
  });
}

grpc::Status JobServiceImpl::GetJob(grpc::ServerContext* context, const v1::GetJobRequest* request,
                                    v1::GetJobResponse* response) {
  return RunUnary(env_, "JobService/GetJob", context, [&](absl::Duration left) -> absl::Status {
    ZC_ASSIGN_OR_RETURN(*response->mutable_job(), env_.core->GetJob(request->name(), left));
    return absl::OkStatus();
  });
}

grpc::Status JobServiceImpl::ListJobs(grpc::ServerContext* context,
                                      const v1::ListJobsRequest* request,
                                      v1::ListJobsResponse* response) {
  return RunUnary(env_, "JobService/ListJobs", context, [&](absl::Duration left) -> absl::Status {
    ZC_ASSIGN_OR_RETURN(const Page page,
                        ReadPage(request->page_size(), request->page_token(), "jobs"));
    bool more = false;
    ZC_ASSIGN_OR_RETURN(auto jobs, env_.core->ListJobs(page.after, page.limit, &more, left));
    if (more) response->set_next_page_token(PageToken(jobs.back().name(), "jobs"));
    for (v1::Job& job : jobs) *response->add_jobs() = std::move(job);
    return absl::OkStatus();
  });
}

grpc::ServerWriteReactor<v1::WatchJobResponse>* JobServiceImpl::WatchJob(
    grpc::CallbackServerContext*, const v1::WatchJobRequest* request) {
  return WatchReactor<v1::Job, v1::WatchJobResponse>::Start(
      env_.core,
      [](const v1::Job& job, v1::WatchJobResponse* response) { *response->mutable_job() = job; },
      [&](std::shared_ptr<JobSink> sink) {
        return env_.core->WatchJob(request->name(), std::move(sink));
      });
}

grpc::Status JobServiceImpl::FinishJob(grpc::ServerContext* context,
                                       const v1::FinishJobRequest* request,
                                       v1::FinishJobResponse* response) {
  return RunUnary(env_, "JobService/FinishJob", context, [&](absl::Duration left) -> absl::Status {
    ZC_ASSIGN_OR_RETURN(*response->mutable_job(), env_.core->FinishJob(request->name(), left));
    return absl::OkStatus();
  });
}

grpc::Status JobServiceImpl::RenewJobLease(grpc::ServerContext* context,
                                           const v1::RenewJobLeaseRequest* request,
                                           v1::RenewJobLeaseResponse* response) {
  return RunUnary(env_, "JobService/RenewJobLease", context,
                  [&](absl::Duration left) -> absl::Status {
                    ZC_ASSIGN_OR_RETURN(*response->mutable_job(),
                                        env_.core->RenewJobLease(request->name(), left));
                    return absl::OkStatus();
                  });
}

grpc::Status JobServiceImpl::CancelJob(grpc::ServerContext* context,
                                       const v1::CancelJobRequest* request,
                                       v1::CancelJobResponse* response) {
  return RunUnary(env_, "JobService/CancelJob", context, [&](absl::Duration left) -> absl::Status {
    ZC_ASSIGN_OR_RETURN(*response->mutable_job(), env_.core->CancelJob(request->name(), left));
    return absl::OkStatus();
  });
}

grpc::Status JobServiceImpl::DeleteJob(grpc::ServerContext* context,
                                       const v1::DeleteJobRequest* request,
                                       v1::DeleteJobResponse*) {
  return RunUnary(env_, "JobService/DeleteJob", context, [&](absl::Duration left) {
    return env_.core->DeleteJob(request->name(), request->etag(), left);
  });
}

}  // namespace zerocast::rpc
