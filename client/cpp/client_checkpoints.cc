// The calls of CheckpointService.
#include <utility>

#include "client/cpp/client.h"
#include "client/cpp/client_rep.h"
#include "kernels/base/status_macros.h"

namespace zerocast {

using CheckpointStub = v1::CheckpointService::Stub;

absl::StatusOr<v1::Checkpoint> Client::RegisterCheckpoint(const v1::Checkpoint& checkpoint,
                                                          const CreateOptions& options) {
  v1::RegisterCheckpointRequest request;
  *request.mutable_checkpoint() = checkpoint;
  request.set_request_id(options.request_id.empty() ? NewRequestId() : options.request_id);
  request.set_validate_only(options.validate_only);
  ZC_ASSIGN_OR_RETURN(
      v1::RegisterCheckpointResponse response,
      rep_->Call(rep_->checkpoint.get(), &CheckpointStub::RegisterCheckpoint, request));
  return std::move(*response.mutable_checkpoint());
}

absl::StatusOr<v1::Checkpoint> Client::GetCheckpoint(absl::string_view name, bool verify) {
  v1::GetCheckpointRequest request;
  request.set_name(std::string(name));
  request.set_verify(verify);
  ZC_ASSIGN_OR_RETURN(v1::GetCheckpointResponse response,
                      rep_->Call(rep_->checkpoint.get(), &CheckpointStub::GetCheckpoint, request));
  return std::move(*response.mutable_checkpoint());
}

absl::StatusOr<std::vector<v1::Checkpoint>> Client::ListCheckpoints(
    const ListCheckpointsOptions& options) {
  std::vector<v1::Checkpoint> checkpoints;
  v1::ListCheckpointsRequest request;
  request.set_job(options.job);
  request.set_path(options.path);
  request.set_verify(options.verify);
  request.set_page_size(kClientPageSize);
  do {
    ZC_ASSIGN_OR_RETURN(
        v1::ListCheckpointsResponse page,
        rep_->Call(rep_->checkpoint.get(), &CheckpointStub::ListCheckpoints, request));
    for (v1::Checkpoint& each : *page.mutable_checkpoints()) checkpoints.push_back(std::move(each));
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  return checkpoints;
}

absl::StatusOr<v1::Checkpoint> Client::PinCheckpoint(absl::string_view name) {
  v1::PinCheckpointRequest request;
  request.set_name(std::string(name));
  ZC_ASSIGN_OR_RETURN(v1::PinCheckpointResponse response,
                      rep_->Call(rep_->checkpoint.get(), &CheckpointStub::PinCheckpoint, request));
  return std::move(*response.mutable_checkpoint());
}

absl::StatusOr<v1::Checkpoint> Client::UnpinCheckpoint(absl::string_view name) {
  v1::UnpinCheckpointRequest request;
  request.set_name(std::string(name));
  ZC_ASSIGN_OR_RETURN(
      v1::UnpinCheckpointResponse response,
      rep_->Call(rep_->checkpoint.get(), &CheckpointStub::UnpinCheckpoint, request));
  return std::move(*response.mutable_checkpoint());
}

absl::StatusOr<v1::FindLatestCheckpointResponse> Client::FindLatestCheckpoint(
    const v1::FindLatestCheckpointRequest& request) {
  return rep_->Call(rep_->checkpoint.get(), &CheckpointStub::FindLatestCheckpoint, request);
}

absl::StatusOr<v1::PruneCheckpointsResponse> Client::PruneCheckpoints(
    const v1::PruneCheckpointsRequest& request) {
  return rep_->Call(rep_->checkpoint.get(), &CheckpointStub::PruneCheckpoints, request);
}

absl::Status Client::DeleteCheckpoint(absl::string_view name, absl::string_view etag) {
  v1::DeleteCheckpointRequest request;
  request.set_name(std::string(name));
  request.set_etag(std::string(etag));
  return rep_->Call(rep_->checkpoint.get(), &CheckpointStub::DeleteCheckpoint, request).status();
}

}  // namespace zerocast
