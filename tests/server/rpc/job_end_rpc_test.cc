// How jobs end, over real gRPC and a real clock: finished, and with a lease that nobody renews.
#include <string>

#include "absl/time/clock.h"
#include "kernels/base/status_macros.h"
#include "tests/server/rpc/server_fixture.h"
#include "tests/temp_dir.h"

namespace zerocast {
namespace {

using ::testing::HasSubstr;

constexpr auto kWrongState = absl::StatusCode::kFailedPrecondition;

class JobEndTest : public ServerTest {
 protected:
  absl::StatusOr<v1::Job> CreateLeased(absl::Duration lease, const std::string& request_id = "") {
    v1::CreateJobRequest request;
    *request.mutable_spec() = TwoNodeSpec();
    request.set_request_id(request_id);
    request.mutable_lease()->set_seconds(absl::ToInt64Seconds(lease));
    ZC_ASSIGN_OR_RETURN(v1::CreateJobResponse response,
                        Call(jobs_, &v1::JobService::Stub::CreateJob, request));
    return std::move(*response.mutable_job());
  }
  absl::StatusOr<v1::Job> Get(const std::string& name) {
    v1::GetJobRequest request;
    request.set_name(name);
    ZC_ASSIGN_OR_RETURN(const v1::GetJobResponse response,
                        Call(jobs_, &v1::JobService::Stub::GetJob, request));
    return response.job();
  }
  absl::StatusOr<v1::Job> Finish(const std::string& name) {
    v1::FinishJobRequest request;
    request.set_name(name);
    ZC_ASSIGN_OR_RETURN(const v1::FinishJobResponse response,
                        Call(jobs_, &v1::JobService::Stub::FinishJob, request));
    return response.job();
  }
  absl::StatusOr<v1::Job> Renew(const std::string& name) {
    v1::RenewJobLeaseRequest request;
    request.set_name(name);
    ZC_ASSIGN_OR_RETURN(const v1::RenewJobLeaseResponse response,
                        Call(jobs_, &v1::JobService::Stub::RenewJobLease, request));
    return response.job();
  }
  // The last state that a watch of the job shows.
  v1::Job WatchJob(const std::string& name) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    v1::WatchJobRequest request;
    request.set_name(name);
    const auto reader = jobs_->WatchJob(&context, request);
    v1::WatchJobResponse response;
    v1::Job last;
    while (reader->Read(&response)) last = response.job();
    EXPECT_THAT(FromGrpc(reader->Finish()), IsOk());
    return last;
  }
};

TEST_F(JobEndTest, AFinishedJobIsDoneForGood) {
  const std::string job = CreateJob(TwoNodeSpec()).job().name();
  ZC_ASSERT_OK_AND_ASSIGN(const v1::Job done, Finish(job));
  EXPECT_EQ(done.state(), v1::JOB_STATE_DONE);
  EXPECT_GE(done.end_time().seconds(), done.create_time().seconds());
  EXPECT_THAT(Finish(job), IsOk());
  EXPECT_EQ(WatchJob(job).state(), v1::JOB_STATE_DONE);
  v1::CreateLoadRequest load;
  load.set_job(job);
  EXPECT_THAT(Call(loads_, &v1::LoadService::Stub::CreateLoad, load),
              StatusIs(kWrongState, HasSubstr("the job is DONE")));
  v1::CancelJobRequest cancel;
  cancel.set_name(job);
  ZC_ASSERT_OK_AND_ASSIGN(const v1::CancelJobResponse still,
                          Call(jobs_, &v1::JobService::Stub::CancelJob, cancel));
  EXPECT_EQ(still.job().etag(), done.etag());
  EXPECT_THAT(Finish("jobs/none"), StatusIs(absl::StatusCode::kNotFound, HasSubstr("jobs/none")));
}

TEST_F(JobEndTest, AJobIsNotFinishedWhileALoadOfItRuns) {
  const std::string job = CreateJob(TwoNodeSpec()).job().name();
  const std::string load = CreateLoad(job).name();
  EXPECT_THAT(Finish(job), StatusIs(kWrongState, HasSubstr(load)));
}

TEST_F(JobEndTest, AWrongLeaseIsNamedBesideWhatElseIsWrong) {
  v1::CreateJobRequest request;
  request.mutable_lease()->set_nanos(1000);
  const absl::Status status = Call(jobs_, &v1::JobService::Stub::CreateJob, request).status();
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("1s to 24h")));
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("checkpoint_path")));
  EXPECT_THAT(CreateLeased(absl::Hours(25)).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("lease")));
}

