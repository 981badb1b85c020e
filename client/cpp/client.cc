#include "client/cpp/client.h"

#include <google/protobuf/duration.pb.h>
#include <google/protobuf/util/time_util.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "client/cpp/call_error.h"
#include "client/cpp/client_rep.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/wire/status.h"

namespace zerocast {
namespace {

// A plan with all its digests can be large; the server bounds what it sends.
constexpr int kMaxMessageBytes = 256 << 20;
// Error details: zerocast's servers keep below gRPC's default, 8 KiB, others may not.
constexpr int kMaxMetadataBytes = 64 << 10;
constexpr absl::Duration kFirstPause = absl::Milliseconds(100);
constexpr absl::Duration kLongestPause = absl::Seconds(2);

google::protobuf::Duration ToProto(absl::Duration duration) {
  return google::protobuf::util::TimeUtil::NanosecondsToDuration(
      absl::ToInt64Nanoseconds(duration));
}

grpc::ChannelArguments ChannelArgs() {
  grpc::ChannelArguments arguments;
  arguments.SetServiceConfigJSON(std::string(ServiceConfig()));
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  arguments.SetInt(GRPC_ARG_MAX_METADATA_SIZE, kMaxMetadataBytes);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 30'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 200);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2'000);
  return arguments;
}

}  // namespace

absl::string_view ServiceConfig() {
  // Every method is safe to repeat: reads change nothing, creations carry a request_id, cancelling
  // twice is cancelling once.  Watches are resumed by WatchLoad itself.
  return R"({
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [{
      "name": [
        {"service": "zerocast.v1.ConfigService"},
        {"service": "zerocast.v1.JobService"},
        {"service": "zerocast.v1.LoadService"},
        {"service": "zerocast.v1.CheckpointService"},
        {"service": "zerocast.v1.ServerInfoService"},
        {"service": "zerocast.v1.AgentService", "method": "ListAgents"}
      ],
      "retryPolicy": {
        "maxAttempts": 4,
        "initialBackoff": "0.1s",
        "maxBackoff": "2s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"]
      }
    }, {
      "name": [
        {"service": "zerocast.v1.JobService", "method": "WatchJob"},
        {"service": "zerocast.v1.LoadService", "method": "WatchLoad"}
      ]
    }],
    "retryThrottling": {"maxTokens": 20, "tokenRatio": 0.1}
  })";
}

std::string NewRequestId() {
  std::random_device device;
  std::string id;
  for (int k = 0; k < 4; ++k) absl::StrAppend(&id, absl::StrFormat("%08x", device()));
  return id;
}

bool IsTerminal(v1::LoadState state) {
  return state == v1::LOAD_STATE_READY || state == v1::LOAD_STATE_FAILED ||
         state == v1::LOAD_STATE_CANCELLED;
}

absl::Status LoadStatus(const v1::Load& load) {
  if (load.state() == v1::LOAD_STATE_CANCELLED) {
    return WithReason(absl::CancelledError(absl::StrCat(load.name(), " was cancelled")),
                      "CANCELLED");
  }
  if (load.state() == v1::LOAD_STATE_READY && load.has_freed() &&
      load.freed().code() != static_cast<int>(absl::StatusCode::kCancelled)) {
    return Annotate(StatusFromFailure(load.freed()), load.name());
  }
  if (load.state() != v1::LOAD_STATE_FAILED) return absl::OkStatus();
  return StatusFromFailure(load.failure());
}

absl::StatusOr<std::unique_ptr<Client>> Client::Create(Options options) {
  if (options.address.empty()) {
    return InvalidFields({{"server", "the address is empty; give host:port or unix:/path"}});
  }
  auto channel =
      grpc::CreateCustomChannel(options.address, grpc::InsecureChannelCredentials(), ChannelArgs());
  return Create(std::move(channel), std::move(options));
}

absl::StatusOr<std::unique_ptr<Client>> Client::Create(std::shared_ptr<grpc::Channel> channel,
                                                       Options options) {
  if (options.timeout <= absl::ZeroDuration()) {
    return InvalidFields({{"timeout", "must be positive"}});
  }
  return std::unique_ptr<Client>(
      new Client(std::make_unique<Rep>(std::move(channel), std::move(options))));
}

Client::Client(std::unique_ptr<Rep> rep) : rep_(std::move(rep)) {}
Client::~Client() = default;

