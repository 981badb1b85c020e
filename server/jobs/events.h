#ifndef ZEROCAST_SERVER_JOBS_EVENTS_H_
#define ZEROCAST_SERVER_JOBS_EVENTS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/jobs/source.h"
#include "server/jobs/types.h"

namespace zerocast::jobs {

// ---- Events: what agents, the compiler and time do to the machine
// ---------------------------------

// The driver numbers streams; a number is never used again.
using SessionId = int64_t;

struct HeldLoad {
  std::string load;
  int64_t epoch = 0;
};

struct AgentRegistered {
  SessionId session = 0;
  std::string node_name;
  uint64_t incarnation = 0;
  std::string version, socket_path, bulk_host;
  std::vector<HeldLoad> held_loads;
  std::vector<HeldShards> held_shards;
  int64_t cache_bytes = 0;
  AgentLimits limits;
  std::vector<Gpu> gpus = {};
  std::string no_gpus_because = {};
  bool looks_at_folders = false;
};

// What other loads can take from an agent, all of it.
struct HeldShardsReport {
  SessionId session = 0;
  std::vector<HeldShards> shards;
  int64_t cache_bytes = 0;
};

struct SessionClosed {
  SessionId session = 0;
  std::string why;  // for the load's failure: "its stream closed"
};

struct Heartbeat {
  SessionId session = 0;
};

struct ManifestReport {
  SessionId session = 0;
  std::string load;
  int64_t epoch = 0;
  absl::Status failure;
  std::string compressed_manifest;     // opaque here
  std::string checkpoint_digest = {};  // of a DeepSpeed checkpoint, where it was wanted
};

// The driver has carried out a CompilePlan command.
struct PlanCompiled {
  std::string load;
  int64_t epoch = 0;
  absl::Status status;
  std::optional<PlanSummary> plan;  // set when status is OK
  std::optional<Report> report;     // set where the compiler got that far
  std::shared_ptr<const std::string> compressed_plan_input;
};

struct PlanReport {
  SessionId session = 0;
  std::string load;
  int64_t epoch = 0;
  absl::Status failure;
  std::string plan_digest;
  NodeShards shards = {};  // that stay with the agent until StartLoad or CancelLoad
};

// From an agent that gives shards to a load of which it is no node.
struct DonationReport {
  SessionId session = 0;
  std::string load;
  int64_t epoch = 0;
  absl::Status failure;
  bool done = false;  // all was sent; false: it has the shards
};

struct RendezvousEntry {
  SessionId session = 0;
  std::string load;
  int64_t epoch = 0;
  std::string key, value;
};

struct ProgressReport {
  SessionId session = 0;
  std::string load;
  int64_t epoch = 0;
  NodeProgress progress;
};

struct NodeReport {
  SessionId session = 0;
  std::string load;
  int64_t epoch = 0;
  absl::Status failure;
  NodeProgress progress;
  std::vector<Shard> shards;
};

struct HandOverReport {
  SessionId session = 0;
  std::string load;
  int64_t epoch = 0;
  int32_t rank = 0;
  std::string mode;
  std::string way = {}, because = {};
};

// The agent has freed shards of its own accord.
struct ShardsFreedReport {
  SessionId session = 0;
  std::string load;
  int64_t epoch = 0;
  std::vector<int32_t> ranks;
  absl::Status why;
};

// Time passes: checks every deadline.
struct Tick {};

using Event = std::variant<AgentRegistered, SessionClosed, Heartbeat, ManifestReport, PlanCompiled,
                           PlanReport, RendezvousEntry, ProgressReport, NodeReport, HandOverReport,
                           ShardsFreedReport, HeldShardsReport, DonationReport, Tick>;

// ---- Commands: what the driver must do, in order
// --------------------------------------------------

struct InspectCheckpoint {
  std::string load;
  int64_t epoch = 0;
  std::string checkpoint_path, variant;
  absl::Duration deadline;  // steady; when the server stops waiting for the answer
  CheckpointFormat checkpoint_format = CheckpointFormat::kAny;
  std::string checkpoint_tag = {};
};

struct PreparePlan {
  std::string load;
  int64_t epoch = 0;
  std::shared_ptr<const Job> job;
  std::shared_ptr<const std::string> compressed_plan_input;
  std::string plan_digest;
  int32_t node = 0;
  std::vector<std::string> node_names;
};

// Who gives which shard to whom, as one of the participants is told.
struct PeerTransfers {
  std::vector<std::string> participants;  // node names
  int32_t participant = -1;               // who is told
  std::vector<ShardTransfer> transfers;
};

struct StartLoad {
  std::string load;
  int64_t epoch = 0;
  LoadSource source = LoadSource::kFiles;
  std::string content_key = "";
  PeerTransfers peers = {};  // kPeers only
};

// For an agent that is no node of the load.
struct DonateShards {
  std::string load;
  int64_t epoch = 0;
  std::shared_ptr<const Job> job;
  std::string plan_digest, content_key;
  int64_t arena_bytes = 0;
  PeerTransfers peers;
};

struct RelayEntry {
  std::string load;
  int64_t epoch = 0;
  std::string key, value;
};

struct CancelLoad {
  std::string load;
  int64_t epoch = 0;
  std::string why;
};

using AgentMessage =
    std::variant<InspectCheckpoint, PreparePlan, StartLoad, DonateShards, RelayEntry, CancelLoad>;

// Put a message into a session's stream.
struct Send {
  SessionId session = 0;
  AgentMessage message;
};

// End a stream with this status.
struct EndSession {
  SessionId session = 0;
  absl::Status status;
};

// Compile the plan of a load and come back with PlanCompiled.
struct CompilePlanCommand {
  std::string load;
  int64_t epoch = 0;
  std::shared_ptr<const Job> job;
  std::string compressed_manifest;
  std::string checkpoint_digest;  // as in ManifestReport
  // Of one node, beyond the arenas: the job's limit, or the smallest of the load's agents.
  int64_t max_buffer_bytes = 0;
  std::vector<AgentLimits> agents;  // by node number
  // For a dry run: its answer also says what memory the nodes need.
  bool plan_only = false;
};

// Write the record of a job or load as the machine has it now.
struct PersistJob {
  std::string name;
};
struct PersistLoad {
  std::string name;
};

// A job or load changed: tell who watches.
struct NotifyJob {
  std::string name;
};
struct NotifyLoad {
  std::string name;
};

// A load has just become final; once a load.  For the log.
struct LoadEnded {
  std::string name;
};

// The lease of a job ran out.  For the log.
struct JobExpired {
  std::string name;
};

// Delete the job as a caller would who does not wait; said again with every tick until it is gone.
struct ForgetJob {
  std::string name;
};

using Command = std::variant<Send, EndSession, CompilePlanCommand, PersistJob, PersistLoad,
                             NotifyJob, NotifyLoad, LoadEnded, JobExpired, ForgetJob>;

}  // namespace zerocast::jobs

#endif  // ZEROCAST_SERVER_JOBS_EVENTS_H_
