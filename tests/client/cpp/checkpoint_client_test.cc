// The client library against a real server: checkpoints of jobs.
#include <memory>
#include <string>
#include <vector>

#include "client/cpp/client.h"
#include "tests/server/rpc/checkpoint_fixture.h"

namespace zerocast {
namespace {

using ::testing::HasSubstr;

class CheckpointClientTest : public CheckpointTest {
 protected:
  void SetUp() override {
    CheckpointTest::SetUp();
    Client::Options options;
    options.address = server_->address();
    options.timeout = absl::Seconds(20);
    client_ = *Client::Create(options);
  }
  absl::StatusOr<v1::Checkpoint> Add(int64_t step) {
    folders_.Put(kPath, FakeFolders::Complete(step));
    v1::Checkpoint wanted;
    wanted.set_job(job_);
    wanted.set_path(kPath);
    wanted.set_tag("global_step" + std::to_string(step));
    return client_->RegisterCheckpoint(wanted, {});
  }

  std::unique_ptr<Client> client_;
};

TEST_F(CheckpointClientTest, FollowsACheckpointFromItsRegistrationToItsEnd) {
  ZC_ASSERT_OK_AND_ASSIGN(const v1::Checkpoint first, Add(10));
  ZC_ASSERT_OK_AND_ASSIGN(const v1::Checkpoint second, Add(20));
  ASSERT_THAT(client_->PinCheckpoint(first.name()), IsOk());
  ZC_ASSERT_OK_AND_ASSIGN(const v1::Checkpoint pinned, client_->GetCheckpoint(first.name()));
  EXPECT_TRUE(pinned.pinned());
  v1::FindLatestCheckpointRequest find;
  find.set_job(job_);
  ZC_ASSERT_OK_AND_ASSIGN(const auto latest, client_->FindLatestCheckpoint(find));
  EXPECT_EQ(latest.checkpoint().name(), second.name());
  v1::PruneCheckpointsRequest prune;
  prune.set_job(job_);
  prune.set_keep_last(1);
  prune.set_validate_only(true);
  ZC_ASSERT_OK_AND_ASSIGN(auto pruned, client_->PruneCheckpoints(prune));
  EXPECT_EQ(pruned.pruned_size(), 0);
  ASSERT_THAT(client_->UnpinCheckpoint(first.name()), IsOk());
  ZC_ASSERT_OK_AND_ASSIGN(pruned, client_->PruneCheckpoints(prune));
  ASSERT_EQ(pruned.pruned_size(), 1);
  EXPECT_EQ(pruned.pruned(0).name(), first.name());
  ASSERT_THAT(client_->DeleteCheckpoint(second.name(), second.etag()), IsOk());
  ZC_ASSERT_OK_AND_ASSIGN(const auto left, client_->ListCheckpoints({}));
  ASSERT_EQ(left.size(), 1u);
  EXPECT_EQ(left[0].name(), first.name());
}

TEST_F(CheckpointClientTest, ListsAllPagesOfAFolder) {
  for (int64_t step = 1; step <= 205; ++step) ASSERT_THAT(Add(step), IsOk());
  folders_.Put(kPath, FakeFolders::Torn(7));
  Client::ListCheckpointsOptions options;
  options.path = kPath;
  options.verify = true;
  ZC_ASSERT_OK_AND_ASSIGN(const auto all, client_->ListCheckpoints(options));
  ASSERT_EQ(all.size(), 205u);
  EXPECT_EQ(all.front().step(), 205);
  EXPECT_FALSE(all[205 - 7].complete());
  EXPECT_TRUE(all[205 - 8].complete());
  options.path = "/elsewhere";
  EXPECT_TRUE(client_->ListCheckpoints(options)->empty());
}

TEST_F(CheckpointClientTest, WhatOnlyChecksRegistersNothing) {
  folders_.Put(kPath, FakeFolders::Complete(1));
  folders_.PutLatest(kPath, "global_step1");
  v1::Checkpoint wanted;
  wanted.set_job(job_);
  wanted.set_path(kPath);
  ZC_ASSERT_OK_AND_ASSIGN(const v1::Checkpoint tried,
                          client_->RegisterCheckpoint(wanted, {"", /*validate_only=*/true}));
  EXPECT_EQ(tried.tag(), "global_step1");
  EXPECT_TRUE(client_->ListCheckpoints({})->empty());
  wanted.set_path("relative");
  EXPECT_THAT(client_->RegisterCheckpoint(wanted, {}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("absolute path")));
}

}  // namespace
}  // namespace zerocast
