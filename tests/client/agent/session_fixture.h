#ifndef ZEROCAST_TESTS_CLIENT_AGENT_SESSION_FIXTURE_H_
#define ZEROCAST_TESTS_CLIENT_AGENT_SESSION_FIXTURE_H_

#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <unistd.h>

#include <chrono>
#include <deque>
#include <thread>

#include "client/agent/agent.h"
#include "client/formats/checkpoint.h"
#include "kernels/base/mutex.h"
#include "kernels/comm/deadline.h"
#include "server/base/clock.h"
#include "server/wire/plan_input.h"
#include "server/wire/status.h"
#include "tests/client/agent/attach_client.h"
#include "tests/client/agent/load_fixture.h"
#include "tests/status_matchers.h"
#include "tests/temp_dir.h"
#include "zerocast/v1/agent.grpc.pb.h"

namespace zerocast {

class FakeServer : public v1::AgentService::Service {
 public:
  explicit FakeServer(std::string address) : address_(std::move(address)) { Start(); }
  ~FakeServer() override { Stop(); }

  void Start() {
    {
      MutexLock lock(&mutex_);
      stopping_ = false;
    }
    grpc::ServerBuilder builder;
    builder.AddListeningPort(address_, grpc::InsecureServerCredentials());
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
  }
  void Stop() {
    if (server_ == nullptr) return;
    {
      MutexLock lock(&mutex_);
      stopping_ = true;
      changed_.SignalAll();
    }
    server_->Shutdown(std::chrono::system_clock::now());
    server_->Wait();
    server_.reset();
  }

  grpc::Status Session(
      grpc::ServerContext*,
      grpc::ServerReaderWriter<v1::SessionResponse, v1::SessionRequest>* stream) override {
    v1::SessionRequest request;
    if (!stream->Read(&request)) return grpc::Status::CANCELLED;
    Keep(request);
    {
      MutexLock lock(&mutex_);
      if (!refusal_.ok()) return ToGrpc(refusal_);
    }
    v1::SessionResponse registered;
    registered.mutable_registered()->mutable_heartbeat_interval()->set_nanos(20'000'000);
    stream->Write(registered);
    {
      MutexLock lock(&mutex_);
      if (ends_at_once_) return grpc::Status(grpc::StatusCode::ABORTED, "ended at once");
    }
    std::thread writer([&] {
      v1::SessionResponse response;
      while (Take(&response)) stream->Write(response);
    });
    while (stream->Read(&request)) Keep(request);
    {
      MutexLock lock(&mutex_);
      stopping_ = true;
      changed_.SignalAll();
    }
    writer.join();
    MutexLock lock(&mutex_);
    stopping_ = false;
    return grpc::Status::OK;
  }

  void Say(v1::SessionResponse response) {
    MutexLock lock(&mutex_);
    to_send_.push_back(std::move(response));
    changed_.SignalAll();
  }
  // What streams are refused with; OK: none is.
  void Refuse(absl::Status refusal) {
    MutexLock lock(&mutex_);
    refusal_ = std::move(refusal);
  }
  // Whether streams end as soon as they are registered.
  void EndAtOnce() {
    MutexLock lock(&mutex_);
    ends_at_once_ = true;
  }
  // The next message of a kind, others are skipped; a failure of the test when none comes.
  v1::SessionRequest Next(v1::SessionRequest::MessageCase kind) {
    const Deadline deadline(absl::Seconds(30));  // heartbeats come all the time
    MutexLock lock(&mutex_);
    while (!deadline.Passed()) {
      while (!received_.empty()) {
        v1::SessionRequest request = std::move(received_.front());
        received_.pop_front();
        if (request.message_case() == kind) return request;
      }
      changed_.WaitWithTimeout(&mutex_, deadline.Remaining());
    }
    ADD_FAILURE() << "no message of kind " << kind;
    return {};
  }
  // The first report that names so many ranks of one plan; it may come before or behind any other
  // message.  A failure of the test when none comes.
  v1::HeldShardsReport WaitForHeldRanks(int count) {
    const Deadline deadline(absl::Seconds(30));
    MutexLock lock(&mutex_);
    while (held_.shards_size() == 0 || held_.shards(0).ranks_size() < count) {
      if (deadline.Passed()) {
        ADD_FAILURE() << "no report of " << count << " held ranks";
        return {};
      }
      changed_.WaitWithTimeout(&mutex_, deadline.Remaining());
    }
    return held_;
  }

