#include "server/jobs/machine.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "server/base/errors.h"
#include "server/plan/layout.h"
#include "tests/server/jobs/machine_fixture.h"
#include "tests/status_matchers.h"

namespace zerocast::jobs {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

TEST_F(MachineTest, WaitsForEveryNamedNode) {
  EXPECT_THAT(Only<Send>(Create()), IsEmpty());
  EXPECT_THAT(Only<Send>(Register("b", 2)), IsEmpty());
  EXPECT_THAT(Only<Send>(Register("c", 3)), IsEmpty());
  EXPECT_EQ(load().state, LoadState::kPending);
  EXPECT_THAT(SentTo<InspectCheckpoint>(Register("a", 1)), ElementsAre(1));
  EXPECT_EQ(load().state, LoadState::kInspecting);
  EXPECT_EQ(load().nodes[1].node_name, "b");
}

TEST_F(MachineTest, PicksTheLeastBusyAgentsWhereNoneAreNamed) {
  DriveTo(LoadState::kLoading);
  Register("c", 3);
  Job job = TwoNodes("jobs/k");
  job.nodes.clear();
  machine_.AddJob(job, &ignored_);
  Load other;
  other.name = "loads/m";
  other.job = *machine_.GetJob("jobs/k");
  std::vector<Command> out;
  machine_.AddLoad(other, Now(), &out);
  EXPECT_THAT(SentTo<InspectCheckpoint>(out), ElementsAre(3));
  EXPECT_EQ((*machine_.GetLoad("loads/m"))->nodes[1].node_name, "a");
}

TEST_F(MachineTest, GoesFromPendingToReady) {
  Register("a", 1);
  Register("b", 2);
  EXPECT_THAT(SentTo<InspectCheckpoint>(Create()), ElementsAre(1));
  EXPECT_THAT(
      Only<CompilePlanCommand>(Apply(ManifestReport{1, kLoad, 7, absl::OkStatus(), "manifest"})),
      SizeIs(1));
  const auto compiled = Compiled();
  EXPECT_THAT(SentTo<PreparePlan>(compiled), ElementsAre(1, 2));
  EXPECT_THAT(Only<PersistLoad>(compiled), SizeIs(1));
  EXPECT_THAT(Only<Send>(Apply(PlanReport{2, kLoad, 7, absl::OkStatus(), kDigest})), IsEmpty());
  EXPECT_THAT(SentTo<StartLoad>(Apply(PlanReport{1, kLoad, 7, absl::OkStatus(), kDigest})),
              ElementsAre(1, 2));
  EXPECT_EQ(load().state, LoadState::kLoading);
  Finish(2, {3, 2});
  EXPECT_EQ(load().state, LoadState::kLoading);
  EXPECT_THAT(Only<PersistLoad>(Finish(1, {0, 1})), SizeIs(1));
  EXPECT_EQ(load().state, LoadState::kReady);
  ASSERT_THAT(load().shards, SizeIs(4));
  EXPECT_EQ(load().shards[2].rank, 2);
  EXPECT_EQ(load().shards[2].agent_socket, "/run/b");
}

TEST_F(MachineTest, PlansForTheSmallestLimitOfBuffers) {
  constexpr int64_t kMib = int64_t{1} << 20;
  struct Case {
    int64_t of_a, of_b, expected;
  };
  const int64_t of_job = (*machine_.GetJob("jobs/j"))->max_buffer_bytes;
  ASSERT_EQ(of_job, 100 * kMib);
  for (const Case& c : {Case{0, 0, of_job}, Case{64 * kMib, 0, 64 * kMib},
                        Case{64 * kMib, 32 * kMib, 32 * kMib}, Case{200 * kMib, 0, of_job}}) {
    machine_ = Machine(MachineOptions());
    machine_.AddJob(TwoNodes(), &ignored_);
    Register("a", 1, {}, 1, {c.of_a});
    Register("b", 2, {}, 1, {c.of_b});
    Register("c", 3, {}, 1, {kMib});  // no node of the load
    Create();
    const auto commands =
        Only<CompilePlanCommand>(Apply(ManifestReport{1, kLoad, 7, absl::OkStatus(), "manifest"}));
    ASSERT_EQ(commands.size(), 1u);
    EXPECT_EQ(commands[0].max_buffer_bytes, c.expected);
  }
}

TEST_F(MachineTest, ADryRunKnowsWhatAllItsAgentsAllow) {
  Register("a", 1, {}, 1, {64, 3});
  Register("b", 2, {}, 1, {32, 5});
  Create(kLoad, 7, /*plan_only=*/true);
  const auto commands =
      Only<CompilePlanCommand>(Apply(ManifestReport{1, kLoad, 7, absl::OkStatus(), "manifest"}));
  ASSERT_EQ(commands.size(), 1u);
  // Its rounds are those of the load: as small as the smallest one wants them.
  EXPECT_EQ(commands[0].max_buffer_bytes, 32);
  ASSERT_EQ(commands[0].agents.size(), 2u);
  EXPECT_EQ(commands[0].agents[0].num_threads, 3);
  EXPECT_EQ(commands[0].agents[1].num_threads, 5);
  EXPECT_EQ(commands[0].agents[0].max_buffer_bytes, 64);
}

TEST_F(MachineTest, AnotherDigestIsRefused) {
  DriveTo(LoadState::kPreparing);
  const auto out = Apply(PlanReport{2, kLoad, 7, absl::OkStatus(), "other"});
  EXPECT_EQ(load().state, LoadState::kFailed);
  EXPECT_EQ(ReasonOf(load().failure), "PLAN_REFUSED");
  EXPECT_THAT(load().failure.message(), HasSubstr("node b compiled the plan to digest other"));
  EXPECT_THAT(SentTo<CancelLoad>(out), ElementsAre(1, 2));
}

TEST_F(MachineTest, ReportsOfAnOlderEpochChangeNothing) {
  DriveTo(LoadState::kPreparing);
  Apply(PlanReport{2, kLoad, 6, absl::OkStatus(), "other"});
  Apply(NodeReport{2, kLoad, 6, absl::InternalError("old"), {}, {}});
  EXPECT_EQ(load().state, LoadState::kPreparing);
  EXPECT_EQ(machine_.num_dropped(), 2);
}

TEST_F(MachineTest, TheFirstFailureCountsAndTheOthersAreCancelled) {
  DriveTo(LoadState::kLoading);
  NodeReport report;
  report.session = 2;
  report.load = kLoad;
  report.epoch = 7;
  report.failure = WithReason(absl::DataLossError("x.safetensors: torn"), "CHECKPOINT_CORRUPT");
  EXPECT_THAT(SentTo<CancelLoad>(Apply(report)), ElementsAre(1));
  report.session = 1;
  report.failure = absl::CancelledError("told to");
  Apply(report);
  EXPECT_THAT(load().failure,
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("node b: x.safetensors: torn")));
  EXPECT_EQ(ReasonOf(load().failure), "CHECKPOINT_CORRUPT");
}

