#ifndef ZEROCAST_SERVER_RPC_CORE_H_
#define ZEROCAST_SERVER_RPC_CORE_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "kernels/base/mutex.h"
#include "server/base/clock.h"
#include "server/jobs/machine.h"
#include "server/store/state_store.h"
#include "zerocast/v1/agent.pb.h"
#include "zerocast/v1/job.pb.h"
#include "zerocast/v1/load.pb.h"

namespace zerocast::rpc {

// The server's end of an agent's stream.  Calls come under Core's lock: they only queue.
class SessionSink {
 public:
  virtual ~SessionSink() = default;
  virtual void Deliver(v1::SessionResponse message) = 0;
  virtual void End(absl::Status status) = 0;
};

// Somebody who watches a job or a load.  Calls come under Core's lock: they only keep the latest.
template <typename Resource>
class WatchSink {
 public:
  virtual ~WatchSink() = default;
  // `final`: nothing comes after this.
  virtual void Update(std::shared_ptr<const Resource> latest, bool final) = 0;
  virtual void End(absl::Status status) = 0;
};
using JobSink = WatchSink<v1::Job>;
using LoadSink = WatchSink<v1::Load>;

// What is counted of the machine's state.
struct CoreCounts {
  std::map<std::string, int64_t> loads_by_state;
  int64_t agents = 0, jobs = 0, sessions = 0, watches = 0, dropped_reports = 0;
};

// Drives the state machine: owns its lock, clock, store, compiler threads and subscribers.
//
// Thread-safe.  One lock guards the machine, and the store is written under it: what is answered,
// sent or shown must be durable first and in the machine's own order, and only what changes a
// resource's state is written (a few writes a load).  Streams are only queued to, never written,
// under the lock; plans are compiled outside of it.
//
// When the store refuses a write that the machine has already made (the end of a load), the record
// stays "unwritten": until a later attempt succeeds every call is UNAVAILABLE with
// STORE_UNAVAILABLE, and nobody is shown what a restart would take back.
class Core {
 public:
  struct Options {
    jobs::MachineOptions machine;
    int max_sessions = 4096, max_watches = 4096, max_dry_runs = 8;
    int num_compilers = 2;
  };
  // Restores what the store holds.  Errors: the store's; DATA_LOSS for a damaged record.
  static absl::StatusOr<std::unique_ptr<Core>> Create(const Options& options,
                                                      std::unique_ptr<StateStore> store,
                                                      const Clock* clock);
  ~Core();  // ends all threads
  Core(const Core&) = delete;
  Core& operator=(const Core&) = delete;

  // ---- Jobs and loads.  Errors beside those of jobs::Machine: UNAVAILABLE with STORE_UNAVAILABLE
  // or SHUTTING_DOWN.  Under `validate_only` everything is checked and nothing written.

  struct CreatedJob {
    v1::Job job;
    std::string attach_token;
  };
  absl::StatusOr<CreatedJob> CreateJob(jobs::Job job, bool validate_only);
  absl::StatusOr<v1::Load> CreateLoad(absl::string_view job, const jobs::RequestKey& request,
                                      bool validate_only);
  // The job that `request` made, if it did: asked before the work of resolving its config.
  absl::StatusOr<CreatedJob> FindJobOf(const jobs::RequestKey& request);

  absl::StatusOr<v1::Job> GetJob(absl::string_view name);
  absl::StatusOr<v1::Load> GetLoad(absl::string_view name);
  // At most `limit` with names greater than `after`, in order of creation; `more`: there are
  // others.
  absl::StatusOr<std::vector<v1::Job>> ListJobs(absl::string_view after, int limit, bool* more);
  absl::StatusOr<std::vector<v1::Load>> ListLoads(absl::string_view job, absl::string_view after,
                                                  int limit, bool* more);
  absl::StatusOr<v1::Job> CancelJob(absl::string_view name);
  absl::StatusOr<v1::Load> CancelLoad(absl::string_view name);
  // Errors: ABORTED, reason WRONG_STATE, when `etag` is not empty and not the job's.
  absl::Status DeleteJob(absl::string_view name, absl::string_view etag);

  // Inspects and plans; blocks.  `cancelled` is asked a few times a second.  The load that comes
  // back is READY, or FAILED.  Errors: DEADLINE_EXCEEDED, CANCELLED, RESOURCE_EXHAUSTED.
  absl::StatusOr<v1::Load> PlanLoad(jobs::Job job, absl::Duration timeout,
                                    const std::function<bool()>& cancelled);

