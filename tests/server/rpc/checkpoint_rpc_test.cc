// CheckpointService over the wire; agents are played.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "server/base/errors.h"
#include "tests/server/rpc/checkpoint_fixture.h"
#include "tests/temp_dir.h"

namespace zerocast {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

template <typename Checkpoints>
std::vector<std::string> Tags(const Checkpoints& checkpoints) {
  std::vector<std::string> tags;
  for (const v1::Checkpoint& checkpoint : checkpoints) tags.push_back(checkpoint.tag());
  return tags;
}

TEST_F(CheckpointTest, RegistersWhatAnAgentFound) {
  folders_.Put(kPath, FakeFolders::Complete(100));
  v1::RegisterCheckpointRequest request = Request("global_step100");
  request.mutable_checkpoint()->set_path(std::string(kPath) + "//");
  request.mutable_checkpoint()->set_step(100);
  request.mutable_checkpoint()->set_pinned(true);
  ZC_ASSERT_OK_AND_ASSIGN(const v1::Checkpoint made, Register(request));
  EXPECT_THAT(made.name(), HasSubstr("checkpoints/"));
  EXPECT_EQ(made.job(), job_);
  EXPECT_EQ(made.path(), kPath);
  EXPECT_EQ(made.step(), 100);
  EXPECT_TRUE(made.complete());
  EXPECT_EQ(made.state(), v1::CHECKPOINT_STATE_COMPLETE);
  EXPECT_TRUE(made.pinned());
  EXPECT_EQ(made.digest(), std::string(32, 'a'));
  EXPECT_EQ(made.world_size(), 2);
  EXPECT_EQ(made.zero_stage(), 3);
  EXPECT_EQ(made.num_files(), 4);
  EXPECT_EQ(made.num_bytes(), 1000);
  EXPECT_EQ(made.save_time().seconds(), 1700000100);
  EXPECT_EQ(made.looked_by(), "a");
  EXPECT_GT(made.create_time().seconds(), 0);
  ZC_ASSERT_OK_AND_ASSIGN(const v1::Checkpoint read, Get(made.name()));
  EXPECT_EQ(read.SerializeAsString(), made.SerializeAsString());
}

TEST_F(CheckpointTest, WithoutATagItIsTheOneThatLatestNames) {
  folders_.Put(kPath, FakeFolders::Complete(7));
  folders_.Put(kPath, FakeFolders::Complete(8));
  EXPECT_THAT(Register(""), StatusIs(kInvalid, HasSubstr("no file latest in /ckpt/run")));
  folders_.PutLatest(kPath, "global_step7");
  ZC_ASSERT_OK_AND_ASSIGN(const v1::Checkpoint made, Register(""));
  EXPECT_EQ(made.tag(), "global_step7");
}

TEST_F(CheckpointTest, ATornOneIsRegisteredAsSuchAndCompleteOnceItIs) {
  folders_.Put(kPath, FakeFolders::Torn(100));
  ZC_ASSERT_OK_AND_ASSIGN(const v1::Checkpoint torn, Register("global_step100"));
  EXPECT_FALSE(torn.complete());
  EXPECT_EQ(torn.state(), v1::CHECKPOINT_STATE_INCOMPLETE);
  EXPECT_THAT(torn.problem().message(), HasSubstr("optim_states.pt of global_step100"));
  EXPECT_EQ(torn.problem().reason(), "CHECKPOINT_CORRUPT");
  EXPECT_EQ(torn.digest(), "");
  folders_.Put(kPath, FakeFolders::Complete(100));
  EXPECT_FALSE(Get(torn.name())->complete());
  ZC_ASSERT_OK_AND_ASSIGN(const v1::Checkpoint whole, Get(torn.name(), /*verify=*/true));
  EXPECT_TRUE(whole.complete());
  EXPECT_FALSE(whole.has_problem());
  EXPECT_EQ(whole.digest(), std::string(32, 'a'));
  EXPECT_NE(whole.etag(), torn.etag());
}

TEST_F(CheckpointTest, AChangedOneIsNamed) {
  RegisterSteps({100});
  folders_.Put(kPath, FakeFolders::Complete(100, 'b'));
  v1::ListCheckpointsRequest list;
  list.set_verify(true);
  ZC_ASSERT_OK_AND_ASSIGN(const auto listed, Call(checkpoints_, &Stub::ListCheckpoints, list));
  ASSERT_EQ(listed.checkpoints_size(), 1);
  EXPECT_EQ(listed.checkpoints(0).state(), v1::CHECKPOINT_STATE_CHANGED);
  EXPECT_FALSE(listed.checkpoints(0).complete());
  EXPECT_THAT(listed.checkpoints(0).problem().message(),
              HasSubstr("/ckpt/run/global_step100 with what was registered"));
  EXPECT_EQ(listed.checkpoints(0).problem().reason(), "CHECKPOINT_CHANGED");
  // It stays so without a further look.
  EXPECT_EQ(Get(listed.checkpoints(0).name())->state(), v1::CHECKPOINT_STATE_CHANGED);
  // Registered again, it is the job's new one.
  ZC_ASSERT_OK_AND_ASSIGN(const v1::Checkpoint again, Register("global_step100"));
  EXPECT_TRUE(again.complete());
  EXPECT_THAT(Get(listed.checkpoints(0).name()),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("took its place")));
}