TEST_F(MachineTest, ALostAgentFailsItsLoadInEveryActiveState) {
  for (const LoadState state :
       {LoadState::kInspecting, LoadState::kPreparing, LoadState::kLoading}) {
    machine_ = Machine(MachineOptions());
    machine_.AddJob(TwoNodes(), &ignored_);
    DriveTo(state);
    EXPECT_THAT(SentTo<CancelLoad>(Apply(SessionClosed{2, "its stream closed"})), ElementsAre(1));
    EXPECT_EQ(ReasonOf(load().failure), "AGENT_LOST");
    EXPECT_THAT(load().failure.message(), HasSubstr("node b was lost: its stream closed"));
  }
}

TEST_F(MachineTest, ThreeMissedHeartbeatsLoseAnAgent) {
  DriveTo(LoadState::kLoading);
  steady_ += absl::Seconds(15);
  Apply(Heartbeat{1});
  EXPECT_THAT(Only<EndSession>(Apply(Tick{})), IsEmpty());
  steady_ += absl::Seconds(1);
  const auto ended = Only<EndSession>(Apply(Tick{}));
  ASSERT_THAT(ended, SizeIs(1));
  EXPECT_EQ(ended[0].session, 2);
  EXPECT_THAT(load().failure.message(), HasSubstr("node b was lost: it was silent for 15s"));
}

