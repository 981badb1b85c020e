// The agent's stream, against a server that says what the test wants.

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
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

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
  const std::string address_ = "unix:" + dir_.File("server.sock");
  std::unique_ptr<Agent> agent_;
  v1::PlanReport plan_report_;  // of the last load
};

TEST_F(SessionTest, RegistersAndSendsHeartbeats) {
  FakeServer server(address_);
  StartAgent();
  const v1::Register message = server.Next(v1::SessionRequest::kRegister).register_();
  EXPECT_EQ(message.node_name(), "node-a");
  EXPECT_EQ(message.socket_path(), dir_.File("agent.sock"));
  EXPECT_EQ(message.bulk_host(), "127.0.0.1");
  EXPECT_EQ(message.max_buffer_bytes(), AgentOptions().max_buffer_bytes);
  EXPECT_GE(message.num_threads(), 1);
  EXPECT_NE(message.incarnation(), 0u);
  EXPECT_THAT(message.held_loads(), IsEmpty());
  EXPECT_THAT(agent_->WaitUntilRegistered(absl::Seconds(20)), IsOk());
  server.Next(v1::SessionRequest::kHeartbeat);
  server.Next(v1::SessionRequest::kHeartbeat);
}

TEST_F(SessionTest, SaysWhyItIsNotRegistered) {
  StartAgent();
  EXPECT_THAT(agent_->WaitUntilRegistered(absl::Milliseconds(300)),
              StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr(address_)));
  EXPECT_FALSE(agent_->registered());
}

TEST_F(SessionTest, AnswersInspection) {
  WriteCheckpoint(checkpoint_.path(), TestSeed());
  FakeServer server(address_);
  StartAgent();
  v1::SessionResponse inspect;
  inspect.mutable_inspect_checkpoint()->set_load("loads/a");
  inspect.mutable_inspect_checkpoint()->set_epoch(3);
  inspect.mutable_inspect_checkpoint()->set_checkpoint_path(checkpoint_.path());
  server.Say(inspect);
  const v1::ManifestReport report =
      server.Next(v1::SessionRequest::kManifestReport).manifest_report();
  EXPECT_EQ(report.load(), "loads/a");
  EXPECT_EQ(report.epoch(), 3);
  EXPECT_THAT(DecompressManifest(report.compressed_manifest()), IsOk());

  inspect.mutable_inspect_checkpoint()->set_checkpoint_path(checkpoint_.File("none"));
  server.Say(inspect);
  const v1::ManifestReport failed =
      server.Next(v1::SessionRequest::kManifestReport).manifest_report();
  EXPECT_THAT(StatusFromFailure(failed.failure()),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("none")));
  EXPECT_EQ(failed.failure().reason(), "CHECKPOINT_NOT_FOUND");
}

TEST_F(SessionTest, RunsALoadAndReportsIt) {
  WriteCheckpoint(checkpoint_.path(), TestSeed());
  FakeServer server(address_);
  StartAgent();
  const v1::NodeReport report = Load(&server, "loads/a");
  EXPECT_THAT(StatusFromFailure(report.failure()), IsOk());
  ASSERT_EQ(report.shards_size(), 2);
  EXPECT_EQ(report.shards(1).rank(), 1);
  EXPECT_EQ(report.shards(0).agent_socket(), dir_.File("agent.sock"));
  const auto plan = MakePlan(checkpoint_.path(), MakeLayout(1, 2));
  const auto expected = ExpectedDigests(*plan, checkpoint_.path());
  ASSERT_EQ(report.shards(1).digests_size(), static_cast<int>(plan->targets.size()));
  for (int t = 0; t < report.shards(1).digests_size(); ++t) {
    EXPECT_EQ(report.shards(1).digests(t).target(), plan->targets[t].name);
    EXPECT_EQ(report.shards(1).digests(t).xxh3(), expected[1][t]);
  }
  EXPECT_EQ(agent_->stats().loads_ready, 1);
  EXPECT_EQ(agent_->stats().bytes_read, report.progress().bytes_read());
}

