#ifndef ZEROCAST_SERVER_JOBS_TYPES_H_
#define ZEROCAST_SERVER_JOBS_TYPES_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/plan/layout.h"
#include "server/plan/node_memory.h"
#include "server/plan/plan.h"

namespace zerocast::jobs {

enum class JobState { kActive, kCancelled, kDone, kExpired };

bool IsFinal(JobState state);              // all but kActive
const char* JobStateName(JobState state);  // "ACTIVE", ...

// The reason of a choice that nobody made.
inline constexpr char kByDefault[] = "default";

// What a caller's request made: sent again, it gets the same answer.
struct RequestKey {
  std::string request_id;   // "": the caller named none
  std::string fingerprint;  // of the request's body
};

// A submitted job.  What a load needs is spelled out; the rest of the submission is kept as it
// came.
struct Job {
  std::string name;        // "jobs/ID"
  std::string spec_bytes;  // the submission, serialized; opaque here
  std::string checkpoint_path;
  std::string variant;  // of its files; "": those without one
  CheckpointFormat checkpoint_format = CheckpointFormat::kAny;
  std::string checkpoint_tag;      // of a DeepSpeed checkpoint; "": what `latest` names
  std::vector<std::string> nodes;  // by node number; empty: any num_nodes agents
  std::string model_spec_json;
  std::string key_mapping_json;
  // Complete: node_of_rank too.  A load of this job is compiled with it.
  Layout layout;
  std::string dtype_reason;       // why layout.dtype
  std::string zero_stage_reason;  // why layout.zero_stage, as v1.PlanSummary has it
  std::string placement_reason;   // why shards lie where the layout says
  bool compute_digests = false;
  absl::Duration stage_timeout = absl::Seconds(60);
  int64_t max_buffer_bytes = 0;  // of one node, beyond the arenas
  // layout.round_bytes is what follows from max_buffer_bytes: less where an agent allows less.
  bool round_follows_buffers = false;
  std::string resolved_config_json, config_dtype;
  // Of that config, as ConfigFacts has them.
  std::string offload_param_device, offload_optimizer_device;
  JobState state = JobState::kActive;
  absl::Time create_time;
  // Zero: it lives until somebody ends it.
  absl::Duration lease;
  absl::Time end_time;  // when it became final
  std::string attach_token;
  RequestKey request;
};

enum class LoadState {
  kPending,
  kInspecting,
  kPreparing,
  kLoading,
  kReady,
  kFailed,
  kCancelled,
};

bool IsFinal(LoadState state);
const char* LoadStateName(LoadState state);  // "PENDING", ...

enum class NodeStage { kNone, kPreparing, kConnecting, kLoading, kFinishing, kDone };

// Where the shards of a node come from.
enum class LoadSource { kNone, kFiles, kCache, kPeers };

// Finished shards of one plan and content that an agent holds.
struct HeldShards {
  std::string plan_digest, content_key;
  std::vector<int32_t> ranks;
};

// A finished shard on its way between participants of a load's epoch.
struct ShardTransfer {
  int32_t rank = 0, donor = 0, taker = 0;
};

struct StageSeconds {
  double prepare = 0, connect = 0, read = 0, copy = 0, exchange = 0, finish = 0, total = 0;
};

// How far a node is.
struct NodeProgress {
  std::string node_name;
  NodeStage stage = NodeStage::kNone;
  int64_t bytes_read = 0, bytes_to_read = 0, bytes_sent = 0, bytes_received = 0;
  int64_t bytes_copied = 0;  // to their places
  int64_t arena_bytes = 0;
  std::string transport;
  StageSeconds seconds;
  int64_t round = 0, num_rounds = 0;
  int64_t buffer_bytes = 0;  // at most, beyond the arenas
  std::string read_calls;    // "io_uring" or "preadv"
  int64_t direct_bytes = 0;  // of bytes_read, past the page cache
  std::string direct_refusal;
  LoadSource source = LoadSource::kNone;
  int64_t device_arena_bytes = 0;                          // of arena_bytes, on GPUs
  int64_t device_buffer_bytes = 0;                         // at most, on all of its GPUs
  std::string hand_over_way = {}, hand_over_because = {};  // of shards for GPUs
};

// A GPU of an agent.
struct Gpu {
  std::string uuid, name;
  int64_t memory_bytes = 0;
};

struct PartitionDigest {
  std::string target;
  uint64_t xxh3 = 0;
  bool secondary = false;  // of the rank's secondary partition of it
};

// Where the shard of a rank is.
struct Shard {
  int32_t rank = 0;
  std::string node_name;
  std::string agent_socket;
  int64_t arena_bytes = 0;
  std::vector<PartitionDigest> digests;
  std::string handed_over;                 // "", "shared" or "private"
  std::string way = {}, way_because = {};  // by which way, and why by no better one
  absl::Status freed;  // why nobody can attach to it any more; OK while it is held, or "shared"
};

struct PlanSummary {
  std::string digest;
  int64_t num_targets = 0, num_boxes = 0, arena_bytes = 0, num_rounds = 0;
  std::vector<int64_t> read_bytes_by_node;
  std::vector<MemoryNeeds> memory_by_node;  // of a dry run, and of the first nodes only
  bool lie_on_devices = false;              // the shards; else in host memory
  std::string placement_reason;             // "": not known
  int32_t zero_stage = 0;
  std::string zero_stage_reason = {};  // "": neither is known
};

// One run of putting a job's checkpoint into its ranks.
struct Load {
  std::string name;  // "loads/ID"
  // The job as it was when the load was created; null for a load restored after its job's deletion,
  // which cannot be.
  std::shared_ptr<const Job> job;
  int64_t epoch = 0;
  // Only inspect and plan: PREPARING is never reached, READY means that the plan is there.  Never
  // persisted, never listed.
  bool plan_only = false;
  // Steady; when who asked for a plan_only one gives up.
  absl::Duration caller_deadline = absl::InfiniteDuration();
  LoadState state = LoadState::kPending;
  absl::Status failure;  // OK unless kFailed
  std::optional<PlanSummary> plan;
  std::optional<Report> report;
  std::vector<NodeProgress> nodes;  // by node number; empty until the nodes are chosen
  std::vector<Shard> shards;        // by rank
  bool released = false;            // READY, and cancelled since: its agents free its shards
  absl::Time create_time;
  absl::Duration elapsed;  // from creation to the end; zero until then
  RequestKey request;
};

}  // namespace zerocast::jobs

#endif  // ZEROCAST_SERVER_JOBS_TYPES_H_