TEST_F(JobEndTest, AJobWhoseOwnerIsGoneExpiresAndTheWatchEnds) {
  const absl::Time start = absl::Now();
  ZC_ASSERT_OK_AND_ASSIGN(const v1::Job job, CreateLeased(absl::Seconds(1)));
  EXPECT_EQ(job.lease().seconds(), 1);
  EXPECT_EQ(WatchJob(job.name()).state(), v1::JOB_STATE_EXPIRED);
  EXPECT_GE(absl::Now() - start, absl::Seconds(1));
  EXPECT_THAT(Renew(job.name()), StatusIs(kWrongState, HasSubstr("EXPIRED")));
  EXPECT_THAT(Finish(job.name()), StatusIs(kWrongState, HasSubstr("EXPIRED")));
}

TEST_F(JobEndTest, ARenewedLeaseKeepsTheJobAndIsNoChangeOfIt) {
  ZC_ASSERT_OK_AND_ASSIGN(const v1::Job job, CreateLeased(absl::Seconds(2), "id"));
  for (int k = 0; k < 8; ++k) {
    absl::SleepFor(absl::Milliseconds(400));
    ZC_ASSERT_OK_AND_ASSIGN(const v1::Job renewed, Renew(job.name()));
    EXPECT_EQ(renewed.etag(), job.etag());
  }
  ZC_ASSERT_OK_AND_ASSIGN(const v1::Job same, CreateLeased(absl::Seconds(2), "id"));
  EXPECT_EQ(same.name(), job.name());
  EXPECT_THAT(CreateLeased(absl::Seconds(3), "id").status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("another body")));
  EXPECT_THAT(Renew(CreateJob(TwoNodeSpec()).job().name()),
              StatusIs(kWrongState, HasSubstr("has none")));
}

TEST_F(JobEndTest, ARestartKeepsHowAJobEndedAndStartsItsLeaseAnew) {
  const TempDir folder;
  Server::Options options;
  options.store = "sqlite:" + folder.path() + "/state.db";
  StartServer(options);
  ZC_ASSERT_OK_AND_ASSIGN(const v1::Job ended, CreateLeased(absl::Seconds(60)));
  ZC_ASSERT_OK_AND_ASSIGN(const v1::Job done, Finish(ended.name()));
  ZC_ASSERT_OK_AND_ASSIGN(const v1::Job left, CreateLeased(absl::Seconds(1)));
  server_.reset();
  absl::SleepFor(absl::Milliseconds(1500));
  StartServer(options);
  ZC_ASSERT_OK_AND_ASSIGN(const v1::Job same, Get(ended.name()));
  EXPECT_EQ(same.SerializeAsString(), done.SerializeAsString());
  EXPECT_THAT(Renew(left.name()), IsOk());
  EXPECT_EQ(WatchJob(left.name()).state(), v1::JOB_STATE_EXPIRED);
}

TEST_F(JobEndTest, AJobThatHadALeaseIsForgottenSomeTimeAfterItsEnd) {
  Server::Options options;
  options.keep_ended_jobs = absl::Seconds(1);
  StartServer(options);
  ZC_ASSERT_OK_AND_ASSIGN(const v1::Job job, CreateLeased(absl::Seconds(60), "id"));
  const std::string users = CreateJob(TwoNodeSpec()).job().name();
  ZC_ASSERT_OK_AND_ASSIGN(const v1::Job done, Finish(job.name()));
  EXPECT_THAT(Finish(users), IsOk());
  EXPECT_THAT(Get(job.name()), IsOk());
  const absl::Time give_up = absl::Now() + absl::Seconds(20);
  while (Get(job.name()).ok() && absl::Now() < give_up) absl::SleepFor(absl::Milliseconds(50));
  EXPECT_THAT(Get(job.name()), StatusIs(absl::StatusCode::kNotFound, HasSubstr("deleted")));
  EXPECT_THAT(Get(users), IsOk());
  ZC_ASSERT_OK_AND_ASSIGN(const v1::Job other, CreateLeased(absl::Seconds(60), "id"));
  EXPECT_NE(other.name(), job.name());
}

}  // namespace
}  // namespace zerocast
