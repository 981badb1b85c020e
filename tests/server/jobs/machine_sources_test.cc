// Where the shards of a load come from, and the agents that give them.
#include "server/base/errors.h"
#include "tests/server/jobs/machine_fixture.h"
#include "tests/status_matchers.h"

namespace zerocast::jobs {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr char kKey[] = "key";

class MachineSourcesTest : public MachineTest {
 protected:
  // The two nodes, and x (session 3), which holds what both need.
  void Prepare(bool x_holds = true) {
    DriveTo(LoadState::kPreparing);
    Register("x", 3);
    if (x_holds) Apply(HeldShardsReport{3, {{kDigest, kKey, {0, 1, 2, 3}}}, 4096});
  }
  PlanReport Report(SessionId session, std::vector<int32_t> held = {}) const {
    PlanReport report{session, kLoad, 7, absl::OkStatus(), kDigest, {session == 1 ? kKey : "", {}}};
    if (!held.empty()) report.shards.held = {{kDigest, kKey, std::move(held)}};
    return report;
  }
  std::vector<Command> ReportBoth() {
    Apply(Report(1));
    return Apply(Report(2));
  }
  static std::vector<StartLoad> Starts(const std::vector<Command>& commands) {
    std::vector<StartLoad> starts;
    for (const Send& send : Only<Send>(commands)) {
      if (const auto* start = std::get_if<StartLoad>(&send.message)) starts.push_back(*start);
    }
    return starts;
  }
  void ExpectFiles(const std::vector<Command>& commands) {
    EXPECT_EQ(load().state, LoadState::kLoading);
    ASSERT_EQ(Starts(commands).size(), 2);
    for (const StartLoad& start : Starts(commands)) {
      EXPECT_EQ(start.source, LoadSource::kFiles);
      EXPECT_EQ(start.content_key, kKey);
      EXPECT_THAT(start.peers.transfers, IsEmpty());
    }
  }
};

TEST_F(MachineSourcesTest, WhatTheNodesHoldComesFromTheirCaches) {
  Prepare();
  Apply(Report(1, {0, 1}));
  const auto starts = Starts(Apply(Report(2, {2, 3})));
  ASSERT_EQ(starts.size(), 2);
  EXPECT_EQ(starts[1].source, LoadSource::kCache);
  EXPECT_EQ(starts[1].content_key, kKey);
  EXPECT_EQ(load().state, LoadState::kLoading);
}

TEST_F(MachineSourcesTest, WithNothingHeldItComesFromTheFiles) {
  Prepare(/*x_holds=*/false);
  ExpectFiles(ReportBoth());
}

TEST_F(MachineSourcesTest, ADonorIsAskedFirst) {
  Prepare();
  const auto asked = ReportBoth();
  EXPECT_EQ(SentTo<DonateShards>(asked), std::vector<SessionId>{3});
  EXPECT_THAT(Starts(asked), IsEmpty());
  EXPECT_EQ(load().state, LoadState::kPreparing);
  EXPECT_THAT(machine_.WaitsFor(kLoad), ElementsAre("x"));
  EXPECT_THAT(machine_.LoadsOf(machine_.agents().at("x")), ElementsAre(kLoad));
  const auto starts = Starts(Apply(DonationReport{3, kLoad, 7, absl::OkStatus(), false}));
  ASSERT_EQ(starts.size(), 2);
  EXPECT_EQ(starts[0].source, LoadSource::kPeers);
  EXPECT_THAT(starts[0].peers.participants, ElementsAre("a", "b", "x"));
  EXPECT_EQ(starts[1].peers.participant, 1);
  EXPECT_EQ(starts[1].peers.transfers.size(), 4);
}

TEST_F(MachineSourcesTest, DonorsMeetTheNodesByTheRendezvous) {
  Prepare();
  ReportBoth();
  const auto relayed = Apply(RendezvousEntry{3, kLoad, 7, "peers/gloo/2", "v"});
  EXPECT_EQ(SentTo<RelayEntry>(relayed), (std::vector<SessionId>{1, 2}));
  const auto back = Apply(RendezvousEntry{1, kLoad, 7, "peers/gloo/0", "v"});
  EXPECT_EQ(SentTo<RelayEntry>(back), (std::vector<SessionId>{2, 3}));
  Register("y", 4);
  EXPECT_THAT(Apply(RendezvousEntry{4, kLoad, 7, "k", "v"}), IsEmpty());
}

TEST_F(MachineSourcesTest, ADonorThatHasItNoMoreMeansTheFiles) {
  Prepare();
  ReportBoth();
  ExpectFiles(Apply(DonationReport{3, kLoad, 7, absl::FailedPreconditionError("gone"), false}));
}

TEST_F(MachineSourcesTest, ADonorThatIsLostBeforeTheStartMeansTheFiles) {
  Prepare();
  ReportBoth();
  ExpectFiles(Apply(SessionClosed{3, "its stream closed"}));
}

TEST_F(MachineSourcesTest, ADonorThatDoesNotAnswerMeansTheFiles) {
  Prepare();
  ReportBoth();
  for (int k = 0; k < 13; ++k) {
    steady_ += absl::Seconds(5);
    for (const SessionId session : {1, 2, 3}) Apply(Heartbeat{session});
    last_ = Apply(Tick{});
    if (load().state == LoadState::kLoading) break;
  }
  ExpectFiles(last_);
  EXPECT_EQ(SentTo<CancelLoad>(last_), std::vector<SessionId>{3});
}

TEST_F(MachineSourcesTest, ADonorThatIsLostWhileItGivesIsNamed) {
  Prepare();
  ReportBoth();
  Apply(DonationReport{3, kLoad, 7, absl::OkStatus(), false});
  const auto out = Apply(SessionClosed{3, "its stream closed"});
  EXPECT_EQ(load().state, LoadState::kFailed);
  EXPECT_EQ(ReasonOf(load().failure), "AGENT_LOST");
  EXPECT_THAT(std::string(load().failure.message()),
              AllOf(HasSubstr("node x"), HasSubstr("its stream closed"), HasSubstr("new load")));
  EXPECT_EQ(SentTo<CancelLoad>(out), (std::vector<SessionId>{1, 2}));
}

TEST_F(MachineSourcesTest, ADonorThatFailsIsNamedAndTheOthersEnd) {
  Prepare();
  ReportBoth();
  Apply(DonationReport{3, kLoad, 7, absl::OkStatus(), false});
  const auto out = Apply(DonationReport{
      3, kLoad, 7, WithReason(absl::UnavailableError("link"), "EXCHANGE_FAILED"), false});
  EXPECT_EQ(load().state, LoadState::kFailed);
  EXPECT_EQ(ReasonOf(load().failure), "EXCHANGE_FAILED");
  EXPECT_THAT(std::string(load().failure.message()), HasSubstr("node x"));
  EXPECT_EQ(SentTo<CancelLoad>(out), (std::vector<SessionId>{1, 2}));
}

TEST_F(MachineSourcesTest, ADonorThatHasGivenAllMayGo) {
  Prepare();
  ReportBoth();
  Apply(DonationReport{3, kLoad, 7, absl::OkStatus(), false});
  Apply(DonationReport{3, kLoad, 7, absl::OkStatus(), true});
  Apply(SessionClosed{3, "its stream closed"});
  Finish(2, {3, 2});
  Finish(1, {0, 1});
  EXPECT_EQ(load().state, LoadState::kReady);
}

TEST_F(MachineSourcesTest, ACancelReachesTheDonors) {
  Prepare();
  ReportBoth();
  std::vector<Command> out;
  ASSERT_THAT(machine_.CancelLoadByName(kLoad, Now(), &out), IsOk());
  EXPECT_EQ(SentTo<CancelLoad>(out), (std::vector<SessionId>{1, 2, 3}));
}

TEST_F(MachineSourcesTest, AFailureOfANodeReachesTheDonors) {
  Prepare();
  ReportBoth();
  Apply(DonationReport{3, kLoad, 7, absl::OkStatus(), false});
  NodeReport report;
  report.session = 1;
  report.load = kLoad;
  report.epoch = 7;
  report.failure = absl::UnavailableError("peer");
  EXPECT_EQ(SentTo<CancelLoad>(Apply(report)), (std::vector<SessionId>{2, 3}));
}

TEST_F(MachineSourcesTest, ReportsOfOthersAndOfOldEpochsAreDropped) {
  Prepare();
  ReportBoth();
  Register("y", 4);
  const int64_t before = machine_.num_dropped();
  Apply(DonationReport{4, kLoad, 7, absl::OkStatus(), false});
  Apply(DonationReport{3, kLoad, 6, absl::OkStatus(), false});
  Apply(Report(1, {0, 1, 2, 3}));  // said again
  EXPECT_EQ(machine_.num_dropped(), before + 3);
  EXPECT_EQ(load().state, LoadState::kPreparing);
}

TEST_F(MachineSourcesTest, TheLatestWordOfAnAgentCounts) {
  Prepare();
  EXPECT_EQ(machine_.agents().at("x").cache_bytes, 4096);
  Apply(HeldShardsReport{3, {}, 0});
  ExpectFiles(ReportBoth());
}

TEST_F(MachineSourcesTest, WhatARegistrationNamesCounts) {
  DriveTo(LoadState::kPreparing);
  AgentRegistered event;
  event.session = 3;
  event.node_name = "x";
  event.held_shards = {{kDigest, kKey, {0, 1, 2, 3}}};
  Apply(event);
  EXPECT_EQ(SentTo<DonateShards>(ReportBoth()), std::vector<SessionId>{3});
}

}  // namespace
}  // namespace zerocast::jobs