TEST_F(CheckpointTest, WhatIsGoneIsSeenWhenItIsLookedAt) {
  RegisterSteps({100});
  ZC_ASSERT_OK_AND_ASSIGN(const auto latest, LatestOfJob());
  folders_.Remove(kPath, "global_step100");
  ZC_ASSERT_OK_AND_ASSIGN(v1::Checkpoint gone, Get(latest.checkpoint().name(), true));
  EXPECT_EQ(gone.state(), v1::CHECKPOINT_STATE_GONE);
  EXPECT_THAT(gone.problem().message(), HasSubstr("there is no folder global_step100"));
  EXPECT_EQ(gone.step(), 100);
  folders_.RemoveFolder(kPath);
  ZC_ASSERT_OK_AND_ASSIGN(gone, Get(latest.checkpoint().name(), true));
  EXPECT_EQ(gone.state(), v1::CHECKPOINT_STATE_GONE);
  EXPECT_THAT(gone.problem().message(), HasSubstr("look at /ckpt/run on node a: no such folder"));
}

TEST_F(CheckpointTest, AllWrongFieldsComeAtOnce) {
  v1::RegisterCheckpointRequest request;
  request.mutable_checkpoint()->set_path("ckpt/../x");
  request.mutable_checkpoint()->set_tag("a/b");
  request.mutable_checkpoint()->set_step(-1);
  request.set_request_id(std::string(129, 'x'));
  const absl::Status status = Register(request).status();
  EXPECT_THAT(status, StatusIs(kInvalid, HasSubstr("checkpoint.tag")));
  std::vector<std::string> fields;
  for (const FieldViolation& violation : ViolationsOf(status)) fields.push_back(violation.field);
  EXPECT_THAT(fields, ElementsAre("checkpoint.job", "checkpoint.path", "checkpoint.tag",
                                  "checkpoint.step", "request_id"));
}

TEST_F(CheckpointTest, WhatTheCallerExpectsMustBeWhatIsThere) {
  folders_.Put(kPath, FakeFolders::Complete(100));
  v1::RegisterCheckpointRequest request = Request("global_step100");
  request.mutable_checkpoint()->set_step(90);
  request.mutable_checkpoint()->set_world_size(4);
  request.mutable_checkpoint()->set_digest("x");
  const absl::Status status = Register(request).status();
  EXPECT_THAT(status, StatusIs(kInvalid, HasSubstr("was 90, but its files say 100")));
  EXPECT_EQ(ViolationsOf(status).size(), 3u);
}

TEST_F(CheckpointTest, WhatIsNotThereIsNotRegistered) {
  folders_.Put(kPath, FakeFolders::Complete(1));
  EXPECT_THAT(Register("global_step2"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("no folder global_step2")));
  v1::RegisterCheckpointRequest request = Request("global_step1");
  request.mutable_checkpoint()->set_path("/elsewhere");
  const absl::Status status = Register(request).status();
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kNotFound, HasSubstr("/elsewhere on node a")));
  EXPECT_EQ(ReasonOf(status), "CHECKPOINT_NOT_FOUND");
  request = Request("global_step1");
  request.mutable_checkpoint()->set_job("jobs/none");
  EXPECT_THAT(Register(request), StatusIs(absl::StatusCode::kNotFound, HasSubstr("jobs/none")));
  ZC_ASSERT_OK_AND_ASSIGN(const auto listed,
                          Call(checkpoints_, &Stub::ListCheckpoints, v1::ListCheckpointsRequest()));
  EXPECT_EQ(listed.checkpoints_size(), 0);
}

