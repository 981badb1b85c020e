#include "client/agent/load.h"

#include <xxhash.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/agent/digest.h"
#include "client/agent/path_policy.h"
#include "client/agent/placement.h"
#include "client/agent/round_reader.h"
#include "client/formats/checkpoint.h"
#include "kernels/base/status_macros.h"
#include "kernels/comm/deadline.h"
#include "server/base/errors.h"
#include "server/plan/round_exchange.h"
#include "server/wire/plan_input.h"

namespace zerocast {
namespace {

constexpr absl::Duration kReportInterval = absl::Milliseconds(250);

// A rendezvous between this agent and the others of one epoch, through the server.
class RelayedRendezvous : public Rendezvous {
 public:
  RelayedRendezvous(AgentEvents* events, const LoadKey& key, MapRendezvous* entries)
      : events_(events), key_(key), entries_(entries) {}

  absl::Status Put(absl::string_view name, absl::string_view value) override {
    ZC_RETURN_IF_ERROR(entries_->Put(name, value));
    events_->RendezvousPut(key_, std::string(name), std::string(value));
    return absl::OkStatus();
  }
  absl::StatusOr<std::string> Get(absl::string_view name, absl::Duration timeout) override {
    return entries_->Get(name, timeout);
  }

 private:
  AgentEvents* const events_;
  const LoadKey& key_;
  MapRendezvous* const entries_;
};

// What the look at the files of a load brings.
struct CheckedFiles {
  std::string folder;  // resolved
  std::vector<FileIdentity> identities;
};

// Equal on all nodes of an epoch, another one in every other; not to be guessed by who does not
// know the job's token.
uint64_t Nonce(const LoadKey& key, const PrepareCommand& command) {
  const std::string seed =
      absl::StrCat(key.load, "/", key.epoch, "/", command.plan_digest, "/", command.attach_token);
  return XXH3_64bits(seed.data(), seed.size());
}

}  // namespace

absl::StatusOr<std::string> InspectCheckpoint(const LoadEnvironment& environment,
                                              const std::string& checkpoint_path,
                                              absl::Duration timeout,
                                              const std::atomic<bool>& cancelled) {
  const auto read = [roots = environment.roots,
                     checkpoint_path](const FileObserver& about_to) -> absl::StatusOr<Manifest> {
    ZC_ASSIGN_OR_RETURN(const std::string folder,
                        ResolveCheckpoint(roots, checkpoint_path, about_to));
    return ReadCheckpointManifest(folder, about_to);
  };
  ZC_ASSIGN_OR_RETURN(const Manifest manifest,
                      environment.file_work->Call<Manifest>(
                          checkpoint_path, environment.file_timeout, &cancelled, read, timeout));
  return CompressManifest(manifest);
}

Load::Load(std::shared_ptr<LoadEnvironment> environment, LoadKey key)
    : environment_(std::move(environment)), key_(std::move(key)) {}

absl::StatusOr<std::string> Load::Prepare(const PrepareCommand& command) {
  const absl::Duration start = environment_->clock->Steady();
  command_ = command;
  NodeProgress progress;
  progress.node = command.node;
  progress.node_name = environment_->node_name;
  Report(progress);
  ZC_ASSIGN_OR_RETURN(const PlanInput input, DecompressPlanInput(command.compressed_plan_input));
  command_.compressed_plan_input.clear();
  ZC_ASSIGN_OR_RETURN(Plan compiled, CompilePlanInput(input, nullptr));
  const auto plan = std::make_shared<const Plan>(std::move(compiled));
  if (plan->digest != command.plan_digest) {
    return WithReason(
        absl::FailedPreconditionError(absl::StrCat(
            "prepare ", key_.load, ": the plan's digest is ", plan->digest, " here and ",
            command.plan_digest, " on the server; run the same version of zerocast on both")),
        "PLAN_REFUSED");
  }
  if (command.node < 0 || command.node >= plan->layout.num_nodes) {
    return WithReason(
        absl::InvalidArgumentError(absl::StrCat("prepare ", key_.load, ": node ", command.node,
                                                " of ", plan->layout.num_nodes)),
        "PLAN_REFUSED");
  }
  ZC_ASSIGN_OR_RETURN(Schedule schedule, Schedule::Create(*plan));
  plan_ = plan;
  // The schedule refers to the plan: whoever holds it holds both.
  schedule_ = std::shared_ptr<const Schedule>(new Schedule(std::move(schedule)),
                                              [plan](const Schedule* owned) { delete owned; });
  ZC_RETURN_IF_ERROR(PlanBuffers());
  ZC_RETURN_IF_ERROR(CheckFiles());
  const auto [first, last] = RanksOfNode(plan_->layout, command.node);
  arenas_ = std::make_shared<std::vector<Arena>>();
  for (int32_t rank = first; rank < last; ++rank) {
    if (cancelled_) return absl::CancelledError("prepare: the load was cancelled");
    ZC_ASSIGN_OR_RETURN(
        Arena arena,
        Arena::Create(absl::StrCat("zerocast-", key_.load, "-rank-", rank), plan_->arena_bytes));
    arenas_->push_back(std::move(arena));
  }
  prepare_duration_ = environment_->clock->Steady() - start;
  may_run_ = true;
  return command.plan_digest;
}

absl::Status Load::PlanBuffers() {
  int64_t limit = environment_->max_buffer_bytes;
  if (command_.max_buffer_bytes > 0) limit = std::min(limit, command_.max_buffer_bytes);
  num_threads_ = ReadingThreads(environment_->num_threads);
  chunk_bytes_ = ChunkBytes(plan_->layout, num_threads_, limit);
  const MemoryNeeds needs =
      ComputeMemoryNeeds(*plan_, *schedule_, command_.node, num_threads_, chunk_bytes_);
  buffer_bytes_ = needs.buffers();
  return CheckBuffers(needs, plan_->layout, limit);
}

// Only of the files that this node reads: in mode rank0 other nodes have none.
absl::Status Load::CheckFiles() {
  if (schedule_->ReadBytes(command_.node) == 0) {
    ZC_ASSIGN_OR_RETURN(identities_, IdentifyFiles(*plan_, *schedule_, command_.node, "",
                                                   environment_->reader.get()));
    return absl::OkStatus();
  }
  // The thread may be left behind: it gets what it needs, and nothing of this load.
  const auto check = [environment = environment_, plan = plan_, schedule = schedule_,
                      node = command_.node, path = command_.checkpoint_path](
                         const FileObserver& about_to) -> absl::StatusOr<CheckedFiles> {
    CheckedFiles checked;
    ZC_ASSIGN_OR_RETURN(checked.folder, ResolveCheckpoint(environment->roots, path, about_to));
    ZC_ASSIGN_OR_RETURN(checked.identities, IdentifyFiles(*plan, *schedule, node, checked.folder,
                                                          environment->reader.get(), about_to));
    Manifest read_here;
    for (size_t k = 0; k < checked.identities.size(); ++k) {
      if (checked.identities[k].num_bytes < 0) continue;
      read_here.files.push_back(plan->manifest->files[k]);
    }
    // The node of rank 0 made the manifest.
    ZC_RETURN_IF_ERROR(CheckManifestFiles(read_here, checked.folder, node == 0, about_to));
    return checked;
  };
  ZC_ASSIGN_OR_RETURN(CheckedFiles checked,
                      environment_->file_work->Call<CheckedFiles>(
                          command_.checkpoint_path, command_.stage_timeout, &cancelled_, check));
  command_.checkpoint_path = std::move(checked.folder);
  identities_ = std::move(checked.identities);
  return absl::OkStatus();
}

bool Load::BeginRun() { return may_run_.exchange(false); }

NodeResult Load::Run() {
  const absl::Duration start = environment_->clock->Steady();
  NodeResult result;
  result.progress.node = command_.node;
  result.progress.node_name = environment_->node_name;
  result.progress.seconds.prepare = prepare_duration_;
  result.status = RunStages(&result);
  result.progress.seconds.total = environment_->clock->Steady() - start;
  DropCommunicator();
  if (result.status.ok()) {
    result.progress.stage = NodeStage::kDone;
  } else {
    result.shards.clear();
    arenas_.reset();
  }
  // What is left is the shards and their index: the plan can be large.
  plan_.reset();
  schedule_.reset();
  identities_.clear();
  return result;
}

absl::Status Load::RunStages(NodeResult* result) {
  result->progress.arena_bytes = plan_->arena_bytes * static_cast<int64_t>(arenas_->size());
  result->progress.buffer_bytes = buffer_bytes_;
  result->progress.num_rounds = schedule_->num_rounds();
  result->progress.bytes_to_read = schedule_->ReadBytes(command_.node);
  ZC_RETURN_IF_ERROR(Connect(&result->progress));
  ZC_RETURN_IF_ERROR(Execute(&result->progress));
  return Finish(result);
}

absl::Status Load::Connect(NodeProgress* progress) {
  progress->stage = NodeStage::kConnecting;
  progress->transport = "loopback";
  if (!NeedsExchange(plan_->layout)) return absl::OkStatus();
  Report(*progress);
  const absl::Duration start = environment_->clock->Steady();
  RelayedRendezvous rendezvous(environment_->events.get(), key_, &rendezvous_);
  CommunicatorRequest request;
  request.load = key_.load;
  request.epoch = key_.epoch;
  request.node = command_.node;
  request.num_nodes = plan_->layout.num_nodes;
  request.bulk_host = environment_->bulk_host;
  request.nonce = Nonce(key_, command_);
  request.rendezvous = &rendezvous;
  request.timeout = command_.stage_timeout;
  request.cancelled = [this] { return cancelled_.load(); };
  absl::StatusOr<std::unique_ptr<Communicator>> communicator = environment_->communicators(request);
  progress->seconds.connect = environment_->clock->Steady() - start;
  if (!communicator.ok()) {
    return WithReason(Annotate(communicator.status(), "connect to the other nodes"),
                      "EXCHANGE_FAILED");
  }
  progress->transport = std::string((*communicator)->transport());
  MutexLock lock(&mutex_);
  if (cancelled_) return absl::CancelledError("connect: the load was cancelled");
  communicator_ = *std::move(communicator);
  return absl::OkStatus();
}

absl::Status Load::Execute(NodeProgress* progress) {
  progress->stage = NodeStage::kLoading;
  Report(*progress);
  ExecutorOptions options;
  options.plan = plan_;
  options.schedule = schedule_;
  options.node = command_.node;
  options.checkpoint_path = command_.checkpoint_path;
  options.reader = environment_->reader;
  options.file_work = environment_->file_work;
  options.identities = identities_;
  {
    MutexLock lock(&mutex_);
    options.communicator = communicator_.get();
  }
  options.arenas = arenas_;
  options.num_threads = num_threads_;
  options.chunk_bytes = chunk_bytes_;
  options.io = environment_->io;
  options.read_limit = environment_->read_limit;
  options.send_limit = environment_->send_limit;
  options.node_names = command_.node_names;
  options.stage_timeout = command_.stage_timeout;
  options.cancelled = &cancelled_;
  options.clock = environment_->clock;
  options.hooks = environment_->hooks;
  const auto update = [progress](const ExecutorProgress& now) {
    progress->round = now.round;
    progress->bytes_read = now.bytes_read;
    progress->bytes_sent = now.bytes_sent;
    progress->bytes_received = now.bytes_received;
    progress->seconds.read = now.read;
    progress->seconds.copy = now.copy;
    progress->seconds.exchange = now.exchange;
    progress->read_calls = now.io.calls;
    progress->direct_bytes = now.io.direct_bytes;
    progress->direct_refusal = now.io.refusal;
  };
  options.on_progress = [this, progress, &update](const ExecutorProgress& now) {
    update(now);
    if (environment_->clock->Steady() - last_report_ >= kReportInterval) Report(*progress);
  };
  ExecutorProgress end;
  absl::Status status = ExecuteLoad(options, &end);
  update(end);
  environment_->bytes_sent += end.bytes_sent;
  environment_->bytes_received += end.bytes_received;
  return status;
}

void Load::AddDigests(const char* arena, ShardReport* shard) const {
  const std::vector<uint64_t> digests = PartitionDigests(*plan_, arena);
  for (size_t t = 0; t < digests.size(); ++t) {
    shard->digests.push_back({plan_->targets[t].name, digests[t]});
  }
  const std::vector<uint64_t> secondary = SecondaryDigests(*plan_, arena);
  auto next = secondary.begin();
  for (const Target& target : plan_->targets) {
    if (target.secondary_elements == 0) continue;
    shard->digests.push_back({target.name, *next++, /*secondary=*/true});
  }
}

absl::Status Load::Finish(NodeResult* result) {
  result->progress.stage = NodeStage::kFinishing;
  Report(result->progress);
  const absl::Duration start = environment_->clock->Steady();
  const int32_t first_rank = RanksOfNode(plan_->layout, command_.node).first;
  for (size_t k = 0; k < arenas_->size(); ++k) {
    if (cancelled_) return absl::CancelledError("finish: the load was cancelled");
    ShardReport shard;
    shard.rank = first_rank + static_cast<int32_t>(k);
    shard.arena_bytes = plan_->arena_bytes;
    if (command_.compute_digests) AddDigests((*arenas_)[k].data(), &shard);
    ZC_RETURN_IF_ERROR((*arenas_)[k].Seal());
    result->shards.push_back(std::move(shard));
  }
  result->progress.seconds.finish = environment_->clock->Steady() - start;
  auto book = std::make_shared<ShardBook>(MakeShardIndex(key_.load, *plan_), command_.attach_token,
                                          first_rank, std::move(*arenas_));
  arenas_.reset();
  MutexLock lock(&mutex_);
  if (cancelled_) return absl::CancelledError("finish: the load was cancelled");
  shards_ = std::move(book);
  ready_at_ = environment_->clock->Steady();
  return absl::OkStatus();
}

void Load::Report(const NodeProgress& progress) {
  last_report_ = environment_->clock->Steady();
  if (!cancelled_) environment_->events->Progress(key_, progress);
}

void Load::DropCommunicator() {
  std::unique_ptr<Communicator> dropped;  // destroyed after the lock is released
  MutexLock lock(&mutex_);
  dropped = std::move(communicator_);
}

void Load::Cancel(const std::string& why) {
  cancelled_ = true;
  rendezvous_.Cancel(why);
  std::shared_ptr<ShardBook> freed;  // its arenas are unmapped after the lock is released
  {
    MutexLock lock(&mutex_);
    if (communicator_ != nullptr) communicator_->Abort(why);
    freed = std::move(shards_);
    shards_ = nullptr;
    ready_at_ = absl::InfiniteDuration();
    cancel_changed_.SignalAll();
  }
}

bool Load::WaitForCancel(absl::Duration timeout) {
  const Deadline deadline(timeout);
  MutexLock lock(&mutex_);
  while (!cancelled_ && !deadline.Passed()) {
    cancel_changed_.WaitWithTimeout(&mutex_, deadline.Remaining());
  }
  return cancelled_;
}

void Load::AddRendezvous(const std::string& name, const std::string& value) {
  // Fails only once it is cancelled; then nobody waits for the entry.
  rendezvous_.Put(name, value).IgnoreError();
}

std::shared_ptr<ShardBook> Load::shards() const {
  MutexLock lock(&mutex_);
  return shards_;
}

absl::Duration Load::ready_at() const {
  MutexLock lock(&mutex_);
  return ready_at_;
}

}  // namespace zerocast
