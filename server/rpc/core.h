#ifndef ZEROCAST_SERVER_RPC_CORE_H_
#define ZEROCAST_SERVER_RPC_CORE_H_

#include <algorithm>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
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
#include "server/jobs/checkpoints.h"
#include "server/jobs/machine.h"
#include "server/rpc/checkpoint_registry.h"
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
  int64_t waiting = 0;  // calls that wait for the store
};

// Drives the state machine: owns its lock, clock, store, compiler threads and subscribers.
//
// Thread-safe.  One lock guards the machine; nothing waits for the store, compiles or writes a
// stream under it.  A thread of its own writes to the store.  It takes all that has piled up while
// it wrote before (group commit), so a slow disk costs everybody who waits for it one or two of its
// waits, and nobody else anything.
//
// What is answered, sent or shown is durable first.  A job or load whose record the machine has
// changed is "unwritten" until the writer has brought it to the store: messages to agents and
// watchers about it are held back so long, in their order, and an answer that tells of it waits
// (for the state as it was when asked for, so later changes do not keep it waiting).  Creations and
// deletions are written first and done in the machine then; until then their names are "claimed",
// and calls about the same names wait.
//
// When the store refuses a write that the machine has already made (the end of a load), the writer
// tries again every 200 ms; until it succeeds every call is UNAVAILABLE with STORE_UNAVAILABLE, and
// nobody is shown what a restart would take back.
class Core {
 public:
  struct Options {
    jobs::MachineOptions machine;
    int max_sessions = 4096, max_watches = 4096, max_dry_runs = 8, max_looks = 8;
    int num_compilers = 2;
    // Callers that may wait for the store at once; one more is UNAVAILABLE.
    int max_waiting = 64;
  };
  // How long a call waits for the store at most, where its caller has not said.
  static constexpr absl::Duration kLongestWait = absl::Seconds(10);

  // Restores what the store holds.  Errors: the store's; DATA_LOSS for a damaged record.
  static absl::StatusOr<std::unique_ptr<Core>> Create(const Options& options,
                                                      std::unique_ptr<StateStore> store,
                                                      const Clock* clock);
  ~Core();  // ends all threads; what is unwritten is tried once more
  Core(const Core&) = delete;
  Core& operator=(const Core&) = delete;

  // ---- Jobs and loads.  Errors beside those of jobs::Machine: UNAVAILABLE with STORE_UNAVAILABLE
  // or SHUTTING_DOWN; DEADLINE_EXCEEDED when the store takes longer than `timeout`, and what was
  // asked for may still happen.  Under `validate_only` everything is checked and nothing written.

  struct CreatedJob {
    v1::Job job;
    std::string attach_token;
  };
  absl::StatusOr<CreatedJob> CreateJob(jobs::Job job, bool validate_only,
                                       absl::Duration timeout = kLongestWait);
  absl::StatusOr<v1::Load> CreateLoad(absl::string_view job, const jobs::RequestKey& request,
                                      bool validate_only, absl::Duration timeout = kLongestWait);
  // The job that `request` made, if it did: asked before the work of resolving its config.
  absl::StatusOr<CreatedJob> FindJobOf(const jobs::RequestKey& request,
                                       absl::Duration timeout = kLongestWait);

  absl::StatusOr<v1::Job> GetJob(absl::string_view name, absl::Duration timeout = kLongestWait);
  absl::StatusOr<v1::Load> GetLoad(absl::string_view name, absl::Duration timeout = kLongestWait);
  // At most `limit` with names greater than `after`, in order of creation; `more`: there are
  // others.  A page ends before it has more than kMaxPageBytes, unless its first is larger: it fits
  // the 4 MiB that gRPC's clients take by default.
  static constexpr size_t kMaxPageBytes = size_t{3} << 20;
  absl::StatusOr<std::vector<v1::Job>> ListJobs(absl::string_view after, int limit, bool* more,
                                                absl::Duration timeout = kLongestWait);
  absl::StatusOr<std::vector<v1::Load>> ListLoads(absl::string_view job, absl::string_view after,
                                                  int limit, bool* more,
                                                  absl::Duration timeout = kLongestWait);
  absl::StatusOr<v1::Job> CancelJob(absl::string_view name, absl::Duration timeout = kLongestWait);
  absl::StatusOr<v1::Load> CancelLoad(absl::string_view name,
                                      absl::Duration timeout = kLongestWait);
  absl::StatusOr<v1::Job> FinishJob(absl::string_view name, absl::Duration timeout = kLongestWait);
  // Changes nothing that is stored.
  absl::StatusOr<v1::Job> RenewJobLease(absl::string_view name,
                                        absl::Duration timeout = kLongestWait);
  // Errors: ABORTED, reason WRONG_STATE, when `etag` is not empty and not the job's.
  absl::Status DeleteJob(absl::string_view name, absl::string_view etag,
                         absl::Duration timeout = kLongestWait);

