#ifndef ZEROCAST_CLIENT_AGENT_LOAD_H_
#define ZEROCAST_CLIENT_AGENT_LOAD_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/agent/arena.h"
#include "client/agent/communicators.h"
#include "client/agent/executor.h"
#include "client/agent/file_work.h"
#include "client/agent/memory_needs.h"
#include "client/agent/messages.h"
#include "client/agent/rate_limit.h"
#include "client/agent/reader.h"
#include "client/agent/shards.h"
#include "kernels/base/mutex.h"
#include "kernels/comm/map_rendezvous.h"
#include "server/base/clock.h"

namespace zerocast {

// What every load of an agent uses.  Shared with worker threads.
struct LoadEnvironment {
  std::string node_name;
  std::string bulk_host;
  std::vector<std::string> roots;  // resolved
  CommunicatorFactory communicators;
  std::shared_ptr<FileReader> reader;
  std::shared_ptr<FileWork> file_work = std::make_shared<FileWork>();
  // The longest that one call to the file system may last where no load says it: for inspections,
  // which also have a time for all of their calls.
  absl::Duration file_timeout = absl::Seconds(60);
  int num_threads = 0;  // that read and copy for one load; 0: ExecutorOptions' default
  IoMode io = IoMode::kAuto;
  int64_t max_buffer_bytes = kDefaultBufferBytes;  // of one load, beyond its arenas
  // Of all loads together.
  std::shared_ptr<RateLimit> read_limit = std::make_shared<RateLimit>(0);
  std::shared_ptr<RateLimit> send_limit = std::make_shared<RateLimit>(0);
  std::shared_ptr<AgentEvents> events;
  const Clock* clock = Clock::Real();
  // A node that lost its peer waits this long for the server's cancel before it reports that: the
  // peer's own error, which explains it, should come first.
  absl::Duration root_cause_grace = absl::Seconds(1);
  ExecutorHooks hooks;  // for tests
  // Sums over all loads.
  std::atomic<int64_t> bytes_sent{0};
  std::atomic<int64_t> bytes_received{0};
};

// Reads the headers of a checkpoint within `timeout`, until `cancelled` becomes true; the
// compressed manifest.  Errors: as FileWork::Call, ResolveCheckpoint and ReadCheckpointManifest.
absl::StatusOr<std::string> InspectCheckpoint(const LoadEnvironment& environment,
                                              const std::string& checkpoint_path,
                                              absl::Duration timeout,
                                              const std::atomic<bool>& cancelled);

// One attempt at a load, on one node.  Prepare and Run are called once each, one after the other,
// on worker threads; everything else may be called from any thread and does not block.
class Load {
 public:
  Load(std::shared_ptr<LoadEnvironment> environment, LoadKey key);

  const LoadKey& key() const { return key_; }

  // Compiles the plan, compares digests, checks the files that this node reads, allocates arenas.
  // Returns the plan's digest.  Errors:
  //   FAILED_PRECONDITION  the digest is another; reason PLAN_REFUSED.
  //   ABORTED              a file is not what the manifest says; reason CHECKPOINT_CHANGED.
  //   INVALID_ARGUMENT     the plan input is damaged; DATA_LOSS when its proof fails.
  //   DEADLINE_EXCEEDED    a call to the file system took longer than the stage timeout; names it.
  //   RESOURCE_EXHAUSTED   no memory for the arenas, or the buffers need more than allowed.
  absl::StatusOr<std::string> Prepare(const PrepareCommand& command);

  // True once, after Prepare has succeeded: then Run may be called.
  bool BeginRun();

  // Connects, reads, exchanges, computes digests, seals.  Errors (in the result's status): those of
  // CommunicatorFactory and ExecuteLoad.
  NodeResult Run();

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
  absl::Status RunStages(NodeResult* result);
  absl::Status Connect(NodeProgress* progress);
  absl::Status Execute(NodeProgress* progress);
  void AddDigests(const char* arena, ShardReport* shard) const;
  absl::Status Finish(NodeResult* result);
  absl::Status CheckFiles();
  absl::Status PlanBuffers();
  void Report(const NodeProgress& progress);
  void DropCommunicator();

  const std::shared_ptr<LoadEnvironment> environment_;
  const LoadKey key_;
  MapRendezvous rendezvous_;
  std::atomic<bool> cancelled_{false};
  std::atomic<bool> may_run_{false};

  // Of the worker thread that runs Prepare or Run.
  PrepareCommand command_;
  std::shared_ptr<const Plan> plan_;
  std::shared_ptr<const Schedule> schedule_;
  std::vector<FileIdentity> identities_;
  std::shared_ptr<std::vector<Arena>> arenas_;  // shared with reads that are left behind
  absl::Duration prepare_duration_;
  int num_threads_ = 0;
  int64_t chunk_bytes_ = 0, buffer_bytes_ = 0;
  absl::Duration last_report_ = -absl::InfiniteDuration();

  mutable Mutex mutex_;
  CondVar cancel_changed_;
  std::unique_ptr<Communicator> communicator_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<ShardBook> shards_ ABSL_GUARDED_BY(mutex_);
  absl::Duration ready_at_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteDuration();
};

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_LOAD_H_
