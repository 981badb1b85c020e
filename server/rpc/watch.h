#ifndef ZEROCAST_SERVER_RPC_WATCH_H_
#define ZEROCAST_SERVER_RPC_WATCH_H_

#include <grpcpp/support/server_callback.h>

#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "kernels/base/mutex.h"
#include "server/rpc/call.h"
#include "server/rpc/core.h"
#include "server/wire/status.h"

namespace zerocast::rpc {

// One Watch stream of a Resource, wrapped in a Response.  Holds no thread, and at most two states:
// the one that is being written and the latest.  A slow reader misses those in between, never the
// last one.  Keeps itself alive until the stream is over.
template <typename Resource, typename Response>
class WatchReactor final : public grpc::ServerWriteReactor<Response>, public WatchSink<Resource> {
 public:
  using Fill = void (*)(const Resource& resource, Response* response);
  // `subscribe` hands the sink to the core.
  template <typename Subscribe>
  static WatchReactor* Start(Core* core, Fill fill, Subscribe subscribe) {
    std::shared_ptr<WatchReactor> watch(new WatchReactor(core, fill));
    watch->self_ = watch;
    const absl::Status status = subscribe(watch);
    if (!status.ok()) watch->End(status);
    return watch.get();
  }

  void Update(std::shared_ptr<const Resource> latest, bool final) override {
    MutexLock lock(&mutex_);
    latest_ = std::move(latest);
    latest_is_final_ = final;
    NextLocked();
  }
  void End(absl::Status status) override {
    MutexLock lock(&mutex_);
    if (ended_) return;
    ended_ = true;
    end_ = std::move(status);
    NextLocked();
  }

  void OnWriteDone(bool ok) override {
    MutexLock lock(&mutex_);
    writing_ = false;
    if (!ok) {
      latest_.reset();
      ended_ = true;
      end_ = absl::CancelledError("watch: the connection broke");
    }
    NextLocked();
  }
  void OnCancel() override { End(absl::CancelledError("watch: the caller went away")); }
  void OnDone() override {
    core_->Unwatch(static_cast<const WatchSink<Resource>*>(this));
    const std::shared_ptr<WatchReactor> self = std::move(self_);
  }

 private:
  WatchReactor(Core* core, Fill fill) : core_(core), fill_(fill) {}

  void NextLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (writing_ || finished_) return;
    if (latest_ != nullptr && !ended_) {
      response_.Clear();
      fill_(*latest_, &response_);
      wrote_final_ = latest_is_final_;
      latest_.reset();
      writing_ = true;
      this->StartWrite(&response_);
    } else if (wrote_final_ || ended_) {
      finished_ = true;
      this->Finish(ToGrpc(wrote_final_ ? absl::OkStatus() : Outgoing(end_)));
    }
  }

  Core* const core_;
  const Fill fill_;
  std::shared_ptr<WatchReactor> self_;

  Mutex mutex_;
  std::shared_ptr<const Resource> latest_ ABSL_GUARDED_BY(mutex_);
  bool latest_is_final_ ABSL_GUARDED_BY(mutex_) = false;
  bool wrote_final_ ABSL_GUARDED_BY(mutex_) = false;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status end_ ABSL_GUARDED_BY(mutex_);
  Response response_;  // being written
};

}  // namespace zerocast::rpc

#endif  // ZEROCAST_SERVER_RPC_WATCH_H_