  // Inspects and plans; blocks.  `cancelled` is asked a few times a second.  The load that comes
  // back is READY, or FAILED.  Errors: DEADLINE_EXCEEDED, CANCELLED, RESOURCE_EXHAUSTED.
  absl::StatusOr<v1::Load> PlanLoad(jobs::Job job, absl::Duration timeout,
                                    const std::function<bool()>& cancelled);

  // The watcher gets the present state before this returns (or, while that is unwritten, as soon as
  // it is written), then each change that it is fast enough for, and always the last one.  Errors:
  // NOT_FOUND; RESOURCE_EXHAUSTED.
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

  // Has an agent look at a folder of DeepSpeed checkpoints; blocks.  One of `nodes` is asked where
  // one of them is connected, else any; where the folder is not there, up to kMaxTries of them.
  // `tags`: those to look at, besides the one that `latest` names; `all_tags`: all that are there,
  // too.  `cancelled` is asked a few times a second.  Errors beside those of jobs and loads:
  // UNAVAILABLE, reason NOT_ENOUGH_AGENTS, where there is no agent that looks, or AGENT_LOST;
  // DEADLINE_EXCEEDED, CANCELLED, RESOURCE_EXHAUSTED; NOT_FOUND, reason CHECKPOINT_NOT_FOUND, where
  // there is no such folder; others of the agent.
  static constexpr size_t kMaxTries = 4;
  struct LookRequest {
    std::vector<std::string> nodes;
    std::string path;
    std::vector<std::string> tags;
    bool all_tags = false;
  };
  absl::StatusOr<jobs::FolderLook> LookAtFolder(const LookRequest& request, absl::Duration timeout,
                                                const std::function<bool()>& cancelled);
  // An agent's answer to LookAtFolder.  One that nobody waits for changes nothing.
  void NoteFolderReport(jobs::SessionId session, const v1::FolderReport& report);

  // ---- Life.
  // False while the store refuses records, or has been at one commit for more than 10 s.
  bool Healthy();
  CoreCounts Counts();
  absl::string_view store_kind() const { return store_->kind(); }
  // For what lies beside jobs and loads, under other keys.
  StateStore* store() const { return store_.get(); }
  // What loads of DeepSpeed checkpoints are compared with.
  CheckpointRegistry* checkpoints() const { return checkpoints_.get(); }
  // New jobs and loads are refused from now on.
  void StartDraining();
  // Blocks until no load is active and nothing waits for the store, at most for `timeout`.  True
  // when that is so.
  bool WaitIdle(absl::Duration timeout);
  // Ends all streams, watches and waits for the store with SHUTTING_DOWN.
  void EndStreams();

 private:
  // What a caller asked for and is written before the machine does it: a new job, a new load, or a
  // job's deletion.
  struct Change {
    std::vector<StoreWrite> writes;
    // "jobs/ID", "request of a job ID", ...: whoever is about the same waits until this is done.
    std::vector<std::string> claims;
    std::optional<jobs::Job> new_job;
    std::optional<jobs::Load> new_load;  // the revision of its commit becomes its epoch
    std::string removed_job;
    bool done = false;
    absl::Status status;  // once done
  };
  // A command that waits for the record of what it is about.
  struct Held {
    uint64_t version;
    jobs::Command command;
  };
  struct Unwritten {
    uint64_t version = 0;  // of the record's latest change
    std::vector<Held> held;
  };
  // What the writer takes at once.
  struct Round {
    uint64_t version = 0;  // all changes of records up to this one are in it
    std::vector<std::shared_ptr<const jobs::Job>> jobs;
    std::vector<jobs::Load> loads;
    std::vector<std::shared_ptr<Change>> changes;
  };

