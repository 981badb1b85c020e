#ifndef ZEROCAST_SERVER_RPC_SERVICES_H_
#define ZEROCAST_SERVER_RPC_SERVICES_H_

#include "server/config/value.h"
#include "server/rpc/call.h"
#include "server/rpc/checkpoint_registry.h"
#include "server/rpc/config_leases.h"
#include "zerocast/v1/agent.grpc.pb.h"
#include "zerocast/v1/checkpoint.grpc.pb.h"
#include "zerocast/v1/config.grpc.pb.h"
#include "zerocast/v1/job.grpc.pb.h"
#include "zerocast/v1/load.grpc.pb.h"
#include "zerocast/v1/server_info.grpc.pb.h"

namespace zerocast::rpc {

// The handlers: proto <-> Core.  Unary calls block a thread of the server's pool; Watch and Session
// hold none.

class ConfigServiceImpl final : public v1::ConfigService::Service {
 public:
  // `leases` outlives the service.
  ConfigServiceImpl(const Env& env, ConfigLeases* leases) : env_(env), leases_(leases) {}
  grpc::Status ResolveConfig(grpc::ServerContext* context, const v1::ResolveConfigRequest* request,
                             v1::ResolveConfigResponse* response) override;
  grpc::Status BatchResolveConfigs(grpc::ServerContext* context,
                                   const v1::BatchResolveConfigsRequest* request,
                                   v1::BatchResolveConfigsResponse* response) override;
  grpc::Status LintConfig(grpc::ServerContext* context, const v1::LintConfigRequest* request,
                          v1::LintConfigResponse* response) override;
  grpc::Status DiffConfigs(grpc::ServerContext* context, const v1::DiffConfigsRequest* request,
                           v1::DiffConfigsResponse* response) override;
  grpc::Status QueryConfig(grpc::ServerContext* context, const v1::QueryConfigRequest* request,
                           v1::QueryConfigResponse* response) override;
  grpc::Status AcquireConfigLease(grpc::ServerContext* context,
                                  const v1::AcquireConfigLeaseRequest* request,
                                  v1::AcquireConfigLeaseResponse* response) override;
  grpc::Status RenewConfigLease(grpc::ServerContext* context,
                                const v1::RenewConfigLeaseRequest* request,
                                v1::RenewConfigLeaseResponse* response) override;
  grpc::Status ReleaseConfigLease(grpc::ServerContext* context,
                                  const v1::ReleaseConfigLeaseRequest* request,
                                  v1::ReleaseConfigLeaseResponse* response) override;

 private:
  struct JobConfig {
    KeptConfig config;
    bool deleted = false;  // a lease keeps it
  };
  // The config of a job, or what a lease keeps of a deleted one.  Errors: NOT_FOUND.
  absl::StatusOr<JobConfig> FindConfig(const std::string& job);
  absl::StatusOr<ConfigValue> ReadRef(const v1::ConfigRef& ref, absl::string_view field);

