#ifndef ZEROCAST_CLIENT_CPP_CLIENT_H_
#define ZEROCAST_CLIENT_CPP_CLIENT_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "zerocast/v1/agent.pb.h"
#include "zerocast/v1/checkpoint.pb.h"
#include "zerocast/v1/config.pb.h"
#include "zerocast/v1/job.pb.h"
#include "zerocast/v1/load.pb.h"
#include "zerocast/v1/server_info.pb.h"

namespace grpc {
class Channel;
}  // namespace grpc

namespace zerocast {

// The client library of zerocast: what schedulers link and the command line is made of.
//
//   ZC_ASSIGN_OR_RETURN(auto client, Client::Create({"10.0.0.1:50051"}));
//   ZC_ASSIGN_OR_RETURN(auto created, client->CreateJob(spec, {}));
//   ZC_ASSIGN_OR_RETURN(auto load, client->CreateLoad(created.job().name(), {}));
//   ZC_ASSIGN_OR_RETURN(load, client->WatchLoad(load.name(), absl::Minutes(30), nullptr));
//
// Every call has a deadline (Options::timeout) and is retried a few times with growing pauses where
// the server was not reached: creations too, since each carries a request_id, made here when the
// caller gives none.  Thread-safe.
//
// Errors are the server's, with its google.rpc details as payloads (ReasonOf() and ViolationsOf()
// of server/base/errors.h read them); besides:
//   UNAVAILABLE        the server was not reached; the message names its address.
//   DEADLINE_EXCEEDED  it did not answer in time.
// and what else gRPC ends a call with; all of these have a reason too, and say what was tried, on
// which server, within which time, and what to do.
//
// An answer may hold 256 MiB and 64 KiB of error details, more than gRPC's defaults: the spec of a
// job comes back with it.
class Client {
 public:
  struct Options {
    std::string address;                         // "host:port" or "unix:/path"
    absl::Duration timeout = absl::Seconds(30);  // of one call, retries included
    // No call goes on beyond it, and none begins after it.
    absl::Time deadline = absl::InfiniteFuture();
  };

  // Does not connect yet.  Errors: INVALID_ARGUMENT when the address is empty or the timeout not
  // positive.
  static absl::StatusOr<std::unique_ptr<Client>> Create(Options options);
  // Over a channel that the caller made; `options.address` is only for messages.
  static absl::StatusOr<std::unique_ptr<Client>> Create(std::shared_ptr<grpc::Channel> channel,
                                                        Options options);
  // A client over the same connection with other limits: for the call that must still be made when
  // time is up, such as a cancel.
  std::unique_ptr<Client> WithLimits(absl::Duration timeout, absl::Time deadline) const;
  // Ends the calls and watches in progress with CANCELLED, and every later one at once: for a
  // caller that was interrupted.  What the server has already done stays; clients that WithLimits
  // made, or makes, over the same connection go on.
  void CancelCalls();
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  struct CreateOptions {
    std::string request_id;      // empty: a random one, the same for all retries of this call
    bool validate_only = false;  // check everything, create nothing
    // Of a job: it expires when RenewJobLease does not come within this time.  Zero: it lives until
    // somebody ends it.
    absl::Duration lease = absl::ZeroDuration();
  };

  absl::StatusOr<v1::ResolveConfigResponse> ResolveConfig(const v1::ResolveConfigRequest& request);
  // At most 1000 requests; one result each.  What is wrong with one of them is in its result.
  absl::StatusOr<v1::BatchResolveConfigsResponse> BatchResolveConfigs(
      const v1::BatchResolveConfigsRequest& request);
  absl::StatusOr<v1::LintConfigResponse> LintConfig(const v1::LintConfigRequest& request);
  absl::StatusOr<v1::DiffConfigsResponse> DiffConfigs(const v1::DiffConfigsRequest& request);
  // `path`: "zero_optimization.stage", or "" for the whole config.
  absl::StatusOr<v1::QueryConfigResponse> QueryConfig(absl::string_view job,
                                                      absl::string_view path);
  // Keeps the config of `job` readable although the job is deleted.  A zero `ttl` is the server's
  // default, or for a renewal what the lease had.
  absl::StatusOr<v1::ConfigLease> AcquireConfigLease(absl::string_view job, absl::Duration ttl);
  absl::StatusOr<v1::ConfigLease> RenewConfigLease(absl::string_view name, absl::Duration ttl);
  absl::Status ReleaseConfigLease(absl::string_view name);