TEST_F(SessionTest, NamesTheShardsThatItHoldsAndTakesThemForAnotherLoad) {
  WriteCheckpoint(checkpoint_.path(), TestSeed());
  FakeServer server(address_);
  StartAgent();
  EXPECT_EQ(Load(&server, "loads/a").progress().source(), v1::LOAD_SOURCE_FILES);
  EXPECT_EQ(plan_report_.content_key().size(), 32);
  EXPECT_EQ(plan_report_.held_shards_size(), 0);
  const v1::HeldShardsReport held = server.WaitForHeldRanks(2);
  ASSERT_EQ(held.shards_size(), 1);
  EXPECT_EQ(held.shards(0).content_key(), plan_report_.content_key());
  EXPECT_EQ(held.shards(0).plan_digest(), plan_report_.plan_digest());

  const v1::NodeReport second = Load(&server, "loads/b", v1::LOAD_SOURCE_CACHE);
  EXPECT_THAT(StatusFromFailure(second.failure()), IsOk());
  EXPECT_EQ(second.progress().source(), v1::LOAD_SOURCE_CACHE);
  EXPECT_EQ(second.progress().bytes_read(), 0);
  ASSERT_EQ(plan_report_.held_shards_size(), 1);
  EXPECT_EQ(plan_report_.held_shards(0).ranks_size(), 2);
  EXPECT_EQ(agent_->stats().cache_hits, 2);
  EXPECT_EQ(agent_->stats().cache_misses, 2);
}

TEST_F(SessionTest, RefusesToGiveWhatItDoesNotHold) {
  FakeServer server(address_);
  StartAgent();
  v1::SessionResponse donate;
  v1::DonateShards* const command = donate.mutable_donate_shards();
  command->set_load("loads/a");
  command->set_epoch(3);
  command->set_plan_digest("d");
  command->set_content_key("k");
  command->mutable_peers()->add_participants("other");
  command->mutable_peers()->add_participants("node-a");
  command->mutable_peers()->set_participant(1);
  v1::ShardTransfer* const transfer = command->mutable_peers()->add_transfers();
  transfer->set_rank(4);
  transfer->set_donor(1);
  server.Say(donate);
  const v1::DonationReport report =
      server.Next(v1::SessionRequest::kDonationReport).donation_report();
  EXPECT_EQ(report.load(), "loads/a");
  EXPECT_EQ(report.epoch(), 3);
  EXPECT_FALSE(report.done());
  EXPECT_THAT(StatusFromFailure(report.failure()),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("rank 4")));
}

TEST_F(SessionTest, ReportsHandOvers) {
  WriteCheckpoint(checkpoint_.path(), TestSeed());
  FakeServer server(address_);
  StartAgent();
  Load(&server, "loads/a");
  AttachClient client(dir_.File("agent.sock"));
  EXPECT_EQ(client.Attach("loads/a", 1, "secret", "shared")["ok"], true);
  client.Acknowledge();
  const v1::HandOverReport report =
      server.Next(v1::SessionRequest::kHandOverReport).hand_over_report();
  EXPECT_EQ(report.load(), "loads/a");
  EXPECT_EQ(report.epoch(), 3);
  EXPECT_EQ(report.rank(), 1);
  EXPECT_EQ(report.mode(), "shared");
  EXPECT_EQ(report.way(), "memfd");
  EXPECT_EQ(report.because(), "");
}

// Devices of which nobody wants more than their names.
class NamedDevices : public Devices {
 public:
  int count() const override { return 1; }
  std::vector<DeviceSummary> List() const override { return {{"GPU-1", "A GPU", 5 << 20}}; }
  std::string Describe(int) const override { return "GPU-1"; }
  absl::StatusOr<std::unique_ptr<DeviceMemory>> Allocate(int, int64_t) override {
    return absl::UnimplementedError("allocate");
  }
  absl::StatusOr<std::unique_ptr<Communicator>> Connect(int, const CommunicatorRequest&) override {
    return absl::UnimplementedError("connect");
  }
  absl::StatusOr<std::shared_ptr<DeviceCopier>> MakeCopier(int, int, int64_t,
                                                           Communicator*) override {
    return absl::UnimplementedError("copy");
  }
};

TEST_F(SessionTest, NamesItsGpus) {
  FakeServer server(address_);
  find_devices_ = [] { return std::make_shared<NamedDevices>(); };
  StartAgent();
  const v1::Register message = server.Next(v1::SessionRequest::kRegister).register_();
  ASSERT_EQ(message.gpus_size(), 1);
  EXPECT_EQ(message.gpus(0).uuid(), "GPU-1");
  EXPECT_EQ(message.gpus(0).name(), "A GPU");
  EXPECT_EQ(message.gpus(0).memory_bytes(), 5 << 20);
  EXPECT_EQ(message.no_gpus_because(), "");
}

