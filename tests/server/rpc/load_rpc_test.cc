// Loads over real gRPC, with agents played by the test.
#include <unistd.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "server/wire/bulk_nonce.h"
#include "tests/server/rpc/server_fixture.h"
#include "tests/temp_dir.h"

namespace zerocast {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class LoadRpcTest : public ServerTest {
 protected:
  // Both agents up to StartLoad, whose message for a comes back.
  v1::StartLoad DriveToLoading(FakeAgent* a, FakeAgent* b) {
    a->ReportManifest(a->Read().inspect_checkpoint());
    for (FakeAgent* agent : {a, b}) {
      const v1::PreparePlan prepare = agent->Read().prepare_plan();
      agent->ReportPlan(prepare, prepare.plan_digest(), prepare.epoch());
    }
    EXPECT_TRUE(b->Read().has_start_load());
    return a->Read().start_load();
  }
  // Until the server has heard of it.
  void AwaitCacheBytes(const std::string& node, int64_t bytes) {
    for (int k = 0; k < 5000; ++k) {
      const auto list = Call(agents_, &v1::AgentService::Stub::ListAgents, v1::ListAgentsRequest());
      ASSERT_TRUE(list.ok());
      for (const v1::AgentInfo& agent : list->agents()) {
        if (agent.node_name() == node && agent.cache_bytes() == bytes) return;
      }
      ::usleep(1000);
    }
    FAIL() << "node " << node << " never had " << bytes << " bytes cached";
  }
  v1::Load GetLoad(const std::string& name) {
    v1::GetLoadRequest request;
    request.set_name(name);
    const auto response = Call(loads_, &v1::LoadService::Stub::GetLoad, request);
    return response.ok() ? response->load() : v1::Load();
  }
};

TEST_F(LoadRpcTest, GoesFromCreationToReady) {
  FakeAgent a(channel_, "a"), b(channel_, "b");
  const v1::CreateJobResponse created = CreateJob(TwoNodeSpec());
  EXPECT_EQ(created.attach_token().size(), 32);
  const v1::Load load = CreateLoad(created.job().name());
  EXPECT_GT(load.epoch(), 0);
  const v1::SessionResponse inspect = a.Read();
  EXPECT_EQ(inspect.inspect_checkpoint().checkpoint_path(), "/data/ckpt");
  EXPECT_EQ(inspect.inspect_checkpoint().epoch(), load.epoch());
  a.ReportManifest(inspect.inspect_checkpoint());
  const v1::PreparePlan prepare = b.Read().prepare_plan();
  EXPECT_EQ(prepare.node(), 1);
  EXPECT_EQ(prepare.node_names(0), "a");
  EXPECT_EQ(prepare.attach_token(), created.attach_token());
  EXPECT_EQ(prepare.stage_timeout().seconds(), 10);
  // The agent arrives at the same plan by itself.
  ZC_ASSERT_OK_AND_ASSIGN(const PlanInput input,
                          DecompressPlanInput(prepare.compressed_plan_input()));
  ZC_ASSERT_OK_AND_ASSIGN(const Plan plan, CompilePlanInput(input, nullptr));
  EXPECT_EQ(plan.digest, prepare.plan_digest());
  b.ReportPlan(prepare, plan.digest, prepare.epoch());
  a.ReportPlan(a.Read().prepare_plan(), plan.digest, load.epoch());
  a.ReportDone(a.Read().start_load(), {0, 1});
  b.ReportDone(b.Read().start_load(), {2, 3});
  const v1::Load ready = WatchToEnd(load.name());
  EXPECT_EQ(ready.state(), v1::LOAD_STATE_READY);
  ASSERT_EQ(ready.shards_size(), 4);
  EXPECT_EQ(ready.shards(3).agent_socket(), "/run/zerocast/b");
  EXPECT_EQ(ready.shards(3).digests(0).xxh3(), 10);
  EXPECT_EQ(ready.plan().digest(), plan.digest);
  EXPECT_EQ(ready.report().dtype_reason(), "default");
  EXPECT_NE(ready.etag(), load.etag());
}

TEST_F(LoadRpcTest, FreedShardsAreShownWithTheirReason) {
  const TempDir dir;
  Server::Options options;
  options.store = "sqlite:" + dir.File("state.db");
  StartServer(options);
  auto a = std::make_unique<FakeAgent>(channel_, "a"),
       b = std::make_unique<FakeAgent>(channel_, "b");
  const v1::Load load = CreateLoad(CreateJob(TwoNodeSpec()).job().name());
  const v1::StartLoad start = DriveToLoading(a.get(), b.get());
  a->ReportDone(start, {0, 1});
  b->ReportDone(start, {2, 3});
  const v1::Load ready = WatchToEnd(load.name());
  ASSERT_EQ(ready.state(), v1::LOAD_STATE_READY);
  EXPECT_FALSE(ready.has_freed());

  v1::SessionRequest request;
  v1::ShardsFreedReport* const report = request.mutable_shards_freed_report();
  report->set_load(start.load());
  report->set_epoch(start.epoch());
  report->add_ranks(2);
  report->add_ranks(3);
  report->mutable_why()->set_code(static_cast<int>(absl::StatusCode::kFailedPrecondition));
  report->mutable_why()->set_reason("WRONG_STATE");
  report->mutable_why()->set_message("no process took it");
  b->Write(request);
  v1::Load shown;
  for (int k = 0; k < 20000 && !shown.has_freed(); ++k) {
    ::usleep(1000);
    shown = GetLoad(load.name());
  }
  EXPECT_EQ(shown.state(), v1::LOAD_STATE_READY);
  EXPECT_EQ(shown.freed().message(), "ranks 2, 3 of node b: no process took it");
  EXPECT_EQ(shown.freed().reason(), "WRONG_STATE");
  EXPECT_EQ(shown.shards(2).freed().message(), "no process took it");
  EXPECT_FALSE(shown.shards(1).has_freed());
  EXPECT_NE(shown.etag(), ready.etag());

  // It is in the record.
  a.reset();
  b.reset();
  server_.reset();
  StartServer(options);
  EXPECT_EQ(GetLoad(load.name()).freed().message(), shown.freed().message());
}

TEST_F(LoadRpcTest, AnInspectionCarriesTheTimeThatIsLeft) {
  FakeAgent a(channel_, "a"), b(channel_, "b");
  v1::JobSpec spec = TwoNodeSpec();
  spec.mutable_options()->mutable_stage_timeout()->set_seconds(40);
  CreateLoad(CreateJob(spec).job().name());
  const v1::InspectCheckpoint inspect = a.Read().inspect_checkpoint();
  ASSERT_TRUE(inspect.has_timeout());
  EXPECT_LE(inspect.timeout().seconds(), 40);
  EXPECT_GT(inspect.timeout().seconds(), 10);
}

TEST_F(LoadRpcTest, AMessageOfANewerAgentEndsNothing) {
  FakeAgent a(channel_, "a");
  v1::SessionRequest request;
  // Field 1000, of a kind that this server does not know.
  ASSERT_TRUE(request.ParseFromString(std::string("\xc2\x3e\x02\x08\x01", 5)));
  ASSERT_EQ(request.message_case(), v1::SessionRequest::MESSAGE_NOT_SET);
  EXPECT_TRUE(a.Write(request));
  FakeAgent b(channel_, "b");
  CreateLoad(CreateJob(TwoNodeSpec()).job().name());
  EXPECT_TRUE(a.Read().has_inspect_checkpoint()) << "its stream goes on";
}

TEST_F(LoadRpcTest, RelaysRendezvousEntries) {
  FakeAgent a(channel_, "a"), b(channel_, "b");
  CreateLoad(CreateJob(TwoNodeSpec()).job().name());
  const v1::StartLoad start = DriveToLoading(&a, &b);
  v1::SessionRequest request;
  request.mutable_rendezvous_entry()->set_load(start.load());
  request.mutable_rendezvous_entry()->set_epoch(start.epoch());
  request.mutable_rendezvous_entry()->set_key("rank0");
  request.mutable_rendezvous_entry()->set_value("10.0.0.1:1234");
  a.Write(request);
  const v1::SessionResponse relayed = b.Read();
  EXPECT_EQ(relayed.rendezvous_entry().key(), "rank0");
  EXPECT_EQ(relayed.rendezvous_entry().value(), "10.0.0.1:1234");
}

// An agent that is no node of the load gives what both nodes need.
TEST_F(LoadRpcTest, ShardsComeFromAnAgentThatHoldsThem) {
  FakeAgent a(channel_, "a"), b(channel_, "b"), x(channel_, "x");
  const v1::CreateJobResponse created = CreateJob(TwoNodeSpec());
  const v1::Load load = CreateLoad(created.job().name());
  a.ReportManifest(a.Read().inspect_checkpoint());
  const v1::PreparePlan prepare_a = a.Read().prepare_plan(), prepare_b = b.Read().prepare_plan();
  v1::SessionRequest request;
  v1::HeldShards* const held = request.mutable_held_shards_report()->add_shards();
  held->set_plan_digest(prepare_a.plan_digest());
  held->set_content_key("key");
  for (int rank = 0; rank < 4; ++rank) held->add_ranks(rank);
  request.mutable_held_shards_report()->set_cache_bytes(256);
  x.Write(request);
  AwaitCacheBytes("x", 256);
  b.ReportPlan(prepare_b, prepare_b.plan_digest(), load.epoch());
  request.Clear();
  request.mutable_plan_report()->set_load(load.name());
  request.mutable_plan_report()->set_epoch(load.epoch());
  request.mutable_plan_report()->set_plan_digest(prepare_a.plan_digest());
  request.mutable_plan_report()->set_content_key("key");
  a.Write(request);

  const v1::DonateShards donate = x.Read().donate_shards();
  EXPECT_EQ(donate.load(), load.name());
  EXPECT_EQ(donate.epoch(), load.epoch());
  EXPECT_EQ(donate.plan_digest(), prepare_a.plan_digest());
  EXPECT_EQ(donate.content_key(), "key");
  EXPECT_THAT(donate.peers().participants(), ElementsAre("a", "b", "x"));
  EXPECT_EQ(donate.peers().participant(), 2);
  EXPECT_EQ(donate.peers().transfers_size(), 4);
  EXPECT_GT(donate.arena_bytes(), 0);
  EXPECT_GT(donate.round_bytes(), 0);
  EXPECT_EQ(donate.stage_timeout().seconds(), 10);
  EXPECT_EQ(donate.nonce(),
            BulkNonce(load.name(), load.epoch(), prepare_a.plan_digest(), created.attach_token()));
  request.Clear();
  request.mutable_donation_report()->set_load(load.name());
  request.mutable_donation_report()->set_epoch(load.epoch());
  x.Write(request);
  const v1::StartLoad start = b.Read().start_load();
  EXPECT_EQ(start.source(), v1::LOAD_SOURCE_PEERS);
  EXPECT_EQ(start.content_key(), "key");
  EXPECT_EQ(start.peers().participant(), 1);
  EXPECT_EQ(start.peers().transfers(3).rank(), 3);
  EXPECT_EQ(start.peers().transfers(3).donor(), 2);
  EXPECT_EQ(start.peers().transfers(3).taker(), 1);
  a.ReportDone(a.Read().start_load(), {0, 1});
  b.ReportDone(start, {2, 3});
  const v1::Load ready = WatchToEnd(load.name());
  EXPECT_EQ(ready.state(), v1::LOAD_STATE_READY);
  EXPECT_EQ(ready.nodes(0).source(), v1::LOAD_SOURCE_PEERS);
}

TEST_F(LoadRpcTest, AnotherDigestFailsTheLoad) {
  FakeAgent a(channel_, "a"), b(channel_, "b");
  const v1::Load load = CreateLoad(CreateJob(TwoNodeSpec()).job().name());
  a.ReportManifest(a.Read().inspect_checkpoint());
  const v1::PreparePlan prepare = b.Read().prepare_plan();
  b.ReportPlan(prepare, "0000", prepare.epoch());
  const v1::Load failed = WatchToEnd(load.name());
  EXPECT_EQ(failed.state(), v1::LOAD_STATE_FAILED);
  EXPECT_EQ(failed.failure().reason(), "PLAN_REFUSED");
  EXPECT_THAT(failed.failure().message(), HasSubstr("node b"));
  EXPECT_TRUE(a.Read().has_prepare_plan());
  EXPECT_THAT(a.Read().cancel_load().why(), HasSubstr("digest"));
}

TEST_F(LoadRpcTest, AReportOfAnOlderEpochIsDropped) {
  FakeAgent a(channel_, "a"), b(channel_, "b");
  const v1::Load load = CreateLoad(CreateJob(TwoNodeSpec()).job().name());
  a.ReportManifest(a.Read().inspect_checkpoint());
  const v1::PreparePlan prepare = b.Read().prepare_plan();
  b.ReportPlan(prepare, "0000", prepare.epoch() - 1);
  b.ReportPlan(prepare, prepare.plan_digest(), prepare.epoch());
  const v1::PreparePlan other = a.Read().prepare_plan();
  a.ReportPlan(other, other.plan_digest(), other.epoch());
  EXPECT_TRUE(a.Read().has_start_load());
}

TEST_F(LoadRpcTest, ABadManifestFailsTheLoadNamingTheNode) {
  FakeAgent a(channel_, "a"), b(channel_, "b");
  const v1::Load load = CreateLoad(CreateJob(TwoNodeSpec()).job().name());
  const v1::InspectCheckpoint inspect = a.Read().inspect_checkpoint();
  v1::SessionRequest request;
  request.mutable_manifest_report()->set_load(inspect.load());
  request.mutable_manifest_report()->set_epoch(inspect.epoch());
  request.mutable_manifest_report()->set_compressed_manifest("not gzip");
  a.Write(request);
  const v1::Load failed = WatchToEnd(load.name());
  EXPECT_EQ(failed.failure().code(), static_cast<int>(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(failed.failure().message(), HasSubstr("manifest of the node of rank 0"));
}

TEST_F(LoadRpcTest, AnAgentThatDoesNotKnowOfVariantsIsRefused) {
  FakeAgent a(channel_, "a"), b(channel_, "b");
  v1::JobSpec spec = TwoNodeSpec();
  spec.set_variant("fp16");
  const v1::Load load = CreateLoad(CreateJob(spec).job().name());
  const v1::InspectCheckpoint inspect = a.Read().inspect_checkpoint();
  EXPECT_EQ(inspect.variant(), "fp16");
  a.ReportManifest(inspect);
  const v1::Load failed = WatchToEnd(load.name());
  EXPECT_EQ(failed.failure().code(), static_cast<int>(absl::StatusCode::kUnimplemented));
  EXPECT_THAT(failed.failure().message(), HasSubstr("read variant \"fp16\" of /data/ckpt"));
}

TEST_F(LoadRpcTest, AFailureKeepsItsReasonAndCancelsTheOthers) {
  FakeAgent a(channel_, "a"), b(channel_, "b");
  const v1::Load load = CreateLoad(CreateJob(TwoNodeSpec()).job().name());
  const v1::StartLoad start = DriveToLoading(&a, &b);
  v1::SessionRequest request;
  request.mutable_node_report()->set_load(start.load());
  request.mutable_node_report()->set_epoch(start.epoch());
  request.mutable_node_report()->mutable_failure()->set_code(15);
  request.mutable_node_report()->mutable_failure()->set_message("model.safetensors: torn");
  request.mutable_node_report()->mutable_failure()->set_reason("CHECKPOINT_CORRUPT");
  a.Write(request);
  const v1::Load failed = WatchToEnd(load.name());
  EXPECT_EQ(failed.failure().code(), 15);
  EXPECT_EQ(failed.failure().reason(), "CHECKPOINT_CORRUPT");
  EXPECT_EQ(failed.failure().message(), "node a: model.safetensors: torn");
  EXPECT_TRUE(b.Read().has_cancel_load());
}

TEST_F(LoadRpcTest, ALostAgentFailsTheLoad) {
  auto a = std::make_unique<FakeAgent>(channel_, "a");
  auto b = std::make_unique<FakeAgent>(channel_, "b");
  const v1::Load load = CreateLoad(CreateJob(TwoNodeSpec()).job().name());
  DriveToLoading(a.get(), b.get());
  b.reset();
  const v1::Load failed = WatchToEnd(load.name());
  EXPECT_EQ(failed.failure().reason(), "AGENT_LOST");
  EXPECT_THAT(failed.failure().message(), HasSubstr("node b was lost"));
}

TEST_F(LoadRpcTest, CancelReachesTheAgents) {
  FakeAgent a(channel_, "a"), b(channel_, "b");
  const v1::Load load = CreateLoad(CreateJob(TwoNodeSpec()).job().name());
  DriveToLoading(&a, &b);
  v1::CancelLoadRequest request;
  request.set_name(load.name());
  for (int i = 0; i < 2; ++i) {
    ZC_ASSERT_OK_AND_ASSIGN(const auto cancelled,
                            Call(loads_, &v1::LoadService::Stub::CancelLoad, request));
    EXPECT_EQ(cancelled.load().state(), v1::LOAD_STATE_CANCELLED);
  }
  EXPECT_EQ(a.Read().cancel_load().load(), load.name());
  EXPECT_EQ(b.Read().cancel_load().epoch(), load.epoch());
}

TEST_F(LoadRpcTest, ADryRunGivesThePlanAndKeepsNothing) {
  FakeAgent a(channel_, "a"), b(channel_, "b");
  v1::PlanLoadRequest request;
  *request.mutable_spec() = TwoNodeSpec();
  std::thread agent([&a] { a.ReportManifest(a.Read().inspect_checkpoint()); });
  const auto planned = Call(loads_, &v1::LoadService::Stub::PlanLoad, request);
  agent.join();
  ASSERT_THAT(planned, IsOk());
  EXPECT_FALSE(planned->has_failure());
  EXPECT_EQ(planned->plan().digest().size(), 32);
  EXPECT_TRUE(planned->report().missing_unknown());
  ZC_ASSERT_OK_AND_ASSIGN(const auto list,
                          Call(loads_, &v1::LoadService::Stub::ListLoads, v1::ListLoadsRequest()));
  EXPECT_EQ(list.loads_size(), 0);
}

TEST_F(LoadRpcTest, ADryRunTellsWhereTheShardsWouldLie) {
  FakeAgent a(channel_, "a"), b(channel_, "b");
  v1::PlanLoadRequest request;
  *request.mutable_spec() = TwoNodeSpec();
  request.mutable_spec()->mutable_options()->set_device(v1::DEVICE_CUDA);
  for (const bool offloads : {false, true}) {
    if (offloads) {
      request.mutable_spec()->set_deepspeed_config_json(
          R"({"zero_optimization": {"stage": 3, "offload_param": {"device": "cpu"}}})");
    }
    std::thread agent([&a] { a.ReportManifest(a.Read().inspect_checkpoint()); });
    const auto planned = Call(loads_, &v1::LoadService::Stub::PlanLoad, request);
    agent.join();
    ASSERT_THAT(planned, IsOk());
    const v1::PlanSummary& plan = planned->plan();
    EXPECT_EQ(plan.placement(), offloads ? v1::PLACEMENT_HOST : v1::PLACEMENT_DEVICE);
    EXPECT_EQ(plan.placement_reason(), offloads ? "offload_param.device is cpu" : "--device");
    ASSERT_EQ(plan.memory_by_node_size(), 4) << "a rank each";
    for (const v1::NodeMemory& memory : plan.memory_by_node()) {
      EXPECT_EQ(memory.arena_bytes(), plan.arena_bytes());
      EXPECT_EQ(memory.device_arena_bytes(), offloads ? 0 : plan.arena_bytes());
    }
  }
}

TEST_F(LoadRpcTest, ADryRunTellsWhatWouldStopALoad) {
  FakeAgent a(channel_, "a"), b(channel_, "b");
  v1::PlanLoadRequest request;
  *request.mutable_spec() = TwoNodeSpec();
  request.mutable_spec()->set_model_spec_json(
      R"({"architecture": "M", "params": [{"name": "absent", "shape": [2], "dtype": "float32"}]})");
  std::thread agent([&a] { a.ReportManifest(a.Read().inspect_checkpoint()); });
  const auto planned = Call(loads_, &v1::LoadService::Stub::PlanLoad, request);
  agent.join();
  ASSERT_THAT(planned, IsOk());
  EXPECT_FALSE(planned->has_plan());
  EXPECT_THAT(planned->report().missing(), ElementsAre("absent"));
  EXPECT_EQ(planned->failure().reason(), "WEIGHTS_INCOMPLETE");
  EXPECT_THAT(StatusFromFailure(planned->failure()),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("1 missing: absent")));
}

TEST_F(LoadRpcTest, ADryRunWithoutAgentsEndsByItsDeadline) {
  v1::PlanLoadRequest request;
  *request.mutable_spec() = TwoNodeSpec();
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(300));
  v1::PlanLoadResponse response;
  EXPECT_EQ(FromGrpc(loads_->PlanLoad(&context, request, &response)).code(),
            absl::StatusCode::kDeadlineExceeded);
}

TEST_F(LoadRpcTest, WatchOfAnUnknownLoadIsNotFound) {
  grpc::ClientContext context;
  v1::WatchLoadRequest request;
  request.set_name("loads/none");
  const auto reader = loads_->WatchLoad(&context, request);
  v1::WatchLoadResponse response;
  EXPECT_FALSE(reader->Read(&response));
  const absl::Status status = FromGrpc(reader->Finish());
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kNotFound, HasSubstr("loads/none")));
  EXPECT_EQ(ReasonOf(status), "NOT_FOUND");
}