  Core(const Options& options, std::unique_ptr<StateStore> store, const Clock* clock);
  absl::Status Restore();
  absl::Status RestoreLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  jobs::Moment Now() const { return {clock_->Steady(), clock_->Now()}; }
  absl::Status CheckUsableLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckNotDrainingLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // ---- core_writes.cc: the writer and who waits for it.  `until` is real steady time.
  void WriteLoop();
  // False when there is nothing to write and never will be.  Waits for something.
  bool TakeRound(Round* round);
  Round TakeRoundLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Writes a round and lets go of what waited for it.  The store's status.
  absl::Status WriteRound(const Round& round);
  void FinishLocked(Change* change, const absl::StatusOr<int64_t>& revision)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Every change of a record up to `version` is durable.
  void ReleaseLocked(uint64_t version) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Waits for the writer's next round.
  absl::Status AwaitRoundLocked(absl::Duration until) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status AwaitDurableLocked(uint64_t version, absl::Duration until)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status AwaitUnclaimedLocked(const std::string& claim, absl::Duration until)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The deletion of a job that is over, whose loads these are.
  static std::shared_ptr<Change> DeletionOf(absl::string_view job, std::vector<std::string> loads);
  // Hands `change` to the writer.
  void HandOverLocked(const std::shared_ptr<Change>& change) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The same, and waits until it is done.
  absl::Status DoChangeLocked(const std::shared_ptr<Change>& change, absl::Duration until)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The version that must be durable before the present state of `name` is shown; 0: it is.
  uint64_t VersionLocked(absl::string_view name) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // Carries out commands in their order, those about something unwritten once it is written.
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
  void DoLocked(const jobs::JobExpired& command) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void DoLocked(const jobs::ForgetJob& command) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::string NewNameLocked(absl::string_view collection) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // How many changes wait to be written that make such a resource.
  template <typename Resource>
  int64_t NumChangesLocked(std::optional<Resource> Change::*made) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return std::count_if(changes_.begin(), changes_.end(),
                         [made](const auto& change) { return ((*change).*made).has_value(); });
  }
  // The present state, once it is durable.
  absl::StatusOr<v1::Job> ReadJobLocked(absl::string_view name, absl::Duration until)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<v1::Load> ReadLoadLocked(absl::string_view name, absl::Duration until)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // What `request` made before, when it did, once that is durable.
  absl::StatusOr<std::optional<CreatedJob>> FindJobLocked(const jobs::RequestKey& request,
                                                          absl::Duration until)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  v1::Load ShowLocked(const jobs::Load& load, bool with_digests) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // ---- core_looks.cc
  struct Look {
    jobs::SessionId session = 0;
    std::string node_name;
    std::optional<absl::StatusOr<jobs::FolderLook>> answer;
  };
  // Who may be asked, in this order.
  absl::StatusOr<std::vector<std::string>> LookersLocked(const LookRequest& request) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<jobs::FolderLook> LookLocked(const std::string& node, const LookRequest& request,
                                              absl::Duration until,
                                              const std::function<bool()>& cancelled)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The stream is over: what it was to answer never comes.
  void LoseLooksLocked(jobs::SessionId session, absl::string_view why)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  void CompileLoop();
  void TickLoop();

  const Options options_;
  const std::unique_ptr<StateStore> store_;
  const Clock* const clock_;
  std::unique_ptr<CheckpointRegistry> checkpoints_;  // set before there are threads

  Mutex mutex_;
  CondVar changed_;  // a load changed
  jobs::Machine machine_ ABSL_GUARDED_BY(mutex_);
  uint64_t version_ ABSL_GUARDED_BY(mutex_) = 0;  // counts the changes of records
  uint64_t durable_ ABSL_GUARDED_BY(mutex_) = 0;  // changes up to this one are in the store
  std::map<std::string, Unwritten, std::less<>> unwritten_ ABSL_GUARDED_BY(mutex_);
  std::deque<std::shared_ptr<Change>> changes_ ABSL_GUARDED_BY(mutex_);  // to do, oldest first
  std::set<std::string, std::less<>> claims_ ABSL_GUARDED_BY(mutex_);
  // Names of a job and its loads, while their deletion is written: their records are not.  True:
  // one of them would have been.
  std::map<std::string, bool, std::less<>> being_deleted_ ABSL_GUARDED_BY(mutex_);
  absl::Status store_error_ ABSL_GUARDED_BY(mutex_);  // of the latest round
  absl::Duration writing_since_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteDuration();
  // The largest number in a name, or revision, so far.
  int64_t last_number_ ABSL_GUARDED_BY(mutex_) = 0;
  int num_waiting_ ABSL_GUARDED_BY(mutex_) = 0;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;  // nobody waits any more
  bool stopping_writer_ ABSL_GUARDED_BY(mutex_) = false;
  CondVar write_wanted_, round_done_;
  jobs::SessionId last_session_ ABSL_GUARDED_BY(mutex_) = 0;
  std::set<jobs::SessionId> reserved_ ABSL_GUARDED_BY(mutex_);
  std::map<jobs::SessionId, std::shared_ptr<SessionSink>> sessions_ ABSL_GUARDED_BY(mutex_);
  std::multimap<std::string, std::shared_ptr<JobSink>> job_sinks_ ABSL_GUARDED_BY(mutex_);
  std::multimap<std::string, std::shared_ptr<LoadSink>> load_sinks_ ABSL_GUARDED_BY(mutex_);
  int num_dry_runs_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<std::string, Look> looks_ ABSL_GUARDED_BY(mutex_);  // on their way
  int num_looking_ ABSL_GUARDED_BY(mutex_) = 0;                // calls of LookAtFolder
  CondVar looked_;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;

  Mutex compile_mutex_;
  CondVar compile_wanted_;
  std::deque<jobs::CompilePlanCommand> compilations_ ABSL_GUARDED_BY(compile_mutex_);
  bool stopping_ ABSL_GUARDED_BY(compile_mutex_) = false;
  CondVar stop_ticking_;

  std::vector<std::thread> threads_;  // compilers, tick
  std::thread writer_;
};

}  // namespace zerocast::rpc

#endif  // ZEROCAST_SERVER_RPC_CORE_H_
