// AgentService and ServerInfoService.
#include <utility>

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