 private:
  void Keep(const v1::SessionRequest& request) {
    MutexLock lock(&mutex_);
    received_.push_back(request);
    if (request.has_held_shards_report()) held_ = request.held_shards_report();
    changed_.SignalAll();
  }
  bool Take(v1::SessionResponse* response) {
    MutexLock lock(&mutex_);
    while (to_send_.empty() && !stopping_) changed_.Wait(&mutex_);
    if (to_send_.empty()) return false;
    *response = std::move(to_send_.front());
    to_send_.pop_front();
    return true;
  }

  const std::string address_;
  std::unique_ptr<grpc::Server> server_;
  Mutex mutex_;
  CondVar changed_;
  bool stopping_ = false, ends_at_once_ = false;
  absl::Status refusal_;
  std::deque<v1::SessionRequest> received_;
  v1::HeldShardsReport held_;  // the last one
  std::deque<v1::SessionResponse> to_send_;
};

class SessionTest : public ::testing::Test {
 protected:
  void StartAgent() {
    AgentOptions options;
    options.server_address = address_;
    options.node_name = "node-a";
    options.socket_path = dir_.File("agent.sock");
    options.bulk_host = "127.0.0.1";
    options.unclaimed_ttl = unclaimed_ttl_;
    options.no_gpu = no_gpu_;
    options.find_devices = find_devices_;
    options.tell_devices = find_devices_ != nullptr;
    ZC_ASSERT_OK_AND_ASSIGN(agent_, Agent::Start(std::move(options)));
  }
  // Loads the checkpoint on this one node, until it is ready.
  v1::NodeReport Load(FakeServer* server, const std::string& name,
                      v1::LoadSource source = v1::LOAD_SOURCE_UNSPECIFIED) {
    PlanInput input;
    input.manifest = std::make_shared<const Manifest>(*ReadCheckpointManifest(checkpoint_.path()));
    input.model_spec_json = CheckpointSpecJson();
    input.layout = MakeLayout(1, 2);
    input.layout.device = device_;
    input.layout.placement = placement_;
    v1::SessionResponse prepare;
    v1::PreparePlan* const command = prepare.mutable_prepare_plan();
    command->set_load(name);
    command->set_epoch(3);
    command->set_checkpoint_path(checkpoint_.path());
    command->set_compressed_plan_input(CompressPlanInput(input));
    command->set_plan_digest(CompilePlanInput(input, nullptr)->digest);
    command->set_compute_digests(true);
    command->set_attach_token("secret");
    server->Say(prepare);
    plan_report_ = server->Next(v1::SessionRequest::kPlanReport).plan_report();
    EXPECT_EQ(plan_report_.plan_digest(), command->plan_digest());
    EXPECT_THAT(StatusFromFailure(plan_report_.failure()), IsOk());
    v1::SessionResponse start;
    start.mutable_start_load()->set_load(name);
    start.mutable_start_load()->set_epoch(3);
    start.mutable_start_load()->set_source(source);
    start.mutable_start_load()->set_content_key(plan_report_.content_key());
    server->Say(start);
    return server->Next(v1::SessionRequest::kNodeReport).node_report();
  }

  const TempDir dir_, checkpoint_;
  absl::Duration unclaimed_ttl_ = absl::Hours(1);
  bool no_gpu_ = false;
  DeviceFinder::Find find_devices_;
  LoadDevice device_ = LoadDevice::kCpu;  // of loads
  Placement placement_ = Placement::kDevice;
  const std::string address_ = "unix:" + dir_.File("server.sock");
  std::unique_ptr<Agent> agent_;
  v1::PlanReport plan_report_;  // of the last load
};

}  // namespace zerocast

#endif  // ZEROCAST_TESTS_CLIENT_AGENT_SESSION_FIXTURE_H_
