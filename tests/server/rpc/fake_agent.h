#ifndef ZEROCAST_TESTS_SERVER_RPC_FAKE_AGENT_H_
#define ZEROCAST_TESTS_SERVER_RPC_FAKE_AGENT_H_

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "server/plan/manifest.h"
#include "server/wire/plan_input.h"
#include "server/wire/status.h"
#include "zerocast/v1/agent.grpc.pb.h"

namespace zerocast {

// An agent played by a test: it says and hears what the script calls for, on a real stream.
class FakeAgent {
 public:
  FakeAgent(const std::shared_ptr<grpc::Channel>& channel, std::string node_name,
            uint64_t incarnation = 1, bool looks_at_folders = true)
      : node_name_(std::move(node_name)), stub_(v1::AgentService::NewStub(channel)) {
    context_.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
    stream_ = stub_->Session(&context_);
    v1::SessionRequest request;
    request.mutable_register_()->set_node_name(node_name_);
    request.mutable_register_()->set_incarnation(incarnation);
    request.mutable_register_()->set_version("test");
    request.mutable_register_()->set_socket_path("/run/zerocast/" + node_name_);
    request.mutable_register_()->set_looks_at_folders(looks_at_folders);
    EXPECT_TRUE(stream_->Write(request));
    EXPECT_TRUE(Read().has_registered());
  }
  ~FakeAgent() {
    context_.TryCancel();
    if (!finished_) stream_->Finish();
  }

  // The next message; an empty one when the stream has ended.
  v1::SessionResponse Read() {
    v1::SessionResponse response;
    if (!stream_->Read(&response)) response.Clear();
    return response;
  }
  bool Write(const v1::SessionRequest& request) { return stream_->Write(request); }
  // Ends the stream; any thread.
  void Cancel() { context_.TryCancel(); }
  absl::Status Finish() {
    finished_ = true;
    return FromGrpc(stream_->Finish());
  }

  // One tensor of 6 bf16 elements in one file.
  static Manifest SmallManifest() {
    Manifest manifest;
    manifest.files.push_back({"model.safetensors", 100, 1, 2});
    ManifestTensor tensor;
    tensor.tensor = {"w", DType::kBFloat16, {2, 3}};
    tensor.file_begin = 88;
    tensor.file_end = 100;
    manifest.tensors.push_back(tensor);
    return manifest;
  }

  // Answers InspectCheckpoint.
  void ReportManifest(const v1::InspectCheckpoint& command) {
    v1::SessionRequest request;
    v1::ManifestReport* report = request.mutable_manifest_report();
    report->set_load(command.load());
    report->set_epoch(command.epoch());
    report->set_compressed_manifest(CompressManifest(SmallManifest()));
    Write(request);
  }
  // Answers PreparePlan.
  void ReportPlan(const v1::PreparePlan& command, const std::string& digest, int64_t epoch) {
    v1::SessionRequest request;
    v1::PlanReport* report = request.mutable_plan_report();
    report->set_load(command.load());
    report->set_epoch(epoch);
    report->set_plan_digest(digest);
    Write(request);
  }
  // Ends its part of a load with these ranks' shards.
  void ReportDone(const v1::StartLoad& command, const std::vector<int>& ranks) {
    v1::SessionRequest request;
    v1::NodeReport* report = request.mutable_node_report();
    report->set_load(command.load());
    report->set_epoch(command.epoch());
    report->mutable_progress()->set_stage(v1::NODE_STAGE_DONE);
    report->mutable_progress()->set_bytes_read(12);
    report->mutable_progress()->set_source(command.source());
    for (const int rank : ranks) {
      v1::Shard* shard = report->add_shards();
      shard->set_rank(rank);
      shard->set_arena_bytes(64);
      v1::PartitionDigest* digest = shard->add_digests();
      digest->set_target("w");
      digest->set_xxh3(7 + rank);
    }
    Write(request);
  }

 private:
  const std::string node_name_;
  std::unique_ptr<v1::AgentService::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::SessionRequest, v1::SessionResponse>> stream_;
  bool finished_ = false;
};

}  // namespace zerocast

#endif  // ZEROCAST_TESTS_SERVER_RPC_FAKE_AGENT_H_