  // The watcher gets the present state before this returns, then each change that it is fast enough
  // for, and always the last one.  Errors: NOT_FOUND; RESOURCE_EXHAUSTED.
  absl::Status WatchJob(absl::string_view name, std::shared_ptr<JobSink> sink);
  absl::Status WatchLoad(absl::string_view name, std::shared_ptr<LoadSink> sink);
  void Unwatch(const JobSink* sink);
  void Unwatch(const LoadSink* sink);

  // ---- Agents.
  // Reserves a place for a stream that has not registered yet.  Errors: RESOURCE_EXHAUSTED.
  absl::StatusOr<jobs::SessionId> ReserveSession();
  // Answers Registered through the sink.  ALREADY_EXISTS as of Machine::CheckNewAgent; the sink is
  // then forgotten.
  absl::Status Register(jobs::AgentRegistered event, std::shared_ptr<SessionSink> sink);
  void Apply(const jobs::Event& event);
  void CloseSession(jobs::SessionId session, absl::string_view why);
  std::vector<v1::AgentInfo> ListAgents();

  // ---- Life.
  // False while records are unwritten.
  bool Healthy();
  CoreCounts Counts();
  absl::string_view store_kind() const { return store_->kind(); }
  // New jobs and loads are refused from now on.
  void StartDraining();
  // Blocks until no load is active, at most for `timeout`.  True when none is.
  bool WaitIdle(absl::Duration timeout);
  // Ends all streams and watches with SHUTTING_DOWN.
  void EndStreams();

 private:
  Core(const Options& options, std::unique_ptr<StateStore> store, const Clock* clock);
  absl::Status Restore();

  jobs::Moment Now() const { return {clock_->Steady(), clock_->Now()}; }
  absl::Status CheckUsableLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckNotDrainingLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Carries out commands: records first, in one commit, then the rest in order.
  void CarryLocked(const std::vector<jobs::Command>& commands)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void DoLocked(const jobs::Send& command) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void DoLocked(const jobs::EndSession& command) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void DoLocked(const jobs::CompilePlanCommand& command) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void DoLocked(const jobs::PersistJob&) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {}
  void DoLocked(const jobs::PersistLoad&) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {}
  void DoLocked(const jobs::NotifyJob& command) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void DoLocked(const jobs::NotifyLoad& command) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void DoLocked(const jobs::LoadEnded& command) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Tries to write every unwritten record; then tells their watchers.
  absl::Status FlushLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::string NewNameLocked(absl::string_view collection, int64_t revision)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  v1::Load ShowLocked(const jobs::Load& load, bool with_digests) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  void CompileLoop();
  void TickLoop();

  const Options options_;
  const std::unique_ptr<StateStore> store_;
  const Clock* const clock_;

  Mutex mutex_;
  CondVar changed_;  // a load changed
  jobs::Machine machine_ ABSL_GUARDED_BY(mutex_);
  std::set<std::string> unwritten_ ABSL_GUARDED_BY(mutex_);  // names of jobs and loads
  jobs::SessionId last_session_ ABSL_GUARDED_BY(mutex_) = 0;
  std::set<jobs::SessionId> reserved_ ABSL_GUARDED_BY(mutex_);
  std::map<jobs::SessionId, std::shared_ptr<SessionSink>> sessions_ ABSL_GUARDED_BY(mutex_);
  std::multimap<std::string, std::shared_ptr<JobSink>> job_sinks_ ABSL_GUARDED_BY(mutex_);
  std::multimap<std::string, std::shared_ptr<LoadSink>> load_sinks_ ABSL_GUARDED_BY(mutex_);
  int num_dry_runs_ ABSL_GUARDED_BY(mutex_) = 0;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;

  Mutex compile_mutex_;
  CondVar compile_wanted_;
  std::deque<jobs::CompilePlanCommand> compilations_ ABSL_GUARDED_BY(compile_mutex_);
  bool stopping_ ABSL_GUARDED_BY(compile_mutex_) = false;
  CondVar stop_ticking_;

  std::vector<std::thread> threads_;
};

}  // namespace zerocast::rpc

#endif  // ZEROCAST_SERVER_RPC_CORE_H_