TEST_F(MachineTest, ASecondAgentOfAConnectedNodeIsRefusedAndHarmsNothing) {
  DriveTo(LoadState::kLoading);
  steady_ += absl::Seconds(15);  // the last moment in which the first one counts as there
  const auto out = Register("b", 3, {{"loads/other", 1}}, 2);
  EXPECT_THAT(out, SizeIs(1));
  const auto ended = Only<EndSession>(out);
  ASSERT_THAT(ended, SizeIs(1));
  EXPECT_EQ(ended[0].session, 3);
  EXPECT_THAT(ended[0].status,
              StatusIs(absl::StatusCode::kAlreadyExists,
                       HasSubstr("another agent named b is connected; give this one another "
                                 "--node")));
  EXPECT_EQ(ReasonOf(ended[0].status), "ALREADY_EXISTS");
  EXPECT_EQ(load().state, LoadState::kLoading);
  EXPECT_EQ(machine_.agents().at("b").session, 2);
  // The end of the refused stream is not the end of the node.
  EXPECT_THAT(Apply(SessionClosed{3, "refused"}), IsEmpty());
  EXPECT_EQ(load().state, LoadState::kLoading);
}

TEST_F(MachineTest, ARestartedAgentIsTakenOnceItsOldStreamClosed) {
  DriveTo(LoadState::kReady);
  Apply(SessionClosed{2, "killed"});
  EXPECT_THAT(Only<EndSession>(Register("b", 3, {}, 2)), IsEmpty());
  EXPECT_EQ(machine_.agents().at("b").session, 3);
}

TEST_F(MachineTest, AnotherStreamOfTheSameAgentReplacesItsOld) {
  DriveTo(LoadState::kLoading);
  const auto ended = Only<EndSession>(Register("b", 3, {}, 1));
  ASSERT_THAT(ended, SizeIs(1));
  EXPECT_EQ(ended[0].session, 2);
  EXPECT_THAT(load().failure.message(), HasSubstr("its stream was replaced"));
}

TEST_F(MachineTest, ARestartedAgentEndsItsSilentStreamAndFailsItsLoads) {
  DriveTo(LoadState::kLoading);
  steady_ += absl::Seconds(16);
  const auto out = Register("b", 3, {}, 2);
  EXPECT_THAT(Only<EndSession>(out), SizeIs(1));
  EXPECT_THAT(load().failure.message(), HasSubstr("its agent restarted"));
  // What the old stream still says is nobody's word.
  Apply(SessionClosed{2, "late"});
  EXPECT_EQ(machine_.agents().at("b").session, 3);
}

TEST_F(MachineTest, PendingEndsNamingWhatIsThere) {
  Register("a", 1);
  Create();
  After(absl::Seconds(61));
  EXPECT_EQ(ReasonOf(load().failure), "NOT_ENOUGH_AGENTS");
  EXPECT_THAT(load().failure.message(), HasSubstr("the agents of a, b; connected: a"));
}

TEST_F(MachineTest, AStageThatDoesNotEndNamesTheNodesWaitedFor) {
  DriveTo(LoadState::kPreparing);
  Apply(PlanReport{1, kLoad, 7, absl::OkStatus(), kDigest});
  After(absl::Seconds(65));
  EXPECT_EQ(ReasonOf(load().failure), "DEADLINE_EXCEEDED");
  EXPECT_THAT(load().failure.message(), HasSubstr("(PREPARING) waited 1m for the agents"));
  EXPECT_THAT(load().failure.message(), HasSubstr("of node b;"));
}

