#ifndef ZEROCAST_CLIENT_CPP_CLIENT_REP_H_
#define ZEROCAST_CLIENT_CPP_CLIENT_REP_H_

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <set>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "client/cpp/call_error.h"
#include "client/cpp/client.h"
#include "kernels/base/mutex.h"
#include "server/base/errors.h"
#include "server/wire/status.h"
#include "zerocast/v1/agent.grpc.pb.h"
#include "zerocast/v1/checkpoint.grpc.pb.h"
#include "zerocast/v1/config.grpc.pb.h"
#include "zerocast/v1/job.grpc.pb.h"
#include "zerocast/v1/load.grpc.pb.h"
#include "zerocast/v1/server_info.grpc.pb.h"

namespace zerocast {

// Resources come this many at a time from lists.
inline constexpr int kClientPageSize = 200;

// What is behind Client; for the files that make up the library.
struct Client::Rep {
  explicit Rep(std::shared_ptr<grpc::Channel> new_channel, Options new_options)
      : options(std::move(new_options)),
        channel(std::move(new_channel)),
        config(v1::ConfigService::NewStub(channel)),
        job(v1::JobService::NewStub(channel)),
        load(v1::LoadService::NewStub(channel)),
        checkpoint(v1::CheckpointService::NewStub(channel)),
        agent(v1::AgentService::NewStub(channel)),
        info(v1::ServerInfoService::NewStub(channel)) {}

  // Runs one unary call with the deadline and the library's errors.
  template <typename Stub, typename Request, typename Response>
  absl::StatusOr<Response> Call(Stub* stub,
                                grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&,
                                                             Response*),
                                const Request& request) const {
    // The message of method M is MRequest.
    CallName name = {std::string(absl::StripSuffix(Request::descriptor()->name(), "Request")),
                     options.address, std::min(options.timeout, options.deadline - absl::Now())};
    if (name.deadline <= absl::ZeroDuration()) return TimeIsUp(name);
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() +
                         absl::ToChronoMilliseconds(name.deadline));
    const InProgress in_progress(this, &context);
    Response response;
    const grpc::Status status = (stub->*method)(&context, request, &response);
    if (!status.ok()) return ExplainCallError(FromGrpc(status), name);
    return response;
  }

  // A call between its beginning and its end: what CancelCalls ends.
  class InProgress {
   public:
    InProgress(const Rep* rep, grpc::ClientContext* context) : rep_(rep), context_(context) {
      MutexLock lock(&rep_->mutex);
      rep_->in_progress.insert(context_);
      if (rep_->cancelled) context_->TryCancel();
    }
    ~InProgress() {
      MutexLock lock(&rep_->mutex);
      rep_->in_progress.erase(context_);
    }
    InProgress(const InProgress&) = delete;
    InProgress& operator=(const InProgress&) = delete;

   private:
    const Rep* const rep_;
    grpc::ClientContext* const context_;
  };

  absl::Status Reach(const CallName& watch, const std::string& load_name, absl::Duration within,
                     absl::Time until) const;

  // Ends sooner when the calls are cancelled.
  void Pause(absl::Duration duration) const {
    const absl::Time end = absl::Now() + duration;
    MutexLock lock(&mutex);
    while (!cancelled && absl::Now() < end) {
      cancel_changed.WaitWithTimeout(&mutex, end - absl::Now());
    }
  }

  static absl::Status TimeIsUp(const CallName& name) {
    return WithReason(absl::DeadlineExceededError(absl::StrCat(
                          "call ", name.method, " of server ", name.address,
                          ": not made, the time for all calls was over; allow more time")),
                      "DEADLINE_EXCEEDED");
  }

  const Options options;
  const std::shared_ptr<grpc::Channel> channel;
  const std::unique_ptr<v1::ConfigService::Stub> config;
  const std::unique_ptr<v1::JobService::Stub> job;
  const std::unique_ptr<v1::LoadService::Stub> load;
  const std::unique_ptr<v1::CheckpointService::Stub> checkpoint;
  const std::unique_ptr<v1::AgentService::Stub> agent;
  const std::unique_ptr<v1::ServerInfoService::Stub> info;

  mutable Mutex mutex;
  mutable CondVar cancel_changed;
  mutable bool cancelled ABSL_GUARDED_BY(mutex) = false;
  mutable std::set<grpc::ClientContext*> in_progress ABSL_GUARDED_BY(mutex);
};

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_CPP_CLIENT_REP_H_