// What it may miss is watch_test's.
TEST_F(LoadRpcTest, AWatcherThatReadsLateSeesTheLastState) {
  FakeAgent a(channel_, "a"), b(channel_, "b");
  const v1::Load load = CreateLoad(CreateJob(TwoNodeSpec()).job().name());
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
  v1::WatchLoadRequest watch;
  watch.set_name(load.name());
  const auto reader = loads_->WatchLoad(&context, watch);  // not read yet
  const v1::StartLoad start = DriveToLoading(&a, &b);
  for (int i = 1; i <= 50; ++i) {
    v1::SessionRequest request;
    request.mutable_progress_report()->set_load(start.load());
    request.mutable_progress_report()->set_epoch(start.epoch());
    request.mutable_progress_report()->mutable_progress()->set_round(i);
    a.Write(request);
  }
  a.ReportDone(start, {0, 1});
  b.ReportDone(start, {2, 3});
  EXPECT_EQ(WatchToEnd(load.name()).state(), v1::LOAD_STATE_READY);
  v1::WatchLoadResponse response, last;
  while (reader->Read(&response)) last = response;
  EXPECT_THAT(FromGrpc(reader->Finish()), IsOk());
  EXPECT_EQ(last.load().state(), v1::LOAD_STATE_READY);
}

