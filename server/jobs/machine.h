#ifndef ZEROCAST_SERVER_JOBS_MACHINE_H_
#define ZEROCAST_SERVER_JOBS_MACHINE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "server/jobs/events.h"
#include "server/jobs/source.h"
#include "server/jobs/types.h"

namespace zerocast::jobs {

// What time it is, for one call.
struct Moment {
  absl::Duration steady;  // Clock::Steady(): for deadlines
  absl::Time wall;        // Clock::Now(): for timestamps
};

struct MachineOptions {
  // How often agents say that they are there; three in a row missed end a session.
  absl::Duration heartbeat_interval = absl::Seconds(5);
  // Bounds on what is kept.
  int64_t max_jobs = 10000;
  int64_t max_loads = 100000;
  int64_t max_active_loads = 1000;
  // How long jobs with a lease are kept when they are over.
  absl::Duration keep_ended = absl::Hours(24);
};

// A connected agent.
struct Agent {
  SessionId session = 0;
  std::string node_name;
  uint64_t incarnation = 0;
  std::string version, socket_path, bulk_host;
  absl::Duration last_heard;
  std::vector<HeldShards> held_shards;  // that other loads can take
  int64_t cache_bytes = 0;              // of those the ones that no load uses any more
  AgentLimits limits;
  std::vector<Gpu> gpus;
  std::string no_gpus_because;
  bool looks_at_folders = false;
};

// Jobs, loads, agents: the whole state of the server, and its rules.  README.md has the states.
//
// Thread-compatible, deterministic, no I/O.  Methods that change something append commands to
// `out`; the caller carries them out in order.  References and pointers that are returned live
// until the next change.
class Machine {
 public:
  explicit Machine(const MachineOptions& options) : options_(options) {}

  // ---- Start-up: what the store holds; before anything else.
  void RestoreJob(Job job);
  // A load that was not final becomes FAILED and is persisted.
  void RestoreLoad(Load load, std::vector<Command>* out);

  // ---- What callers ask for.  A creation is checked first, then persisted by the caller (which
  // also gives a load its epoch), then added: what is not durable is never visible.

  // The name of what this request made before; "" when it is new.  Errors: INVALID_ARGUMENT, reason
  // INVALID_FIELDS, when the id came with another body.
  absl::StatusOr<std::string> FindJobOf(const RequestKey& request) const;
  absl::StatusOr<std::string> FindLoadOf(const RequestKey& request) const;

  // `being_made`, here and below: how many more the caller is about to add.
  // Errors: RESOURCE_EXHAUSTED when max_jobs are kept.
  absl::Status CheckNewJob(int64_t being_made = 0) const;
  void AddJob(Job job, std::vector<Command>* out);

  // Errors: NOT_FOUND; FAILED_PRECONDITION, reason WRONG_STATE, when the job is over or has an
  // active load; RESOURCE_EXHAUSTED.
  absl::Status CheckNewLoad(absl::string_view job, int64_t being_made = 0) const;
  absl::Status CheckLoadLimits(int64_t being_made = 0) const;
  // `load` has name, job, epoch, create_time, request and plan_only.
  void AddLoad(Load load, const Moment& now, std::vector<Command>* out);

  // Errors: NOT_FOUND.
  absl::StatusOr<std::shared_ptr<const Job>> GetJob(absl::string_view name) const;
  absl::StatusOr<const Load*> GetLoad(absl::string_view name) const;

  // Idempotent; a job that is over stays what it is.  Errors: NOT_FOUND.
  absl::Status CancelJob(absl::string_view name, const Moment& now, std::vector<Command>* out);
  // The job is kDone, and the shards of its loads are freed, but for those that went over for good.
  // Idempotent.  Errors: NOT_FOUND; FAILED_PRECONDITION, reason WRONG_STATE, when it has an active
  // load, or is over in another way.
  absl::Status FinishJob(absl::string_view name, const Moment& now, std::vector<Command>* out);
  // The job's lease lasts its whole length from now on.  Errors: NOT_FOUND; FAILED_PRECONDITION,
  // reason WRONG_STATE, when the job is over, or has no lease.
  absl::Status RenewJobLease(absl::string_view name, const Moment& now);
  absl::Status CancelLoadByName(absl::string_view name, const Moment& now,
                                std::vector<Command>* out);

