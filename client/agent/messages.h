#ifndef ZEROCAST_CLIENT_AGENT_MESSAGES_H_
#define ZEROCAST_CLIENT_AGENT_MESSAGES_H_

// What server and agent say to each other, without protobuf; the session translates.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "client/formats/deepspeed/find_checkpoints.h"
#include "server/plan/manifest.h"

namespace zerocast {

// One attempt at a load.
struct LoadKey {
  std::string load;   // "loads/ID"
  int64_t epoch = 0;  // the fencing token
};

struct InspectCommand {
  std::string checkpoint_path;
  absl::Duration timeout = absl::InfiniteDuration();
  std::string variant = {};  // of its files; "": those without one
  CheckpointFormat format = CheckpointFormat::kAny;
  std::string tag = {};  // of a DeepSpeed checkpoint; "": what `latest` names
  bool wants_digest = false;
};

// What an inspection brings.
struct InspectedCheckpoint {
  std::string compressed_manifest;  // see server/wire/plan_input.h
  std::string digest;               // ZeroDigest of a DeepSpeed checkpoint, where it was wanted
};

struct PrepareCommand {
  std::string checkpoint_path;
  std::string compressed_plan_input;  // see server/wire/plan_input.h
  std::string plan_digest;            // that the agent must arrive at
  int32_t node = 0;                   // the agent's number in the load
  bool compute_digests = false;
  absl::Duration stage_timeout = absl::Seconds(60);
  std::string attach_token;
  std::vector<std::string> node_names;
  int64_t max_buffer_bytes = 0;  // beyond the arenas; 0: the agent's own limit
};

// Asks which DeepSpeed checkpoints a folder holds; about no load.
struct LookCommand {
  std::string path;
  std::vector<std::string> tags;
  bool all_tags = false;
  absl::Duration timeout = absl::InfiniteDuration();
};

// Where the shards of a node come from; numbers equal v1.LoadSource.
enum class LoadSource {
  kNone = 0,   // not decided yet
  kFiles = 1,  // the checkpoint's files, directly or through the nodes that read them
  kCache = 2,  // this agent held all of them
  kPeers = 3,  // other agents held what this one did not
};

// Finished shards of one plan and content that an agent holds; see content_key.h.
struct HeldShards {
  std::string plan_digest;
  std::string content_key;
  std::vector<int32_t> ranks;  // ascending
};

// What an agent says once a plan is prepared.
struct PreparedPlan {
  std::string digest;  // as it was compiled here
  std::string
      content_key;  // of the files as this node sees them; "" where it has not looked at all
  std::vector<HeldShards> held;  // of this plan; they stay until the load starts or ends
};

// A shard on its way from one agent to another; both are participant numbers.
struct ShardTransfer {
  int32_t rank = 0;
  int32_t donor = 0;
  int32_t taker = 0;
};

// Who gives which shard to whom; the same on all participants but for `participant`.
struct PeerTransfers {
  std::vector<std::string> participants;  // node names
  int32_t participant = 0;                // the agent's own number
  std::vector<ShardTransfer> transfers;   // each rank at most once
};

struct StartCommand {
  LoadSource source = LoadSource::kFiles;
  std::string content_key;  // of what the shards will hold; "" where that is not known
  PeerTransfers peers;      // kPeers only
};

// Gives finished shards to the agents of a load that this one is not part of.
struct DonateCommand {
  std::string plan_digest;
  std::string content_key;
  PeerTransfers peers;
  int64_t arena_bytes = 0;  // of one rank
  int64_t round_bytes = 0;
  uint64_t nonce = 0;
  absl::Duration stage_timeout = absl::Seconds(60);
};

// The stage a node is in; numbers equal v1.NodeStage.
enum class NodeStage {
  kPreparing = 1,
  kConnecting = 2,
  kLoading = 3,
  kFinishing = 4,
  kDone = 5,
};

struct StageDurations {
  absl::Duration prepare, connect, read, copy, exchange, finish, total;
};

struct NodeProgress {
  int32_t node = 0;
  std::string node_name;
  NodeStage stage = NodeStage::kPreparing;
  int64_t bytes_read = 0;
  int64_t bytes_to_read = 0;
  int64_t bytes_sent = 0;
  int64_t bytes_received = 0;
  int64_t bytes_copied = 0;
  int64_t arena_bytes = 0;
  std::string transport;
  StageDurations seconds;
  int64_t round = 0;
  int64_t num_rounds = 0;
  int64_t buffer_bytes = 0;  // at most, beyond the arenas
  std::string read_calls;    // "io_uring" or "preadv"
  int64_t direct_bytes = 0;  // of bytes_read, past the page cache
  std::string direct_refusal;
  LoadSource source = LoadSource::kNone;
  int64_t device_arena_bytes = 0;   // of arena_bytes
  int64_t device_buffer_bytes = 0;  // at most, on all devices of the node
  // Of shards that devices fill: ShardOffer's way, and why it is no better one.
  std::string hand_over_way, hand_over_because;
};

struct NamedDigest {
  std::string target;
  uint64_t xxh3 = 0;
  bool secondary = false;  // of the secondary partition
};

struct ShardReport {
  int32_t rank = 0;
  int64_t arena_bytes = 0;
  std::vector<NamedDigest> digests;  // empty unless they were asked for
};

// The end of a node's part of a load.
struct NodeResult {
  absl::Status status;
  NodeProgress progress;
  std::vector<ShardReport> shards;  // empty on failure
};

// kAuto is only asked for: shared where that is possible, else private.
enum class AttachMode { kShared, kPrivate, kAuto };
inline absl::string_view AttachModeName(AttachMode mode) {
  switch (mode) {
    case AttachMode::kShared:
      return "shared";
    case AttachMode::kPrivate:
      return "private";
    case AttachMode::kAuto:
      break;
  }
  return "auto";
}

// How a shard went over.
struct HandOver {
  int32_t rank = 0;
  AttachMode mode = AttachMode::kPrivate;
  std::string way = "memfd";  // HANDOVER.md
  std::string because = {};   // why by no better way
};

enum class DonationStep {
  kAccepted,  // the shards are here and stay until it ends
  kDone,      // all of them were sent
};

// What the agent tells the server.  Implementations are thread-safe and never block.
class AgentEvents {
 public:
  virtual ~AgentEvents() = default;
  // The answer to an inspection.
  virtual void ManifestDone(const LoadKey& key, absl::StatusOr<InspectedCheckpoint> checkpoint) = 0;
  // The answer to PrepareCommand.
  virtual void PlanDone(const LoadKey& key, absl::StatusOr<PreparedPlan> plan) = 0;
  virtual void RendezvousPut(const LoadKey& key, const std::string& name,
                             const std::string& value) = 0;
  virtual void Progress(const LoadKey& key, const NodeProgress& progress) = 0;
  virtual void LoadDone(const LoadKey& key, const NodeResult& result) = 0;
  virtual void HandedOver(const LoadKey& key, const HandOver& hand_over) = 0;
  // Shards that were freed here without a command, and why.
  virtual void ShardsFreed(const LoadKey& key, const std::vector<int32_t>& ranks,
                           const absl::Status& why) = 0;
  // How far a donation is, or why it ended; a donation that was cancelled says nothing.
  virtual void Donated(const LoadKey& key, absl::StatusOr<DonationStep> step) = 0;
  // The answer to the LookCommand that the server calls `look`.
  virtual void FolderLooked(const std::string& look, absl::StatusOr<FoundZeroFolder> folder) = 0;
  // ShardCache::Inventory changed.
  virtual void InventoryChanged() = 0;
};

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_MESSAGES_H_
