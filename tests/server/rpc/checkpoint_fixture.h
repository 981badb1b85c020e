#ifndef ZEROCAST_TESTS_SERVER_RPC_CHECKPOINT_FIXTURE_H_
#define ZEROCAST_TESTS_SERVER_RPC_CHECKPOINT_FIXTURE_H_

#include <memory>
#include <string>

#include "tests/server/rpc/folder_agent.h"
#include "tests/server/rpc/server_fixture.h"

namespace zerocast {

// A server, a job on nodes a and b, and the calls of CheckpointService.
class CheckpointTest : public ServerTest {
 protected:
  using Stub = v1::CheckpointService::Stub;
  static constexpr char kPath[] = "/ckpt/run";

  void SetUp() override {
    ServerTest::SetUp();
    job_ = CreateJob(TwoNodeSpec()).job().name();
    agent_ = std::make_unique<FolderAgent>(channel_, "a", &folders_);
  }
  void TearDown() override { agent_.reset(); }

  v1::RegisterCheckpointRequest Request(const std::string& tag) const {
    v1::RegisterCheckpointRequest request;
    request.mutable_checkpoint()->set_job(job_);
    request.mutable_checkpoint()->set_path(kPath);
    request.mutable_checkpoint()->set_tag(tag);
    return request;
  }
  absl::StatusOr<v1::Checkpoint> Register(const v1::RegisterCheckpointRequest& request) {
    auto response = Call(checkpoints_, &Stub::RegisterCheckpoint, request);
    if (!response.ok()) return response.status();
    return std::move(*response->mutable_checkpoint());
  }
  absl::StatusOr<v1::Checkpoint> Register(const std::string& tag) { return Register(Request(tag)); }
  // Puts checkpoints into the folder and registers them.
  void RegisterSteps(std::initializer_list<int64_t> steps) {
    for (const int64_t step : steps) {
      folders_.Put(kPath, FakeFolders::Complete(step));
      EXPECT_THAT(Register("global_step" + std::to_string(step)), IsOk());
    }
  }
  absl::StatusOr<v1::Checkpoint> Get(const std::string& name, bool verify = false) {
    v1::GetCheckpointRequest request;
    request.set_name(name);
    request.set_verify(verify);
    auto response = Call(checkpoints_, &Stub::GetCheckpoint, request);
    if (!response.ok()) return response.status();
    return std::move(*response->mutable_checkpoint());
  }
  absl::StatusOr<v1::FindLatestCheckpointResponse> LatestOfJob() {
    v1::FindLatestCheckpointRequest request;
    request.set_job(job_);
    return Call(checkpoints_, &Stub::FindLatestCheckpoint, request);
  }
  absl::StatusOr<v1::FindLatestCheckpointResponse> LatestIn(const std::string& path) {
    v1::FindLatestCheckpointRequest request;
    request.set_path(path);
    return Call(checkpoints_, &Stub::FindLatestCheckpoint, request);
  }
  absl::StatusOr<v1::PruneCheckpointsResponse> Prune(int keep_last, bool validate_only = false) {
    v1::PruneCheckpointsRequest request;
    request.set_job(job_);
    request.set_keep_last(keep_last);
    request.set_validate_only(validate_only);
    return Call(checkpoints_, &Stub::PruneCheckpoints, request);
  }

  FakeFolders folders_;
  std::string job_;
  std::unique_ptr<FolderAgent> agent_;
};

}  // namespace zerocast

#endif  // ZEROCAST_TESTS_SERVER_RPC_CHECKPOINT_FIXTURE_H_
