#include "server/rpc/session.h"

#include <spdlog/spdlog.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/rpc/call.h"
#include "server/rpc/convert.h"
#include "server/wire/status.h"

namespace zerocast::rpc {
namespace {

// Plans are at most a few MB and come one a load: whoever lets this much pile up reads nothing.
constexpr size_t kMaxQueuedMessages = 16384, kMaxQueuedBytes = size_t{256} << 20;

}  // namespace

AgentSession* AgentSession::Start(Core* core, grpc::CallbackServerContext* context) {
  std::shared_ptr<AgentSession> session(new AgentSession(core, context->peer()));
  session->self_ = session;
  const absl::StatusOr<jobs::SessionId> id = core->ReserveSession();
  if (id.ok()) {
    session->session_ = *id;
    session->ReadNext();
  } else {
    session->End(id.status());
  }
  return session.get();
}

void AgentSession::ReadNext() {
  MutexLock lock(&mutex_);
  if (!finished_) StartRead(&request_);
}

void AgentSession::OnReadDone(bool ok) {
  if (!ok) {
    // The agent has closed its side, or the connection is gone.
    End(absl::OkStatus());
    return;
  }
  const absl::Status handled = Handle();
  request_.Clear();
  if (!handled.ok()) End(handled);
  ReadNext();
}

absl::Status AgentSession::Handle() {
  if (node_name_.empty()) {
    ZC_ASSIGN_OR_RETURN(jobs::AgentRegistered event, RegistrationFromProto(request_, session_));
    node_name_ = event.node_name;
    const std::string version = event.version;
    ZC_RETURN_IF_ERROR(core_->Register(std::move(event), shared_from_this()));
    spdlog::info("agent of node {} registered from {}, version {}", node_name_, peer_, version);
    return absl::OkStatus();
  }
  ZC_ASSIGN_OR_RETURN(const jobs::Event event, EventFromProto(request_, session_));
  core_->Apply(event);
  if (request_.has_folder_report()) core_->NoteFolderReport(session_, request_.folder_report());
  return absl::OkStatus();
}

void AgentSession::Deliver(v1::SessionResponse message) {
  MutexLock lock(&mutex_);
  if (ending_) return;
  queued_bytes_ += message.ByteSizeLong();
  queue_.push_back(std::move(message));
  if (queue_.size() > kMaxQueuedMessages || queued_bytes_ > kMaxQueuedBytes) {
    EndLocked(WithReason(absl::ResourceExhaustedError(absl::StrCat("session: ", queue_.size(),
                                                                   " messages, ", queued_bytes_,
                                                                   " bytes wait for the agent, "
                                                                   "which does not read")),
                         "RESOURCE_EXHAUSTED"));
    return;
  }
  if (!writing_) {
    writing_ = true;
    StartWrite(&queue_.front());
  }
}

void AgentSession::OnWriteDone(bool ok) {
  MutexLock lock(&mutex_);
  writing_ = false;
  if (!queue_.empty()) {
    queued_bytes_ -= queue_.front().ByteSizeLong();
    queue_.pop_front();
  }
  if (!ok && !ending_) EndLocked(absl::CancelledError("session: the connection broke"));
  if (ending_) {
    FinishLocked();
  } else if (!queue_.empty()) {
    writing_ = true;
    StartWrite(&queue_.front());
  }
}

void AgentSession::End(absl::Status status) {
  MutexLock lock(&mutex_);
  EndLocked(std::move(status));
}

void AgentSession::EndLocked(absl::Status status) {
  if (ending_) return;
  ending_ = true;
  end_ = std::move(status);
  // What is on its way stays until it is written.
  while (queue_.size() > (writing_ ? 1 : 0)) queue_.pop_back();
  if (!writing_) FinishLocked();
}

void AgentSession::FinishLocked() {
  if (finished_) return;
  finished_ = true;
  Finish(ToGrpc(Outgoing(end_)));
}

void AgentSession::OnCancel() { End(absl::CancelledError("session: the agent went away")); }

void AgentSession::OnDone() {
  std::string why = "its stream closed";
  {
    MutexLock lock(&mutex_);
    if (!end_.ok()) absl::StrAppend(&why, " (", end_.message(), ")");
  }
  if (!node_name_.empty()) spdlog::info("agent of node {}: {}", node_name_, why);
  core_->CloseSession(session_, why);
  // The last reference may be this one.
  const std::shared_ptr<AgentSession> self = std::move(self_);
}

}  // namespace zerocast::rpc