TEST_F(CheckpointTest, RequestIdAndValidateOnlyAreAsForJobs) {
  folders_.Put(kPath, FakeFolders::Complete(100));
  v1::RegisterCheckpointRequest request = Request("global_step100");
  request.set_validate_only(true);
  request.set_request_id("r");
  ZC_ASSERT_OK_AND_ASSIGN(const v1::Checkpoint tried, Register(request));
  EXPECT_EQ(tried.name(), "");
  EXPECT_TRUE(tried.complete());
  request.set_validate_only(false);
  ZC_ASSERT_OK_AND_ASSIGN(const v1::Checkpoint made, Register(request));
  folders_.Put(kPath, FakeFolders::Complete(100, 'b'));
  // Without a look.
  agent_.reset();
  ZC_ASSERT_OK_AND_ASSIGN(const v1::Checkpoint again, Register(request));
  EXPECT_EQ(again.SerializeAsString(), made.SerializeAsString());
  request.mutable_checkpoint()->set_tag("global_step200");
  EXPECT_THAT(Register(request), StatusIs(kInvalid, HasSubstr("was given with another body")));
}

TEST_F(CheckpointTest, ListsByPages) {
  RegisterSteps({1, 2, 3, 4, 5});
  v1::ListCheckpointsRequest request;
  request.set_job(job_);
  request.set_page_size(2);
  std::vector<std::string> tags;
  int pages = 0;
  do {
    ZC_ASSERT_OK_AND_ASSIGN(const auto page, Call(checkpoints_, &Stub::ListCheckpoints, request));
    for (const v1::Checkpoint& checkpoint : page.checkpoints()) tags.push_back(checkpoint.tag());
    request.set_page_token(page.next_page_token());
    // Looking changes no page.
    request.set_verify(true);
    ++pages;
  } while (!request.page_token().empty());
  EXPECT_THAT(tags, ElementsAre("global_step5", "global_step4", "global_step3", "global_step2",
                                "global_step1"));
  EXPECT_EQ(pages, 3);
  ZC_ASSERT_OK_AND_ASSIGN(const auto page, [&] {
    request.set_page_token("");
    return Call(checkpoints_, &Stub::ListCheckpoints, request);
  }());
  request.set_page_token(page.next_page_token());
  request.set_path(kPath);
  EXPECT_THAT(Call(checkpoints_, &Stub::ListCheckpoints, request),
              StatusIs(kInvalid, HasSubstr("another filter")));
}

TEST_F(CheckpointTest, TheNewestIsNeverATornOneWhateverLatestSays) {
  RegisterSteps({10, 20});
  folders_.PutLatest(kPath, "global_step20");
  ZC_ASSERT_OK_AND_ASSIGN(auto latest, LatestOfJob());
  EXPECT_EQ(latest.checkpoint().tag(), "global_step20");
  EXPECT_FALSE(latest.differs());
  EXPECT_EQ(latest.difference(), "");
  // The training dies while it writes the next one, which is registered and named by latest.
  folders_.Put(kPath, FakeFolders::Torn(30));
  ASSERT_THAT(Register("global_step30"), IsOk());
  folders_.PutLatest(kPath, "global_step30");
  ZC_ASSERT_OK_AND_ASSIGN(latest, LatestOfJob());
  EXPECT_EQ(latest.checkpoint().tag(), "global_step20");
  EXPECT_EQ(latest.latest_tag(), "global_step30");
  EXPECT_TRUE(latest.differs());
  EXPECT_THAT(latest.difference(),
              HasSubstr("latest names global_step30, which is not complete: read optim_states.pt"));
  EXPECT_THAT(Tags(latest.passed_over()), ElementsAre("global_step30"));
  // One that was complete is torn by now.
  folders_.Put(kPath, FakeFolders::Torn(20));
  ZC_ASSERT_OK_AND_ASSIGN(latest, LatestOfJob());
  EXPECT_EQ(latest.checkpoint().tag(), "global_step10");
  EXPECT_THAT(Tags(latest.passed_over()), ElementsAre("global_step30", "global_step20"));
  folders_.Put(kPath, FakeFolders::Torn(10));
  EXPECT_THAT(LatestOfJob(), StatusIs(absl::StatusCode::kNotFound,
                                      HasSubstr("none of 3 is complete; global_step30: read")));
}