TEST_F(LoadRpcTest, ALoadNamesTheNodesThatItWaitsFor) {
  const auto waits_for = [this](const std::string& name) {
    v1::GetLoadRequest request;
    request.set_name(name);
    const auto answer = Call(loads_, &v1::LoadService::Stub::GetLoad, request);
    EXPECT_THAT(answer, IsOk());
    return std::vector<std::string>(answer->load().waits_for().begin(),
                                    answer->load().waits_for().end());
  };
  auto b = std::make_unique<FakeAgent>(channel_, "b");
  const v1::Load load = CreateLoad(CreateJob(TwoNodeSpec()).job().name());
  EXPECT_THAT(waits_for(load.name()), ElementsAre("a"));
  FakeAgent a(channel_, "a");
  const v1::InspectCheckpoint inspect = a.Read().inspect_checkpoint();
  EXPECT_THAT(waits_for(load.name()), ElementsAre("a"));
  a.ReportManifest(inspect);
  const v1::PreparePlan prepare = a.Read().prepare_plan();
  EXPECT_THAT(waits_for(load.name()), ElementsAre("a", "b"));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
  v1::WatchLoadRequest watch;
  watch.set_name(load.name());
  const auto reader = loads_->WatchLoad(&context, watch);
  a.ReportPlan(prepare, prepare.plan_digest(), prepare.epoch());
  // Watchers are told that one of them has come.
  v1::WatchLoadResponse response;
  do {
    ASSERT_TRUE(reader->Read(&response));
  } while (response.load().waits_for_size() == 2);
  ASSERT_EQ(response.load().waits_for_size(), 1);
  EXPECT_EQ(response.load().waits_for(0), "b");
  b.reset();
  EXPECT_EQ(WatchToEnd(load.name()).waits_for_size(), 0);
}

}  // namespace
}  // namespace zerocast