std::unique_ptr<Client> Client::WithLimits(absl::Duration timeout, absl::Time deadline) const {
  Options options = rep_->options;
  options.timeout = timeout;
  options.deadline = deadline;
  return std::unique_ptr<Client>(
      new Client(std::make_unique<Rep>(rep_->channel, std::move(options))));
}

void Client::CancelCalls() {
  MutexLock lock(&rep_->mutex);
  rep_->cancelled = true;
  for (grpc::ClientContext* context : rep_->in_progress) context->TryCancel();
  rep_->cancel_changed.SignalAll();
}

absl::StatusOr<v1::ResolveConfigResponse> Client::ResolveConfig(
    const v1::ResolveConfigRequest& request) {
  return rep_->Call(rep_->config.get(), &v1::ConfigService::Stub::ResolveConfig, request);
}

absl::StatusOr<v1::BatchResolveConfigsResponse> Client::BatchResolveConfigs(
    const v1::BatchResolveConfigsRequest& request) {
  return rep_->Call(rep_->config.get(), &v1::ConfigService::Stub::BatchResolveConfigs, request);
}

absl::StatusOr<v1::LintConfigResponse> Client::LintConfig(const v1::LintConfigRequest& request) {
  return rep_->Call(rep_->config.get(), &v1::ConfigService::Stub::LintConfig, request);
}

absl::StatusOr<v1::DiffConfigsResponse> Client::DiffConfigs(const v1::DiffConfigsRequest& request) {
  return rep_->Call(rep_->config.get(), &v1::ConfigService::Stub::DiffConfigs, request);
}

absl::StatusOr<v1::QueryConfigResponse> Client::QueryConfig(absl::string_view job,
                                                            absl::string_view path) {
  v1::QueryConfigRequest request;
  request.set_job(std::string(job));
  request.set_path(std::string(path));
  return rep_->Call(rep_->config.get(), &v1::ConfigService::Stub::QueryConfig, request);
}

absl::StatusOr<v1::ConfigLease> Client::AcquireConfigLease(absl::string_view job,
                                                           absl::Duration ttl) {
  v1::AcquireConfigLeaseRequest request;
  request.set_job(std::string(job));
  if (ttl != absl::ZeroDuration()) *request.mutable_ttl() = ToProto(ttl);
  request.set_request_id(NewRequestId());
  ZC_ASSIGN_OR_RETURN(
      v1::AcquireConfigLeaseResponse response,
      rep_->Call(rep_->config.get(), &v1::ConfigService::Stub::AcquireConfigLease, request));
  return std::move(*response.mutable_lease());
}

absl::StatusOr<v1::ConfigLease> Client::RenewConfigLease(absl::string_view name,
                                                         absl::Duration ttl) {
  v1::RenewConfigLeaseRequest request;
  request.set_name(std::string(name));
  if (ttl != absl::ZeroDuration()) *request.mutable_ttl() = ToProto(ttl);
  ZC_ASSIGN_OR_RETURN(
      v1::RenewConfigLeaseResponse response,
      rep_->Call(rep_->config.get(), &v1::ConfigService::Stub::RenewConfigLease, request));
  return std::move(*response.mutable_lease());
}

absl::Status Client::ReleaseConfigLease(absl::string_view name) {
  v1::ReleaseConfigLeaseRequest request;
  request.set_name(std::string(name));
  return rep_->Call(rep_->config.get(), &v1::ConfigService::Stub::ReleaseConfigLease, request)
      .status();
}

absl::StatusOr<v1::CreateJobResponse> Client::CreateJob(const v1::JobSpec& spec,
                                                        const CreateOptions& options) {
  v1::CreateJobRequest request;
  *request.mutable_spec() = spec;
  request.set_request_id(options.request_id.empty() ? NewRequestId() : options.request_id);
  request.set_validate_only(options.validate_only);
  if (options.lease != absl::ZeroDuration()) *request.mutable_lease() = ToProto(options.lease);
  return rep_->Call(rep_->job.get(), &v1::JobService::Stub::CreateJob, request);
}

absl::StatusOr<v1::Job> Client::GetJob(absl::string_view name) {
  v1::GetJobRequest request;
  request.set_name(std::string(name));
  ZC_ASSIGN_OR_RETURN(v1::GetJobResponse response,
                      rep_->Call(rep_->job.get(), &v1::JobService::Stub::GetJob, request));
  return std::move(*response.mutable_job());
}

