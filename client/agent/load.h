#ifndef ZEROCAST_CLIENT_AGENT_LOAD_H_
#define ZEROCAST_CLIENT_AGENT_LOAD_H_

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/agent/arena.h"
#include "client/agent/connect.h"
#include "client/agent/links.h"
#include "client/agent/load_environment.h"
#include "client/agent/messages.h"
#include "client/agent/participants.h"
#include "client/agent/rate_limit.h"
#include "client/agent/reader.h"
#include "client/agent/shard_cache.h"
#include "client/agent/shards.h"
#include "kernels/base/mutex.h"
#include "kernels/comm/communicator.h"
#include "kernels/comm/map_rendezvous.h"
#include "server/plan/plan.h"
#include "server/plan/schedule.h"

namespace zerocast {

// Reads the headers of a checkpoint within the command's timeout, until `cancelled` becomes true.
// Errors: as FileWork::Call, ResolveCheckpoint and ReadFolderManifest.
absl::StatusOr<InspectedCheckpoint> InspectCheckpoint(const LoadEnvironment& environment,
                                                      const InspectCommand& command,
                                                      const std::atomic<bool>& cancelled);

// One attempt at a load, on one node.  Prepare and Run are called once each, one after the other,
// on worker threads; everything else may be called from any thread and does not block.
class Load {
 public:
  Load(std::shared_ptr<LoadEnvironment> environment, LoadKey key);

  const LoadKey& key() const { return key_; }

  // Compiles the plan, compares digests, checks the files that this node reads or names the content
  // by, takes leases of the shards of this plan that the agent holds, and makes the arenas of
  // ranks for which it holds none.  Errors:
  //   FAILED_PRECONDITION  the digest is another; reason PLAN_REFUSED.
  //   ABORTED              a file is not what the manifest says; reason CHECKPOINT_CHANGED.
  //   INVALID_ARGUMENT     the plan input is damaged; DATA_LOSS when its proof fails.
  //   DEADLINE_EXCEEDED    a call to the file system took longer than the stage timeout; names it.
  //   RESOURCE_EXHAUSTED   no memory for the arenas, or the buffers need more than allowed.
  // For shards on devices also those of Devices, and FAILED_PRECONDITION, reason UNSUPPORTED, where
  // there are none or too few.
  absl::StatusOr<PreparedPlan> Prepare(const PrepareCommand& command);

  // True once, after Prepare has succeeded: then Run may be called.
  bool BeginRun();

  // Brings the shards from where the command says, computes digests, seals.  Errors (in the
  // result's status): those of ConnectThroughServer, ExecuteLoad and TransferShards;
  // FAILED_PRECONDITION, reason WRONG_STATE, when a shard is to come from here and is not.
  NodeResult Run(const StartCommand& start);

  // Ends what is in progress with CANCELLED and frees the shards.  Idempotent.
  void Cancel(const std::string& why);
  bool cancelled() const { return cancelled_; }
  // Waits until somebody cancels; false after `timeout`.
  bool WaitForCancel(absl::Duration timeout);

  void AddRendezvous(const std::string& name, const std::string& value);

  // The finished shards; null before Run has succeeded and after Cancel.
  std::shared_ptr<ShardBook> shards() const;
  // When they were finished, on the steady clock; infinite where shards() is null.
  absl::Duration ready_at() const;

 private:
  absl::StatusOr<std::shared_ptr<const Plan>> Compile(const PrepareCommand& command);
  std::vector<int32_t> OwnRanks() const;
  bool HoldsAllOwn(const std::vector<HeldShards>& held) const;
  absl::Status MakeArenas(const std::vector<int32_t>& ranks);
  absl::StatusOr<Arena> MakeArena(int32_t rank) const;
  // Whether devices fill the shards, and each rank takes part; with --no-gpu processors do.
  bool for_devices() const { return plan_->layout.device != LoadDevice::kCpu; }
  // Whether the shards lie on them: neither with --no-gpu, nor where the config offloads them.
  bool on_devices() const { return devices_ != nullptr && LieOnDevices(plan_->layout); }
  // Where devices fill the shards: one for each rank of this node.
  absl::Status FindDevices();
  absl::Status RunStages(const StartCommand& start, NodeResult* result);
  absl::Status TakeHeld(const StartCommand& start);
  ShardLease* FindHeld(const std::string& content_key, int32_t rank);
  absl::Status Read(NodeProgress* progress);
  absl::StatusOr<Communicator*> Connect(ConnectRequest request);
  // Gives and takes shards; the arenas of the ranks that are taken must be there.
  absl::Status Transfer(const StartCommand& start, NodeProgress* progress);
  absl::Status Finish(const StartCommand& start, NodeResult* result);
  absl::StatusOr<ShardReport> FinishShard(int32_t rank, const Arena& arena) const;
  absl::Status AddDigests(const Arena& arena, ShardReport* shard) const;
  absl::Status PlanBuffers();
  void Report(const NodeProgress& progress);
  absl::Status Cancelled(absl::string_view doing) const;

  const std::shared_ptr<LoadEnvironment> environment_;
  const LoadKey key_;
  MapRendezvous rendezvous_;
  Links links_;  // behind what they rendezvous by: it ends first
  std::atomic<bool> cancelled_{false};
  std::atomic<bool> may_run_{false};

  // Of the worker thread that runs Prepare or Run.
  PrepareCommand command_;
  std::shared_ptr<const Plan> plan_;
  std::shared_ptr<Devices> devices_;  // where some fill the shards
  Participants participants_;
  std::vector<FileIdentity> identities_;
  std::vector<ShardLease> held_;                // of this plan, any content and rank
  std::map<int32_t, ShardLease> taken_;         // of those the ones that this load uses, by rank
  std::vector<int32_t> arena_ranks_;            // of arenas_, in their order
  std::shared_ptr<std::vector<Arena>> arenas_;  // shared with reads that are left behind
  absl::Duration prepare_duration_;
  int num_threads_ = 0;  // of each participant
  int64_t chunk_bytes_ = 0, buffer_bytes_ = 0;
  absl::Duration last_report_ = -absl::InfiniteDuration();

  mutable Mutex mutex_;
  CondVar cancel_changed_;
  std::shared_ptr<ShardBook> shards_ ABSL_GUARDED_BY(mutex_);
  absl::Duration ready_at_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteDuration();
};

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_LOAD_H_