TEST_F(MachineTest, ProgressKeepsALoadAlive) {
  DriveTo(LoadState::kLoading);
  for (int i = 1; i <= 5; ++i) {
    After(absl::Seconds(50));
    ProgressReport report{1, kLoad, 7, {}};
    report.progress.bytes_read = i;
    Apply(report);
  }
  EXPECT_EQ(load().state, LoadState::kLoading);
  EXPECT_EQ(load().nodes[0].bytes_read, 5);
  After(absl::Seconds(75));
  EXPECT_EQ(ReasonOf(load().failure), "DEADLINE_EXCEEDED");
}

TEST_F(MachineTest, RendezvousEntriesGoToTheOtherAgents) {
  DriveTo(LoadState::kLoading);
  const auto out = Apply(RendezvousEntry{2, kLoad, 7, "key", "value"});
  EXPECT_THAT(SentTo<RelayEntry>(out), ElementsAre(1));
  EXPECT_THAT(Apply(RendezvousEntry{2, kLoad, 8, "key", "value"}), IsEmpty());
}

TEST_F(MachineTest, CancelEndsALoadOnce) {
  DriveTo(LoadState::kLoading);
  std::vector<Command> out;
  ASSERT_THAT(machine_.CancelLoadByName(kLoad, Now(), &out), IsOk());
  EXPECT_THAT(SentTo<CancelLoad>(out), ElementsAre(1, 2));
  EXPECT_EQ(load().state, LoadState::kCancelled);
  out.clear();
  ASSERT_THAT(machine_.CancelLoadByName(kLoad, Now(), &out), IsOk());
  EXPECT_THAT(out, IsEmpty());
  EXPECT_EQ(machine_.CancelLoadByName("loads/x", Now(), &out).code(), absl::StatusCode::kNotFound);
}

TEST_F(MachineTest, ShardsOfOtherRanksAreABug) {
  DriveTo(LoadState::kLoading);
  Finish(2, {1, 2});
  EXPECT_THAT(load().failure,
              StatusIs(absl::StatusCode::kInternal, HasSubstr("ranks 1,2, it holds ranks 2,3")));
}

TEST_F(MachineTest, AnInspectionCarriesWhenItMustBeDone) {
  Register("a", 1);
  Register("b", 2);
  steady_ = absl::Seconds(100);
  const auto deadline_of = [](const std::vector<Command>& commands) {
    return std::get<InspectCheckpoint>(Only<Send>(commands).at(0).message).deadline;
  };
  EXPECT_EQ(deadline_of(Create()), absl::Seconds(160));
  Load dry_run;
  dry_run.name = "loads/dry";
  dry_run.job = *machine_.GetJob("jobs/j");
  dry_run.plan_only = true;
  dry_run.caller_deadline = absl::Seconds(103);
  std::vector<Command> out;
  machine_.AddLoad(std::move(dry_run), Now(), &out);
  EXPECT_EQ(deadline_of(out), absl::Seconds(103));
}

TEST_F(MachineTest, TheAgentsOwnErrorOfAnInspectionComesFirst) {
  DriveTo(LoadState::kInspecting);
  After(absl::Seconds(65));  // the stage_timeout that the agent has, and a little more
  EXPECT_EQ(load().state, LoadState::kInspecting);
  Apply(ManifestReport{1, kLoad, 7, absl::DeadlineExceededError("read /ckpt/x: too slow"), ""});
  EXPECT_THAT(load().failure,
              StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("node a: read /ckpt/x")));
}

TEST_F(MachineTest, AJobHasOneActiveLoad) {
  DriveTo(LoadState::kLoading);
  EXPECT_THAT(machine_.CheckNewLoad("jobs/j"),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("loads/l of this job is")));
  EXPECT_EQ(machine_.CheckNewLoad("jobs/x").code(), absl::StatusCode::kNotFound);
}