absl::StatusOr<std::vector<v1::Job>> Client::ListJobs() {
  std::vector<v1::Job> jobs;
  v1::ListJobsRequest request;
  request.set_page_size(kClientPageSize);
  do {
    ZC_ASSIGN_OR_RETURN(v1::ListJobsResponse page,
                        rep_->Call(rep_->job.get(), &v1::JobService::Stub::ListJobs, request));
    for (v1::Job& job : *page.mutable_jobs()) jobs.push_back(std::move(job));
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  return jobs;
}

absl::StatusOr<v1::Job> Client::CancelJob(absl::string_view name) {
  v1::CancelJobRequest request;
  request.set_name(std::string(name));
  ZC_ASSIGN_OR_RETURN(v1::CancelJobResponse response,
                      rep_->Call(rep_->job.get(), &v1::JobService::Stub::CancelJob, request));
  return std::move(*response.mutable_job());
}

absl::StatusOr<v1::Job> Client::FinishJob(absl::string_view name) {
  v1::FinishJobRequest request;
  request.set_name(std::string(name));
  ZC_ASSIGN_OR_RETURN(v1::FinishJobResponse response,
                      rep_->Call(rep_->job.get(), &v1::JobService::Stub::FinishJob, request));
  return std::move(*response.mutable_job());
}

absl::StatusOr<v1::Job> Client::RenewJobLease(absl::string_view name) {
  v1::RenewJobLeaseRequest request;
  request.set_name(std::string(name));
  ZC_ASSIGN_OR_RETURN(v1::RenewJobLeaseResponse response,
                      rep_->Call(rep_->job.get(), &v1::JobService::Stub::RenewJobLease, request));
  return std::move(*response.mutable_job());
}

absl::Status Client::DeleteJob(absl::string_view name, absl::string_view etag) {
  v1::DeleteJobRequest request;
  request.set_name(std::string(name));
  request.set_etag(std::string(etag));
  return rep_->Call(rep_->job.get(), &v1::JobService::Stub::DeleteJob, request).status();
}

absl::StatusOr<v1::Load> Client::CreateLoad(absl::string_view job, const CreateOptions& options) {
  v1::CreateLoadRequest request;
  request.set_job(std::string(job));
  request.set_request_id(options.request_id.empty() ? NewRequestId() : options.request_id);
  request.set_validate_only(options.validate_only);
  ZC_ASSIGN_OR_RETURN(v1::CreateLoadResponse response,
                      rep_->Call(rep_->load.get(), &v1::LoadService::Stub::CreateLoad, request));
  return std::move(*response.mutable_load());
}

absl::StatusOr<v1::Load> Client::GetLoad(absl::string_view name) {
  v1::GetLoadRequest request;
  request.set_name(std::string(name));
  ZC_ASSIGN_OR_RETURN(v1::GetLoadResponse response,
                      rep_->Call(rep_->load.get(), &v1::LoadService::Stub::GetLoad, request));
  return std::move(*response.mutable_load());
}

absl::StatusOr<std::vector<v1::Load>> Client::ListLoads(absl::string_view job) {
  std::vector<v1::Load> loads;
  v1::ListLoadsRequest request;
  request.set_job(std::string(job));
  request.set_page_size(kClientPageSize);
  do {
    ZC_ASSIGN_OR_RETURN(v1::ListLoadsResponse page,
                        rep_->Call(rep_->load.get(), &v1::LoadService::Stub::ListLoads, request));
    for (v1::Load& load : *page.mutable_loads()) loads.push_back(std::move(load));
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  return loads;
}

absl::StatusOr<v1::Load> Client::CancelLoad(absl::string_view name) {
  v1::CancelLoadRequest request;
  request.set_name(std::string(name));
  ZC_ASSIGN_OR_RETURN(v1::CancelLoadResponse response,
                      rep_->Call(rep_->load.get(), &v1::LoadService::Stub::CancelLoad, request));
  return std::move(*response.mutable_load());
}

absl::StatusOr<v1::PlanLoadResponse> Client::PlanLoad(const v1::JobSpec& spec) {
  v1::PlanLoadRequest request;
  *request.mutable_spec() = spec;
  return rep_->Call(rep_->load.get(), &v1::LoadService::Stub::PlanLoad, request);
}

// Whether the server is there, by a call that it answers at once: a stream says nothing where it
// waits for one that hangs.  Tries again until `until`, and says why it has given up.
absl::Status Client::Rep::Reach(const CallName& watch, const std::string& load_name,
                                absl::Duration within, absl::Time until) const {
  const absl::Time gave_up = std::min(absl::Now() + within, until);
  v1::GetLoadRequest request;
  request.set_name(load_name);
  absl::Duration pause = kFirstPause;
  while (true) {
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(gave_up));
    v1::GetLoadResponse response;
    grpc::Status status;
    {
      const InProgress in_progress(this, &context);
      status = load->GetLoad(&context, request, &response);
    }
    const bool away = status.error_code() == grpc::StatusCode::UNAVAILABLE;
    const bool silent = status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED;
    if (!away && !silent) return absl::OkStatus();  // what is wrong the watch tells, too
    if (silent || gave_up - absl::Now() <= pause) {
      return ServerAway(watch, within, status.error_message());
    }
    Pause(pause);
    pause = std::min(2 * pause, kLongestPause);
  }
}

absl::StatusOr<v1::Load> Client::WatchLoad(absl::string_view name, absl::Duration timeout,
                                           const std::function<bool(const v1::Load&)>& on_change) {
  const absl::Time start = absl::Now();
  const absl::Time until = std::min(start + timeout, rep_->options.deadline);
  const CallName call = {absl::StrCat("watch ", name), rep_->options.address, until - start};
  v1::WatchLoadRequest request;
  request.set_name(std::string(name));
  std::optional<v1::Load> last;
  absl::Duration pause = kFirstPause;
  while (true) {
    const absl::Status reached = rep_->Reach(
        call, request.name(), std::min(rep_->options.timeout, until - absl::Now()), until);
    if (!reached.ok()) {
      if (absl::Now() < until) return reached;
      return Annotate(WaitExpired(call, last.has_value() ? &*last : nullptr), reached.message());
    }
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(until));
    const Rep::InProgress in_progress(rep_.get(), &context);
    const auto stream = rep_->load->WatchLoad(&context, request);
    v1::WatchLoadResponse response;
    while (stream->Read(&response)) {
      pause = kFirstPause;
      last = std::move(*response.mutable_load());
      const bool go_on = on_change == nullptr || on_change(*last);
      if (IsTerminal(last->state())) {
        context.TryCancel();
        return *std::move(last);
      }
      if (!go_on) {
        context.TryCancel();
        return WithReason(absl::CancelledError(absl::StrCat("watch ", name, ": stopped")),
                          "CANCELLED");
      }
    }
    const grpc::Status end = stream->Finish();
    const absl::Duration left = until - absl::Now();
    // A server that stops ends its streams with UNAVAILABLE, or with OK when it closed them in
    // order.
    const bool again = end.ok() || end.error_code() == grpc::StatusCode::UNAVAILABLE;
    if (!again && end.error_code() != grpc::StatusCode::DEADLINE_EXCEEDED) {
      return Annotate(ExplainCallError(FromGrpc(end), {"WatchLoad", call.address, call.deadline}),
                      absl::StrCat("watch ", name));
    }
    if (!again || left <= pause) {
      absl::Status expired = WaitExpired(call, last.has_value() ? &*last : nullptr);
      if (end.ok() || !again) return expired;
      return Annotate(expired, absl::StrCat("the server went away (", end.error_message(), ")"));
    }
    rep_->Pause(pause);
    pause = std::min(2 * pause, kLongestPause);
  }
}

absl::StatusOr<std::vector<v1::AgentInfo>> Client::ListAgents() {
  ZC_ASSIGN_OR_RETURN(
      v1::ListAgentsResponse response,
      rep_->Call(rep_->agent.get(), &v1::AgentService::Stub::ListAgents, v1::ListAgentsRequest()));
  return std::vector<v1::AgentInfo>(response.agents().begin(), response.agents().end());
}

absl::StatusOr<v1::GetServerInfoResponse> Client::GetServerInfo() {
  return rep_->Call(rep_->info.get(), &v1::ServerInfoService::Stub::GetServerInfo,
                    v1::GetServerInfoRequest());
}

}  // namespace zerocast
