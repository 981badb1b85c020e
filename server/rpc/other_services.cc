// AgentService, CheckpointService and ServerInfoService.
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/config/resolve.h"
#include "server/rpc/convert.h"
#include "server/rpc/server.h"
#include "server/rpc/services.h"
#include "server/rpc/session.h"

namespace zerocast::rpc {

grpc::ServerBidiReactor<v1::SessionRequest, v1::SessionResponse>* AgentServiceImpl::Session(
    grpc::CallbackServerContext* context) {
  return AgentSession::Start(env_.core, context);
}

grpc::Status AgentServiceImpl::ListAgents(grpc::ServerContext* context,
                                          const v1::ListAgentsRequest*,
                                          v1::ListAgentsResponse* response) {
  return RunUnary(env_, "AgentService/ListAgents", context, [&](absl::Duration) {
    for (v1::AgentInfo& agent : env_.core->ListAgents()) {
      *response->add_agents() = std::move(agent);
    }
    return absl::OkStatus();
  });
}

grpc::Status CheckpointServiceImpl::Refuse(grpc::ServerContext* context, absl::string_view method) {
  return RunUnary(env_, absl::StrCat("CheckpointService/", method), context, [&](absl::Duration) {
    return WithReason(absl::UnimplementedError(absl::StrCat(
                          method,
                          ": this server keeps no registry of checkpoints; name the folder in "
                          "JobSpec.checkpoint_path, and use the zerocast checkpoint commands on "
                          "DeepSpeed folders")),
                      "UNSUPPORTED");
  });
}

grpc::Status CheckpointServiceImpl::RegisterCheckpoint(grpc::ServerContext* context,
                                                       const v1::RegisterCheckpointRequest*,
                                                       v1::RegisterCheckpointResponse*) {
  return Refuse(context, "RegisterCheckpoint");
}
grpc::Status CheckpointServiceImpl::GetCheckpoint(grpc::ServerContext* context,
                                                  const v1::GetCheckpointRequest*,
                                                  v1::GetCheckpointResponse*) {
  return Refuse(context, "GetCheckpoint");
}
grpc::Status CheckpointServiceImpl::ListCheckpoints(grpc::ServerContext* context,
                                                    const v1::ListCheckpointsRequest*,
                                                    v1::ListCheckpointsResponse*) {
  return Refuse(context, "ListCheckpoints");
}
grpc::Status CheckpointServiceImpl::PinCheckpoint(grpc::ServerContext* context,
                                                  const v1::PinCheckpointRequest*,
                                                  v1::PinCheckpointResponse*) {
  return Refuse(context, "PinCheckpoint");
}
grpc::Status CheckpointServiceImpl::UnpinCheckpoint(grpc::ServerContext* context,
                                                    const v1::UnpinCheckpointRequest*,
                                                    v1::UnpinCheckpointResponse*) {
  return Refuse(context, "UnpinCheckpoint");
}
grpc::Status CheckpointServiceImpl::PruneCheckpoints(grpc::ServerContext* context,
                                                     const v1::PruneCheckpointsRequest*,
                                                     v1::PruneCheckpointsResponse*) {
  return Refuse(context, "PruneCheckpoints");
}

grpc::Status ServerInfoServiceImpl::GetServerInfo(grpc::ServerContext* context,
                                                  const v1::GetServerInfoRequest*,
                                                  v1::GetServerInfoResponse* response) {
  return RunUnary(env_, "ServerInfoService/GetServerInfo", context, [&](absl::Duration) {
    response->set_version(Server::Version());
    response->set_store(std::string(env_.core->store_kind()));
    *response->mutable_uptime() = DurationToProto(env_.clock->Steady() - env_.started);
    for (absl::string_view dialect : kConfigDialects) response->add_dialects(std::string(dialect));
    response->set_num_agents(static_cast<int32_t>(env_.core->Counts().agents));
    response->set_max_request_bytes(env_.max_request_bytes);
    return absl::OkStatus();
  });
}

}  // namespace zerocast::rpc