TEST_F(CheckpointTest, AFolderIsSearchedForUnregisteredOnesToo) {
  RegisterSteps({10, 20});
  folders_.Put(kPath, FakeFolders::Complete(20, 'b'));
  folders_.Put(kPath, FakeFolders::Complete(15));
  folders_.PutLatest(kPath, "global_step20");
  ZC_ASSERT_OK_AND_ASSIGN(const auto latest, LatestIn(kPath));
  EXPECT_EQ(latest.checkpoint().tag(), "global_step15");
  EXPECT_EQ(latest.checkpoint().name(), "");
  EXPECT_TRUE(latest.checkpoint().complete());
  EXPECT_THAT(latest.difference(), HasSubstr("with what was registered: its files are others"));
  EXPECT_THAT(Tags(latest.passed_over()), ElementsAre("global_step20"));
  // Of the job only what it registered.
  ZC_ASSERT_OK_AND_ASSIGN(const auto of_job, LatestOfJob());
  EXPECT_EQ(of_job.checkpoint().tag(), "global_step10");
  EXPECT_THAT(LatestIn("/nowhere"), StatusIs(absl::StatusCode::kNotFound, HasSubstr("/nowhere")));
}

TEST_F(CheckpointTest, ExactlyOneOfJobAndPathIsAsked) {
  const absl::Status none =
      Call(checkpoints_, &Stub::FindLatestCheckpoint, v1::FindLatestCheckpointRequest()).status();
  EXPECT_THAT(none, StatusIs(kInvalid, HasSubstr("exactly one")));
  EXPECT_THAT(LatestOfJob(), StatusIs(absl::StatusCode::kNotFound, HasSubstr("there is none")));
}

TEST_F(CheckpointTest, PrunesByCountWithADryRun) {
  RegisterSteps({10, 20, 30, 40});
  v1::ListCheckpointsRequest list;
  ZC_ASSERT_OK_AND_ASSIGN(auto listed, Call(checkpoints_, &Stub::ListCheckpoints, list));
  v1::PinCheckpointRequest pin;
  pin.set_name(listed.checkpoints(3).name());
  ZC_ASSERT_OK_AND_ASSIGN(const auto pinned, Call(checkpoints_, &Stub::PinCheckpoint, pin));
  EXPECT_TRUE(pinned.checkpoint().pinned());
  ZC_ASSERT_OK_AND_ASSIGN(const auto dry, Prune(1, /*validate_only=*/true));
  EXPECT_THAT(Tags(dry.pruned()), ElementsAre("global_step20", "global_step30"));
  EXPECT_THAT(Tags(dry.kept()), ElementsAre("global_step10", "global_step40"));
  ZC_ASSERT_OK_AND_ASSIGN(listed, Call(checkpoints_, &Stub::ListCheckpoints, list));
  EXPECT_EQ(listed.checkpoints_size(), 4);
  ZC_ASSERT_OK_AND_ASSIGN(const auto pruned, Prune(1));
  EXPECT_THAT(Tags(pruned.pruned()), ElementsAre("global_step20", "global_step30"));
  ZC_ASSERT_OK_AND_ASSIGN(listed, Call(checkpoints_, &Stub::ListCheckpoints, list));
  EXPECT_THAT(Tags(listed.checkpoints()), ElementsAre("global_step40", "global_step10"));
  v1::UnpinCheckpointRequest unpin;
  unpin.set_name(pin.name());
  ASSERT_THAT(Call(checkpoints_, &Stub::UnpinCheckpoint, unpin), IsOk());
  ZC_ASSERT_OK_AND_ASSIGN(const auto last, Prune(1));
  EXPECT_THAT(Tags(last.pruned()), ElementsAre("global_step10"));
}