TEST_F(MachineTest, OnlyACancelledJobIsDeletedWithItsLoads) {
  DriveTo(LoadState::kLoading);
  EXPECT_EQ(machine_.CheckDeleteJob("jobs/j").status().code(),
            absl::StatusCode::kFailedPrecondition);
  ASSERT_THAT(machine_.CancelJob("jobs/j", Now(), &ignored_), IsOk());
  ZC_ASSERT_OK_AND_ASSIGN(const auto loads, machine_.CheckDeleteJob("jobs/j"));
  EXPECT_THAT(loads, ElementsAre(kLoad));
  machine_.RemoveJob("jobs/j");
  EXPECT_EQ(machine_.GetLoad(kLoad).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(MachineTest, ADryRunEndsWithThePlan) {
  Register("a", 1);
  Register("b", 2);
  EXPECT_THAT(SentTo<InspectCheckpoint>(Create(kLoad, 7, true)), ElementsAre(1));
  Apply(ManifestReport{1, kLoad, 7, absl::OkStatus(), "manifest"});
  const auto out = Compiled();
  EXPECT_THAT(Only<Send>(out), IsEmpty());
  EXPECT_THAT(Only<PersistLoad>(out), IsEmpty());
  EXPECT_EQ(load().state, LoadState::kReady);
  machine_.RemovePlanOnly(kLoad, Now(), &ignored_);
  EXPECT_EQ(machine_.GetLoad(kLoad).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(MachineTest, ARefusedPlanKeepsItsReport) {
  Register("a", 1);
  Register("b", 2);
  Create();
  Apply(ManifestReport{1, kLoad, 7, absl::OkStatus(), "manifest"});
  Compiled(WithReason(absl::FailedPreconditionError("missing"), "WEIGHTS_INCOMPLETE"));
  EXPECT_EQ(load().state, LoadState::kFailed);
  EXPECT_TRUE(load().report.has_value());
}

TEST_F(MachineTest, ARepeatedRequestFindsWhatItMade) {
  Job job = TwoNodes("jobs/k");
  job.request = {"id", "body"};
  machine_.AddJob(job, &ignored_);
  ZC_ASSERT_OK_AND_ASSIGN(const std::string same, machine_.FindJobOf({"id", "body"}));
  EXPECT_EQ(same, "jobs/k");
  EXPECT_THAT(machine_.FindJobOf({"id", "other"}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("another body")));
  ZC_ASSERT_OK_AND_ASSIGN(const std::string fresh, machine_.FindJobOf({"new", "body"}));
  EXPECT_EQ(fresh, "");
}

TEST_F(MachineTest, ARestartFailsWhatWasRunningAndKeepsWhatWasReady) {
  DriveTo(LoadState::kLoading);
  Load running = load();
  Finish(2, {3, 2});
  Finish(1, {0, 1});
  Load ready = load();
  ready.name = "loads/ready";
  Machine restarted{MachineOptions()};
  restarted.RestoreJob(TwoNodes());
  std::vector<Command> out;
  restarted.RestoreLoad(running, &out);
  restarted.RestoreLoad(ready, &out);
  EXPECT_THAT(Only<PersistLoad>(out), SizeIs(1));
  EXPECT_THAT((*restarted.GetLoad(kLoad))->failure.message(), HasSubstr("create a new load"));
  EXPECT_EQ((*restarted.GetLoad("loads/ready"))->state, LoadState::kReady);
}

TEST(PlaceRanks, GivesTheFirstNodesTheRemainder) {
  EXPECT_THAT(PlaceRanks(5, 2), ElementsAre(0, 0, 0, 1, 1));
  EXPECT_THAT(PlaceRanks(2, 2), ElementsAre(0, 1));
}

}  // namespace
}  // namespace zerocast::jobs
