// What becomes of the shards of a ready load.
#include <string>
#include <vector>

#include "server/base/errors.h"
#include "server/jobs/machine.h"
#include "tests/server/jobs/machine_fixture.h"
#include "tests/status_matchers.h"

namespace zerocast::jobs {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

TEST_F(MachineTest, CancellingAReadyLoadFreesItsShardsAndKeepsItsState) {
  DriveTo(LoadState::kReady);
  std::vector<Command> out;
  ASSERT_THAT(machine_.CancelJob("jobs/j", Now(), &out), IsOk());
  EXPECT_THAT(SentTo<CancelLoad>(out), ElementsAre(1, 2));
  EXPECT_EQ(load().state, LoadState::kReady);
  EXPECT_TRUE(load().released);
  EXPECT_THAT(load().shards[3].freed, StatusIs(absl::StatusCode::kCancelled, HasSubstr("jobs/j")));
  EXPECT_THAT(machine_.LoadsOf(machine_.agents().at("a")), IsEmpty());
  EXPECT_EQ((*machine_.GetJob("jobs/j"))->state, JobState::kCancelled);
}

TEST_F(MachineTest, HandOverIsKept) {
  DriveTo(LoadState::kReady);
  Apply(HandOverReport{1, kLoad, 7, 3, "shared"});  // not its rank
  EXPECT_EQ(load().shards[3].handed_over, "");
  EXPECT_THAT(Only<PersistLoad>(
                  Apply(HandOverReport{2, kLoad, 7, 3, "shared", "cuda_ipc", "not cuda_vmm"})),
              SizeIs(1));
  EXPECT_EQ(load().shards[3].handed_over, "shared");
  EXPECT_EQ(load().shards[3].way, "cuda_ipc");
  EXPECT_EQ(load().shards[3].way_because, "not cuda_vmm");
}

TEST_F(MachineTest, AnAgentHoldsALoadUntilItsLastShardWentOverShared) {
  DriveTo(LoadState::kReady);
  const auto loads_of = [this](const std::string& node) {
    return machine_.LoadsOf(machine_.agents().at(node));
  };
  Apply(HandOverReport{2, kLoad, 7, 2, "private"});
  Apply(HandOverReport{2, kLoad, 7, 3, "shared"});
  EXPECT_THAT(loads_of("b"), ElementsAre(kLoad)) << "a private copy leaves the agent its own";
  Apply(HandOverReport{2, kLoad, 7, 2, "shared"});
  EXPECT_THAT(loads_of("b"), IsEmpty());
  EXPECT_THAT(loads_of("a"), ElementsAre(kLoad));
}

TEST_F(MachineTest, AnAgentKeepsOnlyShardsOfReadyLoads) {
  DriveTo(LoadState::kReady);
  Apply(SessionClosed{2, "gone"});
  EXPECT_EQ(load().state, LoadState::kReady);
  const auto out = Register("b", 5, {{kLoad, 7}, {"loads/gone", 3}});
  EXPECT_THAT(SentTo<CancelLoad>(out), ElementsAre(5));
  EXPECT_THAT(machine_.LoadsOf(machine_.agents().at("b")), ElementsAre(kLoad));
}

absl::Status NobodyCame() {
  return WithReason(absl::FailedPreconditionError("no process took it"), "WRONG_STATE");
}

TEST_F(MachineTest, FreedShardsAreKeptWithTheirReasonAndTheLoadStaysReady) {
  DriveTo(LoadState::kReady);
  Apply(HandOverReport{1, kLoad, 7, 0, "shared"});
  // Rank 0 went over, rank 2 is not this node's: neither is the agent's to free.
  const auto out = Apply(ShardsFreedReport{1, kLoad, 7, {0, 1, 2, 9}, NobodyCame()});
  EXPECT_THAT(Only<PersistLoad>(out), SizeIs(1));
  EXPECT_THAT(Only<NotifyLoad>(out), SizeIs(1));
  EXPECT_EQ(load().state, LoadState::kReady);
  EXPECT_THAT(load().shards[0].freed, IsOk());
  EXPECT_EQ(load().shards[1].freed, NobodyCame());
  EXPECT_THAT(load().shards[2].freed, IsOk());
  EXPECT_THAT(machine_.LoadsOf(machine_.agents().at("a")), IsEmpty());
  // Said again by the next stream: nothing new.
  EXPECT_THAT(Apply(ShardsFreedReport{1, kLoad, 7, {1}, NobodyCame()}), IsEmpty());
  // Of another epoch, without a reason, of another load.
  EXPECT_THAT(Apply(ShardsFreedReport{2, kLoad, 6, {2}, NobodyCame()}), IsEmpty());
  EXPECT_THAT(Apply(ShardsFreedReport{2, kLoad, 7, {2}, absl::OkStatus()}), IsEmpty());
  EXPECT_THAT(Apply(ShardsFreedReport{2, "loads/x", 7, {2}, NobodyCame()}), IsEmpty());
  EXPECT_THAT(load().shards[2].freed, IsOk());
}

TEST_F(MachineTest, FreedShardsCountWhenTheyAreSaidOnALaterStream) {
  DriveTo(LoadState::kReady);
  Apply(SessionClosed{1, "gone"});
  EXPECT_THAT(Apply(ShardsFreedReport{1, kLoad, 7, {0, 1}, NobodyCame()}), IsEmpty())
      << "of a stream that is gone";
  Register("a", 5, {});  // it names the load no more
  EXPECT_EQ(ReasonOf(load().shards[0].freed), "AGENT_LOST");
  Apply(ShardsFreedReport{5, kLoad, 7, {0, 1}, NobodyCame()});
  EXPECT_EQ(load().shards[0].freed, NobodyCame()) << "the agent knows better";
  EXPECT_EQ(load().shards[1].freed, NobodyCame());
}

TEST_F(MachineTest, ShardsThatANodeFreesWhileOthersLoadFailTheLoad) {
  DriveTo(LoadState::kLoading);
  Finish(1, {0, 1});
  const auto out = Apply(ShardsFreedReport{1, kLoad, 7, {0, 1}, NobodyCame()});
  EXPECT_EQ(load().state, LoadState::kFailed);
  EXPECT_THAT(load().failure, StatusIs(absl::StatusCode::kFailedPrecondition,
                                       HasSubstr("node a: no process took it")));
  EXPECT_THAT(SentTo<CancelLoad>(out), ElementsAre(1, 2));
}

TEST_F(MachineTest, AnAgentThatComesBackWithoutItsShardsHasLostThem) {
  DriveTo(LoadState::kReady);
  Apply(HandOverReport{2, kLoad, 7, 2, "shared"});
  Apply(HandOverReport{2, kLoad, 7, 3, "private"});
  Apply(SessionClosed{2, "gone"});
  EXPECT_THAT(load().shards[3].freed, IsOk()) << "it may come back with them";
  const auto out = Register("b", 5, {}, 2);
  EXPECT_THAT(Only<PersistLoad>(out), SizeIs(1));
  EXPECT_EQ(load().state, LoadState::kReady);
  EXPECT_THAT(load().shards[2].freed, IsOk()) << "the training process has it";
  EXPECT_THAT(load().shards[3].freed,
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("restarted")));
  EXPECT_EQ(ReasonOf(load().shards[3].freed), "AGENT_LOST");
  EXPECT_THAT(load().shards[0].freed, IsOk());
  EXPECT_THAT(machine_.LoadsOf(machine_.agents().at("b")), IsEmpty());
  // A hand-over of before, that is said again, shows that the shard was not lost.
  Apply(SessionClosed{1, "gone"});
  Register("a", 6, {});
  EXPECT_EQ(ReasonOf(load().shards[0].freed), "AGENT_LOST");
  Apply(HandOverReport{6, kLoad, 7, 0, "shared"});
  EXPECT_THAT(load().shards[0].freed, IsOk());
}

TEST_F(MachineTest, WhatANodeShouldHoldSurvivesARestartOfTheServer) {
  DriveTo(LoadState::kReady);
  Machine next{MachineOptions()};
  next.RestoreJob(**machine_.GetJob("jobs/j"));
  std::vector<Command> out;
  next.RestoreLoad(load(), &out);
  AgentRegistered event;
  event.session = 9;
  event.node_name = "a";
  event.held_loads = {{kLoad, 7}, {kLoad, 7}};
  next.Apply(event, Now(), &out);
  EXPECT_THAT(SentTo<CancelLoad>(out), IsEmpty());
  EXPECT_THAT((*next.GetLoad(kLoad))->shards[0].freed, IsOk());
  event.session = 10;
  event.node_name = "b";
  event.held_loads.clear();
  next.Apply(event, Now(), &out);
  EXPECT_EQ(ReasonOf((*next.GetLoad(kLoad))->shards[2].freed), "AGENT_LOST");
  EXPECT_THAT(next.LoadsOf(next.agents().at("a")), ElementsAre(kLoad));
}

}  // namespace
}  // namespace zerocast::jobs
