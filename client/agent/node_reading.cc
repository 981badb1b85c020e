#include "client/agent/node_reading.h"

#include <algorithm>
#include <string>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "client/agent/locked_arenas.h"
#include "client/agent/memory_needs.h"
#include "client/agent/numa.h"
#include "client/agent/threads.h"
#include "kernels/base/mutex.h"
#include "kernels/base/status_macros.h"
#include "server/plan/round_exchange.h"

namespace zerocast {
namespace {

class NodeReading {
 public:
  NodeReading(const NodeReadingOptions& options, NodeProgress* progress)
      : options_(options), progress_(*progress), parts_(options.participants.numbers.size()) {}

  absl::Status Run();

 private:
  void RunParticipant(size_t k);
  // Where devices write into host memory.
  absl::Status LockArenas();
  ArenaMemory ArenaOf(size_t k) const;
  absl::Status Load(size_t k);
  absl::StatusOr<Communicator*> Connect(size_t k);
  absl::Status UseDevice(size_t k, ExecutorOptions* executor) const;
  cpu_set_t NearProcessors(size_t k) const;
  ExecutorOptions MakeExecutor(size_t k, Communicator* communicator);
  void Update(size_t k, const ExecutorProgress& now);
  void Sum() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // A rank each, on devices or, with --no-gpu, not.
  bool takes_part_by_rank() const {
    return options_.participants.plan->layout.device != LoadDevice::kCpu;
  }

