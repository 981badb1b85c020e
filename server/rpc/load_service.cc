#include <utility>

#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/rpc/convert.h"
#include "server/rpc/job_spec.h"
#include "server/rpc/services.h"
#include "server/rpc/watch.h"
#include "server/wire/status.h"

namespace zerocast::rpc {

grpc::Status LoadServiceImpl::CreateLoad(grpc::ServerContext* context,
                                         const v1::CreateLoadRequest* request,
                                         v1::CreateLoadResponse* response) {
  return RunUnary(env_, "LoadService/CreateLoad", context,
                  [&](absl::Duration left) -> absl::Status {
                    const std::string problem = RequestIdProblem(request->request_id());
                    if (!problem.empty()) return InvalidFields({{"request_id", problem}});
                    jobs::RequestKey key;
                    if (!request->request_id().empty() && !request->validate_only()) {
                      key = {request->request_id(), Hash128(request->job())};
                    }
                    ZC_ASSIGN_OR_RETURN(
                        *response->mutable_load(),
                        env_.core->CreateLoad(request->job(), key, request->validate_only(), left));
                    return absl::OkStatus();
                  });
}

grpc::Status LoadServiceImpl::GetLoad(grpc::ServerContext* context,
                                      const v1::GetLoadRequest* request,
                                      v1::GetLoadResponse* response) {
  return RunUnary(env_, "LoadService/GetLoad", context, [&](absl::Duration left) -> absl::Status {
    ZC_ASSIGN_OR_RETURN(*response->mutable_load(), env_.core->GetLoad(request->name(), left));
    return absl::OkStatus();
  });
}

grpc::Status LoadServiceImpl::ListLoads(grpc::ServerContext* context,
                                        const v1::ListLoadsRequest* request,
                                        v1::ListLoadsResponse* response) {
  return RunUnary(env_, "LoadService/ListLoads", context, [&](absl::Duration left) -> absl::Status {
    const std::string filter = "loads " + request->job();
    ZC_ASSIGN_OR_RETURN(const Page page,
                        ReadPage(request->page_size(), request->page_token(), filter));
    bool more = false;
    ZC_ASSIGN_OR_RETURN(auto loads,
                        env_.core->ListLoads(request->job(), page.after, page.limit, &more, left));
    if (more) response->set_next_page_token(PageToken(loads.back().name(), filter));
    for (v1::Load& load : loads) *response->add_loads() = std::move(load);
    return absl::OkStatus();
  });
}

grpc::ServerWriteReactor<v1::WatchLoadResponse>* LoadServiceImpl::WatchLoad(
    grpc::CallbackServerContext*, const v1::WatchLoadRequest* request) {
  return WatchReactor<v1::Load, v1::WatchLoadResponse>::Start(
      env_.core,
      [](const v1::Load& load, v1::WatchLoadResponse* response) {
        *response->mutable_load() = load;
      },
      [&](std::shared_ptr<LoadSink> sink) {
        return env_.core->WatchLoad(request->name(), std::move(sink));
      });
}

grpc::Status LoadServiceImpl::CancelLoad(grpc::ServerContext* context,
                                         const v1::CancelLoadRequest* request,
                                         v1::CancelLoadResponse* response) {
  return RunUnary(env_, "LoadService/CancelLoad", context,
                  [&](absl::Duration left) -> absl::Status {
                    ZC_ASSIGN_OR_RETURN(*response->mutable_load(),
                                        env_.core->CancelLoad(request->name(), left));
                    return absl::OkStatus();
                  });
}

grpc::Status LoadServiceImpl::PlanLoad(grpc::ServerContext* context,
                                       const v1::PlanLoadRequest* request,
                                       v1::PlanLoadResponse* response) {
  return RunUnary(env_, "LoadService/PlanLoad", context, [&](absl::Duration left) -> absl::Status {
    ZC_ASSIGN_OR_RETURN(jobs::Job job, JobFromSpec(request->spec()));
    ZC_ASSIGN_OR_RETURN(v1::Load load, env_.core->PlanLoad(std::move(job), left, [context] {
      return context->IsCancelled();
    }));
    // A plan that the report refuses is an answer; anything else that went wrong is an error.
    absl::Status failure = StatusFromFailure(load.failure());
    if (!failure.ok() && !load.has_report()) return failure;
    if (!failure.ok() && ReasonOf(failure) != "WEIGHTS_INCOMPLETE") return failure;
    if (!failure.ok()) *response->mutable_failure() = std::move(*load.mutable_failure());
    if (load.has_plan()) *response->mutable_plan() = std::move(*load.mutable_plan());
    *response->mutable_report() = std::move(*load.mutable_report());
    return absl::OkStatus();
  });
}

}  // namespace zerocast::rpc