  // The names of the job's loads, which go with it.  Errors: NOT_FOUND; FAILED_PRECONDITION, reason
  // WRONG_STATE, unless the job is over, and so all its loads are.
  absl::StatusOr<std::vector<std::string>> CheckDeleteJob(absl::string_view name) const;
  void RemoveJob(absl::string_view name);
  // Ends (as CancelLoad does) and forgets a plan_only load; nothing when it is not there.
  void RemovePlanOnly(absl::string_view name, const Moment& now, std::vector<Command>* out);

  // ALREADY_EXISTS while another agent (another incarnation) of this node's name is connected and
  // not silent: two machines with one name would end each other's streams and loads without end.
  // An AgentRegistered that this refuses only ends its own session.
  absl::Status CheckNewAgent(const AgentRegistered& event, const Moment& now) const;

  // ---- What agents, the compiler and time do.  Events of old sessions, of other epochs and of
  // final loads change nothing; num_dropped() counts them.
  void Apply(const Event& event, const Moment& now, std::vector<Command>* out);

  // ---- What is there.
  const std::map<std::string, std::shared_ptr<const Job>, std::less<>>& jobs() const {
    return jobs_;
  }
  const std::map<std::string, Agent, std::less<>>& agents() const { return agents_; }
  // In the order of names; plan_only ones are among them.
  std::vector<const Load*> Loads() const;
  // Loads that `agent` takes part in or holds shards of, by name.
  std::vector<std::string> LoadsOf(const Agent& agent) const;
  // The nodes that a load's present state waits for, as v1.Load.waits_for; empty for an unknown
  // one.
  std::vector<std::string> WaitsFor(absl::string_view load) const;
  int64_t num_dropped() const { return num_dropped_; }
  int64_t num_active() const { return static_cast<int64_t>(active_.size()); }
  const MachineOptions& options() const { return options_; }

 private:
  // A load and what only its running needs.
  struct Run {
    Load load;
    absl::Duration started;           // steady time of creation
    absl::Duration deadline;          // steady; of the wait in the present state
    bool compiling = false;           // INSPECTING: the manifest is here, the compiler is at work
    std::vector<SessionId> sessions;  // by node number
    std::vector<AgentLimits> limits;  // by node number, of a dry run's other nodes, too
    std::vector<bool> reported;       // by node number: this state's report is here
    std::vector<NodeShards> shards;   // by node number; from the reports of PREPARING
    SourceChoice choice;
    // Agents that give shards and are no nodes of the load.
    struct Donor {
      SessionId session = 0;
      std::string node_name;
      bool accepted = false;  // it has the shards
    };
    std::vector<Donor> donors;  // that have not sent all yet
  };

  void On(const AgentRegistered& event, const Moment& now, std::vector<Command>* out);
  void On(const SessionClosed& event, const Moment& now, std::vector<Command>* out);
  void On(const Heartbeat& event, const Moment& now, std::vector<Command>* out);
  void On(const ManifestReport& event, const Moment& now, std::vector<Command>* out);
  void On(const PlanCompiled& event, const Moment& now, std::vector<Command>* out);
  void On(const PlanReport& event, const Moment& now, std::vector<Command>* out);
  void On(const RendezvousEntry& event, const Moment& now, std::vector<Command>* out);
  void On(const ProgressReport& event, const Moment& now, std::vector<Command>* out);
  void On(const NodeReport& event, const Moment& now, std::vector<Command>* out);
  void On(const HandOverReport& event, const Moment& now, std::vector<Command>* out);
  void On(const ShardsFreedReport& event, const Moment& now, std::vector<Command>* out);
  void On(const HeldShardsReport& event, const Moment& now, std::vector<Command>* out);
  void On(const DonationReport& event, const Moment& now, std::vector<Command>* out);
  void On(const Tick& event, const Moment& now, std::vector<Command>* out);

  Agent* FindAgent(SessionId session);
  // The load that a report is about, when it counts: from a current session of one of its nodes,
  // with its epoch, in one of `states`.  Else null, and the report is counted as dropped.  Also
  // marks the agent as heard.
  template <typename Report>
  Run* Accept(const Report& report, std::initializer_list<LoadState> states, const Moment& now,
              int32_t* node);
  // The same without a look at whose session it is, and without counting.
  template <typename Report>
  Run* FindReported(const Report& report, std::initializer_list<LoadState> states,
                    const Moment& now);