TEST_F(SessionTest, SaysWhyItHasNoGpus) {
  FakeServer server(address_);
  find_devices_ = []() -> absl::StatusOr<std::shared_ptr<Devices>> {
    return absl::FailedPreconditionError("the driver is too old");
  };
  StartAgent();
  EXPECT_THAT(server.Next(v1::SessionRequest::kRegister).register_().no_gpus_because(),
              HasSubstr("the driver is too old"));
}

TEST_F(SessionTest, WithoutGpusShardsForDevicesAreMadeInHostMemory) {
  const uint64_t seed = TestSeed();
  WriteCheckpoint(checkpoint_.path(), seed);
  FakeServer server(address_);
  no_gpu_ = true;
  find_devices_ = []() -> absl::StatusOr<std::shared_ptr<Devices>> {
    ADD_FAILURE() << "it looks for GPUs";
    return absl::InternalError("");
  };
  device_ = LoadDevice::kCuda;
  StartAgent();
  EXPECT_THAT(server.Next(v1::SessionRequest::kRegister).register_().no_gpus_because(),
              HasSubstr("--no-gpu"));
  const v1::NodeReport done = Load(&server, "loads/a");
  ASSERT_THAT(StatusFromFailure(done.failure()), IsOk());
  EXPECT_EQ(done.progress().hand_over_way(), "host_copy");
  EXPECT_THAT(done.progress().hand_over_because(), HasSubstr("--no-gpu"));
  EXPECT_EQ(done.progress().device_arena_bytes(), 0);
  Layout layout = MakeLayout(1, 2);
  layout.device = LoadDevice::kCuda;
  const auto expected = ExpectedDigests(*MakePlan(checkpoint_.path(), layout), checkpoint_.path());
  ASSERT_EQ(done.shards_size(), 2);
  for (int rank = 0; rank < 2; ++rank) {
    std::vector<uint64_t> digests;
    for (const v1::PartitionDigest& digest : done.shards(rank).digests()) {
      digests.push_back(digest.xxh3());
    }
    EXPECT_EQ(digests, expected[static_cast<size_t>(rank)]) << "rank " << rank;
  }
  AttachClient client(dir_.File("agent.sock"));
  const auto answer = client.Attach("loads/a", 1, "secret", "private");
  EXPECT_EQ(answer["way"], "host_copy");
  EXPECT_EQ(answer["mode"], "private");
  EXPECT_THAT(answer["because"].get<std::string>(), HasSubstr("--no-gpu"));
  client.Acknowledge();
  EXPECT_EQ(client.Receive()["ok"], true);
  EXPECT_EQ(server.Next(v1::SessionRequest::kHandOverReport).hand_over_report().way(), "host_copy");
  EXPECT_EQ(agent_->stats().handed_over.at({"private", "host_copy"}), 1);
}

TEST_F(SessionTest, FreesWhatNoProcessTakes) {
  WriteCheckpoint(checkpoint_.path(), TestSeed());
  FakeServer server(address_);
  unclaimed_ttl_ = absl::Milliseconds(100);
  StartAgent();
  Load(&server, "loads/a");
  for (int k = 0; k < 20000 && agent_->stats().loads_expired == 0; ++k) ::usleep(1000);
  EXPECT_EQ(agent_->stats().loads_expired, 1);
  EXPECT_EQ(agent_->stats().loads_held, 0);
  const auto refused =
      AttachClient(dir_.File("agent.sock")).Attach("loads/a", 1, "secret", "shared");
  EXPECT_EQ(refused["error"]["code"], "FAILED_PRECONDITION");
  EXPECT_THAT(refused["error"]["message"].get<std::string>(), HasSubstr("--unclaimed-ttl"));
  const v1::ShardsFreedReport report =
      server.Next(v1::SessionRequest::kShardsFreedReport).shards_freed_report();
  EXPECT_EQ(report.load(), "loads/a");
  EXPECT_EQ(report.epoch(), 3);
  EXPECT_THAT(report.ranks(), ElementsAre(0, 1));
  EXPECT_EQ(report.why().reason(), "WRONG_STATE");
  EXPECT_THAT(report.why().message(), HasSubstr("--unclaimed-ttl"));
  // The next stream hears of it, too: this one may have died before it was delivered.
  server.Stop();
  server.Start();
  EXPECT_THAT(server.Next(v1::SessionRequest::kRegister).register_().held_loads(), IsEmpty());
  EXPECT_THAT(server.Next(v1::SessionRequest::kShardsFreedReport).shards_freed_report().ranks(),
              ElementsAre(0, 1));
}

