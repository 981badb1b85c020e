#ifndef ZEROCAST_TESTS_SERVER_RPC_SERVER_FIXTURE_H_
#define ZEROCAST_TESTS_SERVER_RPC_SERVER_FIXTURE_H_

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <memory>
#include <string>
#include <utility>

#include "server/base/errors.h"
#include "server/rpc/server.h"
#include "server/wire/status.h"
#include "tests/server/rpc/fake_agent.h"
#include "tests/status_matchers.h"
#include "zerocast/v1/checkpoint.grpc.pb.h"
#include "zerocast/v1/config.grpc.pb.h"
#include "zerocast/v1/job.grpc.pb.h"
#include "zerocast/v1/load.grpc.pb.h"
#include "zerocast/v1/server_info.grpc.pb.h"

namespace zerocast {

// A real server on a free port of the loopback, and stubs of its services.
class ServerTest : public ::testing::Test {
 protected:
  void SetUp() override { StartServer({}); }

  void StartServer(Server::Options options) {
    options.drain_timeout = absl::Milliseconds(200);
    auto server = Server::Start(std::move(options));
    ASSERT_THAT(server, IsOk());
    server_ = *std::move(server);
    channel_ = grpc::CreateChannel(server_->address(), grpc::InsecureChannelCredentials());
    jobs_ = v1::JobService::NewStub(channel_);
    loads_ = v1::LoadService::NewStub(channel_);
    agents_ = v1::AgentService::NewStub(channel_);
    configs_ = v1::ConfigService::NewStub(channel_);
    checkpoints_ = v1::CheckpointService::NewStub(channel_);
    info_ = v1::ServerInfoService::NewStub(channel_);
  }

  // Calls `method` of `stub` with a deadline.  An error without an ErrorInfo fails the test.
  template <typename Stub, typename Request, typename Response>
  static absl::StatusOr<Response> Call(const std::unique_ptr<Stub>& stub,
                                       grpc::Status (Stub::*method)(grpc::ClientContext*,
                                                                    const Request&, Response*),
                                       const Request& request,
                                       absl::Duration timeout = absl::Seconds(20)) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + absl::ToChronoMilliseconds(timeout));
    Response response;
    const absl::Status status = FromGrpc(((*stub).*method)(&context, request, &response));
    if (status.ok()) return response;
    EXPECT_NE(ReasonOf(status), "") << status;
    return status;
  }

  static v1::JobSpec TwoNodeSpec() {
    v1::JobSpec spec;
    spec.set_checkpoint_path("/data/ckpt");
    spec.mutable_topology()->set_world_size(4);
    spec.mutable_topology()->add_nodes("a");
    spec.mutable_topology()->add_nodes("b");
    spec.mutable_options()->mutable_stage_timeout()->set_seconds(10);
    return spec;
  }
  v1::CreateJobResponse CreateJob(const v1::JobSpec& spec, const std::string& request_id = "") {
    v1::CreateJobRequest request;
    *request.mutable_spec() = spec;
    request.set_request_id(request_id);
    const auto response = Call(jobs_, &v1::JobService::Stub::CreateJob, request);
    EXPECT_THAT(response, IsOk());
    return response.ok() ? *response : v1::CreateJobResponse();
  }
  v1::Load CreateLoad(const std::string& job) {
    v1::CreateLoadRequest request;
    request.set_job(job);
    const auto response = Call(loads_, &v1::LoadService::Stub::CreateLoad, request);
    EXPECT_THAT(response, IsOk());
    return response.ok() ? response->load() : v1::Load();
  }
  // The last state that Watch shows, with how many it showed.
  v1::Load WatchToEnd(const std::string& name, int* num_states = nullptr) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    v1::WatchLoadRequest request;
    request.set_name(name);
    const auto reader = loads_->WatchLoad(&context, request);
    v1::WatchLoadResponse response, last;
    while (reader->Read(&response)) {
      last = response;
      if (num_states != nullptr) ++*num_states;
    }
    EXPECT_THAT(FromGrpc(reader->Finish()), IsOk());
    return last.load();
  }

  std::unique_ptr<Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::JobService::Stub> jobs_;
  std::unique_ptr<v1::LoadService::Stub> loads_;
  std::unique_ptr<v1::AgentService::Stub> agents_;
  std::unique_ptr<v1::ConfigService::Stub> configs_;
  std::unique_ptr<v1::CheckpointService::Stub> checkpoints_;
  std::unique_ptr<v1::ServerInfoService::Stub> info_;
};

}  // namespace zerocast

#endif  // ZEROCAST_TESTS_SERVER_RPC_SERVER_FIXTURE_H_