  absl::StatusOr<v1::CreateJobResponse> CreateJob(const v1::JobSpec& spec,
                                                  const CreateOptions& options);
  absl::StatusOr<v1::Job> GetJob(absl::string_view name);
  // All jobs, oldest first, page by page.
  absl::StatusOr<std::vector<v1::Job>> ListJobs();
  // Of a job that is over already it changes nothing.
  absl::StatusOr<v1::Job> CancelJob(absl::string_view name);
  // The job is done: its owner has what it wanted.  FAILED_PRECONDITION while a load of it runs,
  // and of one that is over in another way.
  absl::StatusOr<v1::Job> FinishJob(absl::string_view name);
  // For the owner of a job that was created with CreateOptions::lease, several times in its length.
  // FAILED_PRECONDITION when the job is over, or has no lease.
  absl::StatusOr<v1::Job> RenewJobLease(absl::string_view name);
  // `etag`: delete only if the job still has it; empty: whatever it has.
  absl::Status DeleteJob(absl::string_view name, absl::string_view etag);

  absl::StatusOr<v1::Load> CreateLoad(absl::string_view job, const CreateOptions& options);
  absl::StatusOr<v1::Load> GetLoad(absl::string_view name);
  // All loads of `job` (empty: of all jobs), oldest first.
  absl::StatusOr<std::vector<v1::Load>> ListLoads(absl::string_view job);
  absl::StatusOr<v1::Load> CancelLoad(absl::string_view name);
  // Dry run of a job that is never created.  Where the weights would stop the load, an OK status
  // with the report and, instead of a plan, the failure in it.
  absl::StatusOr<v1::PlanLoadResponse> PlanLoad(const v1::JobSpec& spec);

  // Follows a load until it is terminal (ready, failed or cancelled) and returns it as it ended:
  // a failed load is an OK status with the failure in it.  `on_change`, unless null, is called
  // on this thread with every state that arrives; returning false stops the watch with CANCELLED
  // (the load goes on). A broken stream is opened again.  When `timeout` (or Options::deadline) is
  // over, DEADLINE_EXCEEDED says in which state the load is and which nodes are late; when the
  // server was not there, or did not answer, for Options::timeout: UNAVAILABLE.
  absl::StatusOr<v1::Load> WatchLoad(absl::string_view name, absl::Duration timeout,
                                     const std::function<bool(const v1::Load&)>& on_change);

  // ---- DeepSpeed checkpoints that jobs have written.  Whether one is complete is what an agent
  // found that looked at its files: registering, `verify`, finding and pruning look, and are
  // UNAVAILABLE, reason NOT_ENOUGH_AGENTS, without an agent that does.

  // `checkpoint`: job, path and, unless it is the one that `latest` of its folder names, the tag.
  // An incomplete one is registered as such.
  absl::StatusOr<v1::Checkpoint> RegisterCheckpoint(const v1::Checkpoint& checkpoint,
                                                    const CreateOptions& options);
  absl::StatusOr<v1::Checkpoint> GetCheckpoint(absl::string_view name, bool verify = false);
  struct ListCheckpointsOptions {
    std::string job, path;  // only those; empty: all
    bool verify = false;
  };
  // Those registered last first, page by page.
  absl::StatusOr<std::vector<v1::Checkpoint>> ListCheckpoints(
      const ListCheckpointsOptions& options);
  absl::StatusOr<v1::Checkpoint> PinCheckpoint(absl::string_view name);
  absl::StatusOr<v1::Checkpoint> UnpinCheckpoint(absl::string_view name);
  // The newest complete one of a job or in a folder.
  absl::StatusOr<v1::FindLatestCheckpointResponse> FindLatestCheckpoint(
      const v1::FindLatestCheckpointRequest& request);
  // Forgets; files stay.  A retry after a lost answer tells only what it forgot itself.
  absl::StatusOr<v1::PruneCheckpointsResponse> PruneCheckpoints(
      const v1::PruneCheckpointsRequest& request);
  // `etag`: only if it still has it; empty: whatever it has.
  absl::Status DeleteCheckpoint(absl::string_view name, absl::string_view etag);

  absl::StatusOr<std::vector<v1::AgentInfo>> ListAgents();
  absl::StatusOr<v1::GetServerInfoResponse> GetServerInfo();

 private:
  struct Rep;
  explicit Client(std::unique_ptr<Rep> rep);
  const std::unique_ptr<Rep> rep_;
};

// A random request_id, for a caller that must know it although the answer of its creation is lost:
// the same creation under the same id gives what was made.
std::string NewRequestId();

// True when `state` never changes again.
bool IsTerminal(v1::LoadState state);

// The status that a failed or cancelled load stands for, or one that is ready and whose shards were
// freed before anybody took them (v1.Load.freed; not those of a load that was cancelled
// afterwards). OK for every other one.
absl::Status LoadStatus(const v1::Load& load);

// The gRPC service config that every channel of the library uses: which methods are retried, how
// often.
absl::string_view ServiceConfig();

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_CPP_CLIENT_H_