  const Env env_;
  ConfigLeases* const leases_;
};

class JobServiceImpl final
    : public v1::JobService::WithCallbackMethod_WatchJob<v1::JobService::Service> {
 public:
  explicit JobServiceImpl(const Env& env) : env_(env) {}
  grpc::Status CreateJob(grpc::ServerContext* context, const v1::CreateJobRequest* request,
                         v1::CreateJobResponse* response) override;
  grpc::Status GetJob(grpc::ServerContext* context, const v1::GetJobRequest* request,
                      v1::GetJobResponse* response) override;
  grpc::Status ListJobs(grpc::ServerContext* context, const v1::ListJobsRequest* request,
                        v1::ListJobsResponse* response) override;
  grpc::ServerWriteReactor<v1::WatchJobResponse>* WatchJob(
      grpc::CallbackServerContext* context, const v1::WatchJobRequest* request) override;
  grpc::Status FinishJob(grpc::ServerContext* context, const v1::FinishJobRequest* request,
                         v1::FinishJobResponse* response) override;
  grpc::Status RenewJobLease(grpc::ServerContext* context, const v1::RenewJobLeaseRequest* request,
                             v1::RenewJobLeaseResponse* response) override;
  grpc::Status CancelJob(grpc::ServerContext* context, const v1::CancelJobRequest* request,
                         v1::CancelJobResponse* response) override;
  grpc::Status DeleteJob(grpc::ServerContext* context, const v1::DeleteJobRequest* request,
                         v1::DeleteJobResponse* response) override;

 private:
  const Env env_;
};

class LoadServiceImpl final
    : public v1::LoadService::WithCallbackMethod_WatchLoad<v1::LoadService::Service> {
 public:
  explicit LoadServiceImpl(const Env& env) : env_(env) {}
  grpc::Status CreateLoad(grpc::ServerContext* context, const v1::CreateLoadRequest* request,
                          v1::CreateLoadResponse* response) override;
  grpc::Status GetLoad(grpc::ServerContext* context, const v1::GetLoadRequest* request,
                       v1::GetLoadResponse* response) override;
  grpc::Status ListLoads(grpc::ServerContext* context, const v1::ListLoadsRequest* request,
                         v1::ListLoadsResponse* response) override;
  grpc::ServerWriteReactor<v1::WatchLoadResponse>* WatchLoad(
      grpc::CallbackServerContext* context, const v1::WatchLoadRequest* request) override;
  grpc::Status CancelLoad(grpc::ServerContext* context, const v1::CancelLoadRequest* request,
                          v1::CancelLoadResponse* response) override;
  grpc::Status PlanLoad(grpc::ServerContext* context, const v1::PlanLoadRequest* request,
                        v1::PlanLoadResponse* response) override;

 private:
  const Env env_;
};

class AgentServiceImpl final
    : public v1::AgentService::WithCallbackMethod_Session<v1::AgentService::Service> {
 public:
  explicit AgentServiceImpl(const Env& env) : env_(env) {}
  grpc::ServerBidiReactor<v1::SessionRequest, v1::SessionResponse>* Session(
      grpc::CallbackServerContext* context) override;
  grpc::Status ListAgents(grpc::ServerContext* context, const v1::ListAgentsRequest* request,
                          v1::ListAgentsResponse* response) override;

 private:
  const Env env_;
};

class CheckpointServiceImpl final : public v1::CheckpointService::Service {
 public:
  // `registry` outlives the service.
  CheckpointServiceImpl(const Env& env, CheckpointRegistry* registry)
      : env_(env), registry_(registry) {}
  grpc::Status RegisterCheckpoint(grpc::ServerContext* context,
                                  const v1::RegisterCheckpointRequest* request,
                                  v1::RegisterCheckpointResponse* response) override;
  grpc::Status GetCheckpoint(grpc::ServerContext* context, const v1::GetCheckpointRequest* request,
                             v1::GetCheckpointResponse* response) override;
  grpc::Status ListCheckpoints(grpc::ServerContext* context,
                               const v1::ListCheckpointsRequest* request,
                               v1::ListCheckpointsResponse* response) override;
  grpc::Status PinCheckpoint(grpc::ServerContext* context, const v1::PinCheckpointRequest* request,
                             v1::PinCheckpointResponse* response) override;
  grpc::Status UnpinCheckpoint(grpc::ServerContext* context,
                               const v1::UnpinCheckpointRequest* request,
                               v1::UnpinCheckpointResponse* response) override;
  grpc::Status FindLatestCheckpoint(grpc::ServerContext* context,
                                    const v1::FindLatestCheckpointRequest* request,
                                    v1::FindLatestCheckpointResponse* response) override;
  grpc::Status PruneCheckpoints(grpc::ServerContext* context,
                                const v1::PruneCheckpointsRequest* request,
                                v1::PruneCheckpointsResponse* response) override;
  grpc::Status DeleteCheckpoint(grpc::ServerContext* context,
                                const v1::DeleteCheckpointRequest* request,
                                v1::DeleteCheckpointResponse* response) override;

 private:
  const Env env_;
  CheckpointRegistry* const registry_;
};

class ServerInfoServiceImpl final : public v1::ServerInfoService::Service {
 public:
  explicit ServerInfoServiceImpl(const Env& env) : env_(env) {}
  grpc::Status GetServerInfo(grpc::ServerContext* context, const v1::GetServerInfoRequest* request,
                             v1::GetServerInfoResponse* response) override;

 private:
  const Env env_;
};

}  // namespace zerocast::rpc

#endif  // ZEROCAST_SERVER_RPC_SERVICES_H_