TEST_F(CheckpointTest, PruningLooksFirst) {
  RegisterSteps({10, 20});
  // It was complete when it was registered: were that believed, nothing whole would be left.
  folders_.Put(kPath, FakeFolders::Torn(20));
  ZC_ASSERT_OK_AND_ASSIGN(const auto pruned, Prune(1));
  EXPECT_THAT(pruned.pruned(), IsEmpty());
  // A node that does not see the folder proves nothing.
  folders_.RemoveFolder(kPath);
  EXPECT_THAT(Prune(1), StatusIs(absl::StatusCode::kNotFound, HasSubstr("on node a")));
}

TEST_F(CheckpointTest, PruneChecksItsFields) {
  v1::PruneCheckpointsRequest request;
  request.mutable_older_than()->set_seconds(-1);
  const absl::Status status = Call(checkpoints_, &Stub::PruneCheckpoints, request).status();
  EXPECT_THAT(status, StatusIs(kInvalid, HasSubstr("keep_last")));
  EXPECT_EQ(ViolationsOf(status).size(), 3u);
  // Too young.
  RegisterSteps({10, 20});
  request.set_job(job_);
  request.set_keep_last(1);
  request.mutable_older_than()->set_seconds(3600);
  ZC_ASSERT_OK_AND_ASSIGN(const auto pruned, Call(checkpoints_, &Stub::PruneCheckpoints, request));
  EXPECT_THAT(pruned.pruned(), IsEmpty());
  EXPECT_EQ(pruned.kept_size(), 2);
}

TEST_F(CheckpointTest, DeleteForgetsOneThatIsNotPinned) {
  RegisterSteps({10});
  ZC_ASSERT_OK_AND_ASSIGN(const auto latest, LatestOfJob());
  v1::PinCheckpointRequest pin;
  pin.set_name(latest.checkpoint().name());
  ASSERT_THAT(Call(checkpoints_, &Stub::PinCheckpoint, pin), IsOk());
  v1::DeleteCheckpointRequest remove;
  remove.set_name(pin.name());
  EXPECT_THAT(Call(checkpoints_, &Stub::DeleteCheckpoint, remove),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("it is pinned")));
  v1::UnpinCheckpointRequest unpin;
  unpin.set_name(pin.name());
  ASSERT_THAT(Call(checkpoints_, &Stub::UnpinCheckpoint, unpin), IsOk());
  remove.set_etag("other");
  EXPECT_THAT(Call(checkpoints_, &Stub::DeleteCheckpoint, remove),
              StatusIs(absl::StatusCode::kAborted, HasSubstr("etag")));
  remove.set_etag(latest.checkpoint().etag());
  // Nobody has to be there for that.
  agent_.reset();
  EXPECT_THAT(Call(checkpoints_, &Stub::DeleteCheckpoint, remove), IsOk());
  EXPECT_THAT(Get(pin.name()), StatusIs(absl::StatusCode::kNotFound, HasSubstr(pin.name())));
}

TEST_F(CheckpointTest, ARestartedServerKnowsThem) {
  TempDir dir;
  Server::Options options;
  options.store = "sqlite:" + dir.File("state.db");
  const auto restart = [&] {
    agent_.reset();
    if (server_ != nullptr) server_->Shutdown();
    server_.reset();
    StartServer(options);
    agent_ = std::make_unique<FolderAgent>(channel_, "a", &folders_);
  };
  restart();
  job_ = CreateJob(TwoNodeSpec()).job().name();
  RegisterSteps({10, 20});
  ZC_ASSERT_OK_AND_ASSIGN(const auto before, LatestOfJob());
  restart();
  ZC_ASSERT_OK_AND_ASSIGN(const v1::Checkpoint after, Get(before.checkpoint().name()));
  EXPECT_EQ(after.SerializeAsString(), before.checkpoint().SerializeAsString());
  // The digest is the one of then.
  folders_.Put(kPath, FakeFolders::Complete(20, 'b'));
  ZC_ASSERT_OK_AND_ASSIGN(const auto latest, LatestOfJob());
  EXPECT_EQ(latest.checkpoint().tag(), "global_step10");
  EXPECT_EQ(latest.passed_over(0).state(), v1::CHECKPOINT_STATE_CHANGED);
}

}  // namespace
}  // namespace zerocast