TEST_F(SessionTest, AnInspectionEndsWhenTheTimeThatTheServerGivesIsOver) {
  FakeServer server(address_);
  StartAgent();
  WriteCheckpoint(checkpoint_.path(), TestSeed());
  v1::SessionResponse inspect;
  inspect.mutable_inspect_checkpoint()->set_load("loads/a");
  inspect.mutable_inspect_checkpoint()->set_epoch(3);
  inspect.mutable_inspect_checkpoint()->set_checkpoint_path(checkpoint_.path());
  inspect.mutable_inspect_checkpoint()->mutable_timeout();  // it is over already
  server.Say(inspect);
  const v1::Failure failure =
      server.Next(v1::SessionRequest::kManifestReport).manifest_report().failure();
  EXPECT_THAT(StatusFromFailure(failure),
              StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr(checkpoint_.path())));
  EXPECT_EQ(failure.reason(), "DEADLINE_EXCEEDED");
}

TEST_F(SessionTest, DialsAgainAndNamesTheShardsItHolds) {
  WriteCheckpoint(checkpoint_.path(), TestSeed());
  FakeServer server(address_);
  StartAgent();
  const uint64_t incarnation = server.Next(v1::SessionRequest::kRegister).register_().incarnation();
  Load(&server, "loads/a");
  server.Stop();
  // While nobody listens a shard is handed over; the server hears of it later.
  AttachClient client(dir_.File("agent.sock"));
  EXPECT_EQ(client.Attach("loads/a", 0, "secret", "private")["ok"], true);
  client.Acknowledge();
  EXPECT_EQ(client.Receive()["ok"], true);
  server.Start();
  const v1::Register again = server.Next(v1::SessionRequest::kRegister).register_();
  EXPECT_EQ(again.incarnation(), incarnation);
  ASSERT_EQ(again.held_loads_size(), 1);
  EXPECT_EQ(again.held_loads(0).load(), "loads/a");
  EXPECT_EQ(again.held_loads(0).epoch(), 3);
  EXPECT_EQ(server.Next(v1::SessionRequest::kHandOverReport).hand_over_report().mode(), "private");
}

TEST_F(SessionTest, ARefusedAgentSaysWhyAndGetsInOnceItMay) {
  FakeServer server(address_);
  server.Refuse(absl::AlreadyExistsError("another agent named node-a is connected"));
  StartAgent();
  server.Next(v1::SessionRequest::kRegister);
  server.Next(v1::SessionRequest::kRegister);
  EXPECT_THAT(agent_->WaitUntilRegistered(absl::Milliseconds(10)),
              StatusIs(absl::StatusCode::kDeadlineExceeded,
                       HasSubstr("another agent named node-a is connected")));
  server.Refuse(absl::OkStatus());
  EXPECT_THAT(agent_->WaitUntilRegistered(absl::Seconds(20)), IsOk());
}

TEST_F(SessionTest, ASessionThatEndsAtOnceDoesNotShortenThePauses) {
  FakeServer server(address_);
  server.EndAtOnce();
  StartAgent();
  server.Next(v1::SessionRequest::kRegister);
  const absl::Duration first = Clock::Real()->Steady();
  for (int i = 0; i < 3; ++i) server.Next(v1::SessionRequest::kRegister);
  // Pauses of 0.2, 0.4 and 0.8 s, each at least 3/4 of it.
  EXPECT_GE(Clock::Real()->Steady() - first, absl::Milliseconds(1000));
}

TEST_F(SessionTest, StopsWhileItsServerHangs) {
  FakeServer server(address_);
  StartAgent();
  server.Next(v1::SessionRequest::kRegister);
  agent_->Stop();
  agent_->Stop();
  EXPECT_FALSE(agent_->registered());
}

TEST(AgentStart, NamesEveryWrongOption) {
  AgentOptions options;
  options.bulk_host = "";
  options.unclaimed_ttl = absl::ZeroDuration();
  options.file_timeout = absl::ZeroDuration();
  EXPECT_THAT(
      Agent::Start(options),
      StatusIs(absl::StatusCode::kInvalidArgument,
               ::testing::AllOf(HasSubstr("node:"), HasSubstr("server:"), HasSubstr("bulk_host:"),
                                HasSubstr("unclaimed_ttl:"), HasSubstr("file_timeout:"))));
}

}  // namespace
}  // namespace zerocast
