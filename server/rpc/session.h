#ifndef ZEROCAST_SERVER_RPC_SESSION_H_
#define ZEROCAST_SERVER_RPC_SESSION_H_

#include <grpcpp/support/server_callback.h>

#include <deque>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "kernels/base/mutex.h"
#include "server/rpc/core.h"
#include "zerocast/v1/agent.pb.h"

namespace zerocast::rpc {

// One agent's stream.  Holds no thread: gRPC calls when something has happened.  Keeps itself alive
// until the stream is over.
//
// Messages wait in a bounded queue; an agent that does not read them is given up.
class AgentSession final : public grpc::ServerBidiReactor<v1::SessionRequest, v1::SessionResponse>,
                           public SessionSink,
                           public std::enable_shared_from_this<AgentSession> {
 public:
  static AgentSession* Start(Core* core, grpc::CallbackServerContext* context);

  void Deliver(v1::SessionResponse message) override;
  void End(absl::Status status) override;

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  AgentSession(Core* core, std::string peer) : core_(core), peer_(std::move(peer)) {}

  // Reads the next message, unless the stream has ended.
  void ReadNext();
  absl::Status Handle();
  // Finishes once nothing is being written.
  void EndLocked(absl::Status status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void FinishLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  Core* const core_;
  const std::string peer_;
  std::shared_ptr<AgentSession> self_;
  jobs::SessionId session_ = 0;
  // Only read callbacks, of which there is one at a time, touch these.
  v1::SessionRequest request_;
  std::string node_name_;  // empty until registered

  Mutex mutex_;
  std::deque<v1::SessionResponse> queue_ ABSL_GUARDED_BY(mutex_);
  size_t queued_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;  // queue_.front() is on its way
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status end_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace zerocast::rpc

#endif  // ZEROCAST_SERVER_RPC_SESSION_H_
