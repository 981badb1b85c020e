// Which agent looks at a folder, and what becomes of a look that gets no answer.
#include <gtest/gtest.h>

#include <future>
#include <memory>
#include <string>

#include "absl/time/clock.h"
#include "server/base/errors.h"
#include "tests/server/rpc/checkpoint_fixture.h"

namespace zerocast {
namespace {

using ::testing::HasSubstr;

class CheckpointLooksTest : public CheckpointTest {
 protected:
  void SetUp() override {
    CheckpointTest::SetUp();
    folders_.Put(kPath, FakeFolders::Complete(1));
    agent_.reset();
    // The server hears of the stream's end a little later.
    const absl::Time give_up = absl::Now() + absl::Seconds(20);
    while (NumAgents() > 0 && absl::Now() < give_up) absl::SleepFor(absl::Milliseconds(1));
    ASSERT_EQ(NumAgents(), 0);
  }
  int NumAgents() {
    const auto listed = Call(agents_, &v1::AgentService::Stub::ListAgents, v1::ListAgentsRequest());
    return listed.ok() ? listed->agents_size() : -1;
  }
  // Registers on a thread of its own.
  std::future<absl::StatusOr<v1::Checkpoint>> Begin(absl::Duration timeout = absl::Seconds(20)) {
    return std::async(std::launch::async, [this, timeout]() -> absl::StatusOr<v1::Checkpoint> {
      auto response =
          Call(checkpoints_, &Stub::RegisterCheckpoint, Request("global_step1"), timeout);
      if (!response.ok()) return response.status();
      return std::move(*response->mutable_checkpoint());
    });
  }
};

TEST_F(CheckpointLooksTest, NothingIsCompleteThatNobodyLookedAt) {
  const absl::Status status = Register("global_step1").status();
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kUnavailable,
                               HasSubstr("the server itself sees no files")));
  EXPECT_EQ(ReasonOf(status), "NOT_ENOUGH_AGENTS");
  // An agent of an older version would never answer.
  const FakeAgent old(channel_, "a", 1, /*looks_at_folders=*/false);
  EXPECT_THAT(Register("global_step1"), StatusIs(absl::StatusCode::kUnavailable,
                                                 HasSubstr("those that are connected do not")));
  EXPECT_EQ(LatestIn(kPath).status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(CheckpointLooksTest, TheNodesOfTheJobAreAskedFirst) {
  const FakeFolders nothing;
  const FolderAgent other(channel_, "0-first-by-name", &nothing);
  const FolderAgent own(channel_, "b", &folders_);
  ZC_ASSERT_OK_AND_ASSIGN(const v1::Checkpoint made, Register("global_step1"));
  EXPECT_EQ(made.looked_by(), "b");
}

TEST_F(CheckpointLooksTest, AnotherNodeIsAskedWhereTheFolderIsNotThere) {
  const FakeFolders nothing;
  const FolderAgent other(channel_, "c", &nothing);
  const FolderAgent sees(channel_, "d", &folders_);
  ZC_ASSERT_OK_AND_ASSIGN(const auto latest, LatestIn(kPath));
  EXPECT_EQ(latest.checkpoint().looked_by(), "d");
}

TEST_F(CheckpointLooksTest, AnAgentThatIsLostMeanwhileIsNamed) {
  auto agent = std::make_unique<FakeAgent>(channel_, "a");
  auto call = Begin();
  ASSERT_TRUE(agent->Read().has_look_at_folder());
  agent.reset();
  const absl::Status status = call.get().status();
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kUnavailable,
                               HasSubstr("look at /ckpt/run on node a: its agent was lost")));
  EXPECT_EQ(ReasonOf(status), "AGENT_LOST");
}

TEST_F(CheckpointLooksTest, AnAgentThatDoesNotAnswerCostsTheCallsTime) {
  FakeAgent agent(channel_, "a");
  auto call = Begin(absl::Seconds(2));
  const v1::SessionResponse command = agent.Read();
  ASSERT_TRUE(command.has_look_at_folder());
  // Less than the caller's, so that the agent's own error comes first.
  const auto& timeout = command.look_at_folder().timeout();
  EXPECT_LT(timeout.seconds() * 1000 + timeout.nanos() / 1000000, 1800);
  const absl::Status status = call.get().status();
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("on node a")));
}

TEST_F(CheckpointLooksTest, OnlyTheAnswerOfTheAgentThatWasAskedCounts) {
  FakeAgent asked(channel_, "a"), other(channel_, "b");
  auto call = Begin();
  const v1::SessionResponse command = asked.Read();
  ASSERT_TRUE(command.has_look_at_folder());
  v1::SessionRequest wrong, right;
  *right.mutable_folder_report() = folders_.Look(command.look_at_folder());
  *wrong.mutable_folder_report() = right.folder_report();
  wrong.mutable_folder_report()->mutable_checkpoints(0)->set_step(99);
  other.Write(wrong);
  v1::SessionRequest stray = right;
  stray.mutable_folder_report()->set_look("another one");
  stray.mutable_folder_report()->mutable_checkpoints(0)->set_step(98);
  asked.Write(stray);
  asked.Write(right);
  ZC_ASSERT_OK_AND_ASSIGN(const v1::Checkpoint made, call.get());
  EXPECT_EQ(made.step(), 1);
}

TEST_F(CheckpointLooksTest, AnAnswerThatSaysCompleteWithoutADigestIsRefused) {
  FakeAgent agent(channel_, "a");
  auto call = Begin();
  const v1::SessionResponse command = agent.Read();
  v1::SessionRequest answer;
  *answer.mutable_folder_report() = folders_.Look(command.look_at_folder());
  answer.mutable_folder_report()->mutable_checkpoints(0)->set_digest("none");
  agent.Write(answer);
  EXPECT_THAT(call.get(), StatusIs(absl::StatusCode::kInvalidArgument,
                                   HasSubstr("folder_report.checkpoints.digest")));
}

TEST_F(CheckpointLooksTest, AFailureOfTheAgentIsTheCalls) {
  FakeAgent agent(channel_, "a");
  auto call = Begin();
  const v1::SessionResponse command = agent.Read();
  EXPECT_EQ(command.look_at_folder().path(), kPath);
  EXPECT_EQ(command.look_at_folder().tags(0), "global_step1");
  EXPECT_FALSE(command.look_at_folder().all_tags());
  v1::SessionRequest answer;
  answer.mutable_folder_report()->set_look(command.look_at_folder().look());
  *answer.mutable_folder_report()->mutable_failure() = FailureFromStatus(
      WithReason(absl::PermissionDeniedError("outside of --root"), "PERMISSION_DENIED"));
  agent.Write(answer);
  const absl::Status status = call.get().status();
  EXPECT_THAT(status,
              StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr("on node a: outside")));
  EXPECT_EQ(ReasonOf(status), "PERMISSION_DENIED");
}

TEST_F(CheckpointLooksTest, AStoppingServerLetsItsCallersGo) {
  FakeAgent agent(channel_, "a");
  auto call = Begin();
  ASSERT_TRUE(agent.Read().has_look_at_folder());
  server_->Shutdown();
  EXPECT_EQ(call.get().status().code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace zerocast
