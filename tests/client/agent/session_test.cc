// The agent's stream, against a server that says what the test wants.
#include <filesystem>

#include "tests/client/agent/session_fixture.h"

namespace zerocast {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

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
  EXPECT_TRUE(message.looks_at_folders());
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

  inspect.mutable_inspect_checkpoint()->set_checkpoint_path(checkpoint_.path());
  inspect.mutable_inspect_checkpoint()->set_variant("fp16");
  server.Say(inspect);
  EXPECT_THAT(
      server.Next(v1::SessionRequest::kManifestReport).manifest_report().failure().message(),
      HasSubstr("model.fp16.safetensors"));
}

TEST_F(SessionTest, AnswersLooksAtFolders) {
  FakeServer server(address_);
  StartAgent();
  std::filesystem::create_directory(checkpoint_.File("global_step7"));
  checkpoint_.Write("latest", "global_step7");
  v1::SessionResponse look;
  look.mutable_look_at_folder()->set_look("l1");
  look.mutable_look_at_folder()->set_path(checkpoint_.path());
  look.mutable_look_at_folder()->add_tags("best");
  look.mutable_look_at_folder()->mutable_timeout()->set_seconds(20);
  server.Say(look);
  const v1::FolderReport report = server.Next(v1::SessionRequest::kFolderReport).folder_report();
  EXPECT_EQ(report.look(), "l1");
  EXPECT_EQ(report.latest_tag(), "global_step7");
  ASSERT_EQ(report.checkpoints_size(), 2);
  EXPECT_EQ(report.checkpoints(0).tag(), "best");
  EXPECT_TRUE(report.checkpoints(0).gone());
  EXPECT_FALSE(report.checkpoints(0).has_step());
  EXPECT_EQ(report.checkpoints(1).step(), 7);
  EXPECT_FALSE(report.checkpoints(1).gone());
  EXPECT_EQ(report.checkpoints(1).zero_stage(), -1);
  EXPECT_EQ(report.checkpoints(1).problem().reason(), "CHECKPOINT_NOT_FOUND");
  look.mutable_look_at_folder()->set_path(checkpoint_.File("none"));
  server.Say(look);
  EXPECT_THAT(server.Next(v1::SessionRequest::kFolderReport).folder_report().failure().message(),
              HasSubstr("none"));
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