  void LoseAgent(const std::string& node_name, absl::string_view why, const Moment& now,
                 std::vector<Command>* out);
  // What an agent holds, as it says, against what it should: shards that nobody waits for are
  // freed, those that it does not have are lost.
  void CompareHeld(const Agent& agent, const std::vector<HeldLoad>& held,
                   std::vector<Command>* out);
  // The READY load whose shards a report of an agent is about; null, and counted as dropped, when
  // there is none.  By the node's name, not the session: such a load outlives its agents' streams.
  template <typename Report>
  Run* AcceptReady(const Report& report, const Agent* agent);
  // Marks those of the ranks' shards that did not go over for good.
  void FreeShards(Run* run, const std::string& node_name, const std::vector<int32_t>& ranks,
                  const absl::Status& why, std::vector<Command>* out);
  // After a change of its shards: whether the node still has something of the load.
  void UpdateHeld(const Load& load, const std::string& node_name);
  // All nodes are prepared: decides where the shards come from, then asks the donors, or starts.
  void ChooseAndStart(Run* run, const Moment& now, std::vector<Command>* out);
  SourceRequest DescribeSources(const Run& run) const;
  void AskDonors(Run* run, const Moment& now, std::vector<Command>* out);
  void StartAll(Run* run, const Moment& now, std::vector<Command>* out);
  // A donor is not there, or does not answer: the files are.
  void StartFromFiles(Run* run, absl::string_view why, const Moment& now,
                      std::vector<Command>* out);
  void OnDonorFailed(Run* run, SessionId session, absl::Status why, const Moment& now,
                     std::vector<Command>* out);
  static Run::Donor* FindDonor(Run* run, SessionId session);
  // Starts the load if its agents are there.
  void TryPlace(Run* run, const Moment& now, std::vector<Command>* out);
  std::vector<const Agent*> PickAgents(const Job& job) const;
  void Enter(Run* run, LoadState state, const Moment& now, std::vector<Command>* out);
  void RestartWait(Run* run, const Moment& now) const;
  // `except`: the session that reported the failure itself, or 0.
  void Fail(Run* run, absl::Status failure, SessionId except, const Moment& now,
            std::vector<Command>* out);
  void End(Run* run, LoadState state, const Moment& now, std::vector<Command>* out);
  void Expire(Run* run, const Moment& now, std::vector<Command>* out);
  // Makes a job final that is not, and ends its loads, which are told `why`.
  void EndJob(std::shared_ptr<const Job>* job, JobState state, absl::string_view why,
              const Moment& now, std::vector<Command>* out);
  // Starts leases, ends those that ran out, forgets jobs that had one.
  void TickLeases(const Moment& now, std::vector<Command>* out);
  // The job's load that is not final; "" when there is none.
  std::string ActiveLoadOf(absl::string_view job) const;
  void CancelRun(Run* run, absl::string_view why, const Moment& now, std::vector<Command>* out);
  void SendCancel(const Run& run, absl::string_view why, SessionId except,
                  std::vector<Command>* out);
  // Names of the nodes whose report is still missing.
  static std::vector<std::string> Missing(const Run& run);
  bool AllReported(const Run& run) const;
  static absl::Status CheckShards(const Run& run, int32_t node, const std::vector<Shard>& shards);
  void Touch(const Run& run, std::vector<Command>* out) const;

  MachineOptions options_;
  std::map<std::string, std::shared_ptr<const Job>, std::less<>> jobs_;
  std::map<std::string, Run, std::less<>> runs_;
  // Names of loads that are not final, so that a tick costs what is active, not what is kept.
  std::set<std::string, std::less<>> active_;
  std::map<std::string, Agent, std::less<>> agents_;  // by node name
  std::map<SessionId, std::string> node_of_session_;
  // By node name: the READY loads of which it should hold shards, whether its agent is connected or
  // not.
  std::map<std::string, std::set<std::string>> held_;
  std::map<std::string, std::string> job_of_request_, load_of_request_;  // request id -> name
  // By active job with a lease: the steady time when that ends.  Infinite until the next tick: with
  // a server that starts anew leases start anew, for nobody could renew them while it was away.
  std::map<std::string, absl::Duration> lease_ends_;
  // Jobs that had a lease and are over, by their end.
  std::set<std::pair<absl::Time, std::string>> ended_;
  int64_t num_dropped_ = 0;
};

}  // namespace zerocast::jobs

#endif  // ZEROCAST_SERVER_JOBS_MACHINE_H_
