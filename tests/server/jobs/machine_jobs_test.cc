// How jobs end: cancelled, finished, or with their lease.
#include <string>
#include <vector>

#include "server/base/errors.h"
#include "tests/server/jobs/machine_fixture.h"
#include "tests/status_matchers.h"

namespace zerocast::jobs {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr char kLeased[] = "jobs/leased";
constexpr absl::StatusCode kWrongState = absl::StatusCode::kFailedPrecondition;

class MachineJobsTest : public MachineTest {
 protected:
  void AddLeased(absl::Duration lease = absl::Seconds(30)) {
    Job job = TwoNodes(kLeased);
    job.lease = lease;
    machine_.AddJob(job, &ignored_);
    Apply(Tick{});  // which starts it
  }
  JobState StateOf(const std::string& job) const { return (*machine_.GetJob(job))->state; }
};

TEST_F(MachineJobsTest, AFinishedJobIsDoneAndWhatNobodyTookIsFreed) {
  DriveTo(LoadState::kReady);
  Apply(HandOverReport{1, kLoad, 7, 0, "shared"});
  Apply(HandOverReport{1, kLoad, 7, 1, "private"});
  std::vector<Command> out;
  ASSERT_THAT(machine_.FinishJob("jobs/j", Now(), &out), IsOk());
  EXPECT_EQ(StateOf("jobs/j"), JobState::kDone);
  EXPECT_EQ((*machine_.GetJob("jobs/j"))->end_time, Now().wall);
  EXPECT_EQ(Only<PersistJob>(out).size(), 1);
  EXPECT_EQ(Only<PersistLoad>(out).size(), 1);
  EXPECT_THAT(SentTo<CancelLoad>(out), ElementsAre(1, 2));
  EXPECT_EQ(load().state, LoadState::kReady) << "it was a success";
  EXPECT_THAT(load().shards[0].freed, IsOk()) << "the training process has it";
  EXPECT_THAT(load().shards[2].freed,
              StatusIs(absl::StatusCode::kCancelled, HasSubstr("jobs/j is done")));
}

TEST_F(MachineJobsTest, AHandOverThatIsReportedAfterTheEndCounts) {
  DriveTo(LoadState::kReady);
  ASSERT_THAT(machine_.FinishJob("jobs/j", Now(), &ignored_), IsOk());
  Apply(HandOverReport{1, kLoad, 7, 0, "shared"});
  EXPECT_EQ(load().shards[0].handed_over, "shared");
  EXPECT_THAT(load().shards[0].freed, IsOk());
}

TEST_F(MachineJobsTest, ARunningLoadIsNotFinished) {
  DriveTo(LoadState::kLoading);
  const absl::Status status = machine_.FinishJob("jobs/j", Now(), &ignored_);
  EXPECT_THAT(status, StatusIs(kWrongState, HasSubstr("loads/l of this job is LOADING")));
  EXPECT_EQ(ReasonOf(status), "WRONG_STATE");
  EXPECT_EQ(StateOf("jobs/j"), JobState::kActive);
}

TEST_F(MachineJobsTest, AJobThatIsOverStaysWhatItIs) {
  std::vector<Command> out;
  ASSERT_THAT(machine_.FinishJob("jobs/j", Now(), &ignored_), IsOk());
  ASSERT_THAT(machine_.FinishJob("jobs/j", Now(), &out), IsOk());
  ASSERT_THAT(machine_.CancelJob("jobs/j", Now(), &out), IsOk());
  EXPECT_EQ(StateOf("jobs/j"), JobState::kDone);
  EXPECT_THAT(out, IsEmpty());
  EXPECT_THAT(machine_.CheckNewLoad("jobs/j"), StatusIs(kWrongState, HasSubstr("is DONE")));
  machine_.AddJob(TwoNodes("jobs/k"), &ignored_);
  ASSERT_THAT(machine_.CancelJob("jobs/k", Now(), &ignored_), IsOk());
  EXPECT_THAT(machine_.FinishJob("jobs/k", Now(), &ignored_),
              StatusIs(kWrongState, HasSubstr("finish jobs/k: the job is CANCELLED")));
  EXPECT_THAT(machine_.CheckDeleteJob("jobs/k"), IsOk());
}

TEST_F(MachineJobsTest, AJobWhoseLeaseIsRenewedLives) {
  AddLeased();
  for (int k = 0; k < 10; ++k) {
    steady_ += absl::Seconds(29);
    ASSERT_THAT(machine_.RenewJobLease(kLeased, Now()), IsOk());
    Apply(Tick{});
  }
  EXPECT_EQ(StateOf(kLeased), JobState::kActive);
}

TEST_F(MachineJobsTest, AJobWhoseOwnerIsGoneExpiresWithItsRunningLoad) {
  AddLeased();
  Register("a", 1);
  Register("b", 2);
  Load load;
  load.name = "loads/leased";
  load.job = *machine_.GetJob(kLeased);
  load.epoch = 9;
  machine_.AddLoad(load, Now(), &ignored_);
  After(absl::Seconds(30));
  EXPECT_EQ(StateOf(kLeased), JobState::kActive);
  After(absl::Seconds(5));
  EXPECT_EQ(StateOf(kLeased), JobState::kExpired);
  EXPECT_EQ((*machine_.GetLoad("loads/leased"))->state, LoadState::kCancelled);
  EXPECT_THAT(SentTo<CancelLoad>(last_), ElementsAre(1, 2));
  EXPECT_EQ(Only<JobExpired>(last_).size(), 1);
  EXPECT_THAT(machine_.RenewJobLease(kLeased, Now()),
              StatusIs(kWrongState, HasSubstr("the job is EXPIRED")));
}

TEST_F(MachineJobsTest, TheShardsOfAnExpiredJobAreFreedAndSayWhy) {
  machine_ = Machine(MachineOptions());
  Job job = TwoNodes();
  job.lease = absl::Seconds(30);
  machine_.AddJob(job, &ignored_);
  DriveTo(LoadState::kReady);
  After(absl::Seconds(40));
  EXPECT_EQ(load().state, LoadState::kReady);
  EXPECT_THAT(load().shards[1].freed,
              StatusIs(absl::StatusCode::kCancelled,
                       HasSubstr("jobs/j expired: nobody renewed its lease of 30s")));
}

TEST_F(MachineJobsTest, AJobWithoutALeaseLivesUntilSomebodyEndsIt) {
  Register("a", 1);
  Register("b", 2);
  After(absl::Hours(1));
  EXPECT_EQ(StateOf("jobs/j"), JobState::kActive);
  EXPECT_THAT(machine_.RenewJobLease("jobs/j", Now()), StatusIs(kWrongState, HasSubstr("none")));
  EXPECT_EQ(machine_.RenewJobLease("jobs/x", Now()).code(), absl::StatusCode::kNotFound);
}

// Nobody could renew it while the server was away.
TEST_F(MachineJobsTest, ALeaseStartsAnewWithTheServer) {
  AddLeased();
  Machine next{MachineOptions()};
  next.RestoreJob(**machine_.GetJob(kLeased));
  std::vector<Command> out;
  const Moment much_later = {Now().steady + absl::Hours(5), Now().wall + absl::Hours(5)};
  next.Apply(Tick{}, much_later, &out);
  EXPECT_EQ((*next.GetJob(kLeased))->state, JobState::kActive);
  next.Apply(Tick{}, {much_later.steady + absl::Seconds(31), much_later.wall}, &out);
  EXPECT_EQ((*next.GetJob(kLeased))->state, JobState::kExpired);
}

TEST_F(MachineJobsTest, OnlyAJobThatHadALeaseIsForgotten) {
  AddLeased();
  ASSERT_THAT(machine_.FinishJob(kLeased, Now(), &ignored_), IsOk());
  ASSERT_THAT(machine_.FinishJob("jobs/j", Now(), &ignored_), IsOk());
  steady_ += absl::Hours(24);
  EXPECT_THAT(Only<ForgetJob>(Apply(Tick{})), IsEmpty());
  steady_ += absl::Seconds(1);
  const std::vector<ForgetJob> forget = Only<ForgetJob>(Apply(Tick{}));
  ASSERT_EQ(forget.size(), 1);
  EXPECT_EQ(forget[0].name, kLeased);
  // Of a server that was started anew, too.
  Machine next{MachineOptions()};
  next.RestoreJob(**machine_.GetJob(kLeased));
  std::vector<Command> out;
  next.Apply(Tick{}, Now(), &out);
  EXPECT_EQ(Only<ForgetJob>(out).size(), 1);
  machine_.RemoveJob(kLeased);
  EXPECT_THAT(Only<ForgetJob>(Apply(Tick{})), IsEmpty());
}

}  // namespace
}  // namespace zerocast::jobs