  const NodeReadingOptions& options_;
  std::shared_ptr<LockedArenas> locked_;  // shared with reads that are left behind
  std::atomic<bool> failed_{false};
  Mutex mutex_;
  NodeProgress& progress_ ABSL_GUARDED_BY(mutex_);
  std::vector<ExecutorProgress> parts_ ABSL_GUARDED_BY(mutex_);  // by participant
  absl::Status status_ ABSL_GUARDED_BY(mutex_);                  // of the first that failed
};

// Before anybody is connected: to lock memory may wait for all work of all devices, and so for an
// exchange that waits for this node.
absl::Status NodeReading::LockArenas() {
  const Layout& layout = options_.participants.plan->layout;
  if (options_.devices == nullptr || LieOnDevices(layout)) return absl::OkStatus();
  const Clock& clock = *options_.environment->clock;
  const absl::Duration began = clock.Steady();
  ZC_ASSIGN_OR_RETURN(locked_, LockedArenas::Create(options_.arenas, options_.devices.get(),
                                                    options_.participants.numbers.front(),
                                                    options_.num_threads, options_.cancelled));
  MutexLock lock(&mutex_);
  progress_.seconds.prepare += clock.Steady() - began;
  return absl::OkStatus();
}

absl::Status NodeReading::Run() {
  ZC_RETURN_IF_ERROR(LockArenas());
  const size_t count = options_.participants.numbers.size();
  std::vector<std::thread> threads;
  for (size_t k = 1; k < count; ++k) {
    absl::StatusOr<std::thread> thread = StartThread([this, k] { RunParticipant(k); });
    if (thread.ok()) {
      threads.push_back(*std::move(thread));
      continue;
    }
    MutexLock lock(&mutex_);
    if (status_.ok()) status_ = thread.status();
    failed_ = true;
  }
  RunParticipant(0);
  for (std::thread& thread : threads) thread.join();
  MutexLock lock(&mutex_);
  // Nothing is under way then, whoever still holds them.  After an error they end with the last who
  // may write to them.
  if (status_.ok() && locked_ != nullptr) locked_->Unlock();
  return status_;
}

void NodeReading::RunParticipant(size_t k) {
  absl::Status status;
  {
    // Page-locked memory lies near to whoever has it locked, and reading threads begin where the
    // one runs that starts them.
    const ProcessorScope scope(NearProcessors(k));
    status = Load(k);
  }
  if (status.ok()) return;
  {
    MutexLock lock(&mutex_);
    if (status_.ok()) status_ = status;
  }
  if (failed_.exchange(true) || options_.participants.numbers.size() == 1) return;
  options_.abort(absl::StrCat("rank ", options_.participants.numbers[k],
                              " of this node failed: ", status.message()));
}

cpu_set_t NodeReading::NearProcessors(size_t k) const {
  if (options_.devices != nullptr) return options_.devices->NearProcessors(static_cast<int>(k));
  cpu_set_t none;
  CPU_ZERO(&none);
  return none;
}

absl::StatusOr<Communicator*> NodeReading::Connect(size_t k) {
  if (!NeedsExchange(options_.participants.plan->layout)) return nullptr;
  ZC_ASSIGN_OR_RETURN(Communicator* const communicator, options_.connect(k, [this] {
    return options_.cancelled->load() || failed_.load();
  }));
  return communicator;
}

absl::Status NodeReading::Load(size_t k) {
  ZC_ASSIGN_OR_RETURN(Communicator* const communicator, Connect(k));
  {
    MutexLock lock(&mutex_);
    if (communicator != nullptr) progress_.transport = std::string(communicator->transport());
    progress_.stage = NodeStage::kLoading;
    options_.on_progress();
  }
  ExecutorOptions executor = MakeExecutor(k, communicator);
  if (options_.devices != nullptr) ZC_RETURN_IF_ERROR(UseDevice(k, &executor));
  ExecutorProgress end;
  const absl::Status status = ExecuteLoad(executor, &end);
  Update(k, end);
  options_.environment->bytes_sent += end.bytes_sent;
  options_.environment->bytes_received += end.bytes_received;
  return status;
}

absl::Status NodeReading::UseDevice(size_t k, ExecutorOptions* executor) const {
  ZC_ASSIGN_OR_RETURN(executor->device, options_.devices->MakeCopier(
                                            static_cast<int>(k), options_.num_threads,
                                            StagingBytes(*executor->plan, options_.chunk_bytes),
                                            executor->communicator));
  return absl::OkStatus();
}

ExecutorOptions NodeReading::MakeExecutor(size_t k, Communicator* communicator) {
  const LoadEnvironment& environment = *options_.environment;
  ExecutorOptions executor;
  executor.plan = options_.participants.plan;
  executor.schedule = options_.participants.schedule;
  executor.node = options_.participants.numbers[k];
  executor.checkpoint_path = options_.command.checkpoint_path;
  executor.reader = environment.reader;
  executor.file_work = environment.file_work;
  executor.identities = options_.identities;
  executor.communicator = communicator;
  executor.arenas = ArenaOf(k);
  executor.num_threads = options_.num_threads;
  executor.chunk_bytes = options_.chunk_bytes;
  executor.io = environment.io;
  executor.read_limit = environment.read_limit;
  executor.send_limit = environment.send_limit;
  if (!takes_part_by_rank()) executor.node_names = options_.command.node_names;
  executor.stage_timeout = options_.command.stage_timeout;
  executor.cancelled = options_.cancelled;
  executor.clock = environment.clock;
  executor.hooks = environment.hooks;
  executor.on_progress = [this, k](const ExecutorProgress& now) { Update(k, now); };
  return executor;
}

ArenaMemory NodeReading::ArenaOf(size_t k) const {
  if (locked_ != nullptr) return LockedArenas::MemoryOf(locked_, k);
  ArenaMemory memory = MemoryOf(options_.arenas);
  if (takes_part_by_rank()) {
    memory.data = {memory.data[k]};
    memory.fds = {memory.fds[k]};
  }
  return memory;
}

void NodeReading::Update(size_t k, const ExecutorProgress& now) {
  MutexLock lock(&mutex_);
  parts_[k] = now;
  Sum();
  options_.on_progress();
}

void NodeReading::Sum() {
  const auto count = static_cast<double>(parts_.size());
  ExecutorProgress sum;
  sum.round = parts_.front().round;
  for (const ExecutorProgress& part : parts_) {
    sum.round = std::min(sum.round, part.round);
    sum.bytes_read += part.bytes_read;
    sum.bytes_sent += part.bytes_sent;
    sum.bytes_received += part.bytes_received;
    sum.bytes_copied += part.bytes_copied;
    sum.read += part.read / count;
    sum.copy += part.copy / count;
    sum.exchange += part.exchange / count;
    sum.io.direct_bytes += part.io.direct_bytes;
    if (!part.io.calls.empty()) sum.io.calls = part.io.calls;
    if (!part.io.refusal.empty()) sum.io.refusal = part.io.refusal;
  }
  progress_.round = sum.round;
  progress_.bytes_read = sum.bytes_read;
  progress_.bytes_sent = sum.bytes_sent;
  progress_.bytes_received = sum.bytes_received;
  progress_.bytes_copied = sum.bytes_copied;
  progress_.seconds.read = sum.read;
  progress_.seconds.copy = sum.copy;
  progress_.seconds.exchange = sum.exchange;
  progress_.read_calls = sum.io.calls;
  progress_.direct_bytes = sum.io.direct_bytes;
  progress_.direct_refusal = sum.io.refusal;
}

}  // namespace

absl::Status ReadNode(const NodeReadingOptions& options, NodeProgress* progress) {
  return NodeReading(options, progress).Run();
}

}  // namespace zerocast
