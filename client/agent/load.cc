#include "client/agent/load.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/agent/digest.h"
#include "client/agent/file_check.h"
#include "client/agent/node_reading.h"
#include "client/agent/path_policy.h"
#include "client/agent/peer_transfer.h"
#include "client/agent/placement.h"
#include "client/agent/shard_place.h"
#include "client/formats/checkpoint.h"
#include "client/formats/deepspeed/zero_manifest.h"
#include "kernels/base/status_macros.h"
#include "kernels/comm/deadline.h"
#include "server/base/errors.h"
#include "server/base/utf8.h"
#include "server/plan/round_exchange.h"
#include "server/wire/bulk_nonce.h"
#include "server/wire/plan_input.h"

namespace zerocast {
namespace {

constexpr absl::Duration kReportInterval = absl::Milliseconds(250);

}  // namespace

absl::StatusOr<InspectedCheckpoint> InspectCheckpoint(const LoadEnvironment& environment,
                                                      const InspectCommand& command,
                                                      const std::atomic<bool>& cancelled) {
  struct Read {
    Manifest manifest;
    std::string digest;
  };
  const auto read = [roots = environment.roots,
                     command](const FileObserver& about_to) -> absl::StatusOr<Read> {
    ZC_ASSIGN_OR_RETURN(const std::string folder,
                        ResolveCheckpoint(roots, command.checkpoint_path, about_to));
    Read result;
    ZC_ASSIGN_OR_RETURN(
        result.manifest,
        ReadFolderManifest(folder, {command.format, command.variant, command.tag}, about_to,
                           command.wants_digest ? &result.digest : nullptr));
    return result;
  };
  ZC_ASSIGN_OR_RETURN(const Read result, environment.file_work->Call<Read>(
                                             command.checkpoint_path, environment.file_timeout,
                                             &cancelled, read, command.timeout));
  return InspectedCheckpoint{CompressManifest(result.manifest), result.digest};
}

Load::Load(std::shared_ptr<LoadEnvironment> environment, LoadKey key)
    : environment_(std::move(environment)), key_(std::move(key)) {}

absl::Status Load::Cancelled(absl::string_view doing) const {
  return absl::CancelledError(absl::StrCat(doing, ": the load was cancelled"));
}

absl::StatusOr<std::shared_ptr<const Plan>> Load::Compile(const PrepareCommand& command) {
  ZC_ASSIGN_OR_RETURN(const PlanInput input, DecompressPlanInput(command.compressed_plan_input));
  ZC_ASSIGN_OR_RETURN(Plan compiled, CompilePlanInput(input, nullptr));
  auto plan = std::make_shared<const Plan>(std::move(compiled));
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
  return plan;
}

absl::StatusOr<PreparedPlan> Load::Prepare(const PrepareCommand& command) {
  const absl::Duration start = environment_->clock->Steady();
  command_ = command;
  command_.compressed_plan_input.clear();
  NodeProgress progress;
  progress.node = command.node;
  progress.node_name = environment_->node_name;
  Report(progress);
  ZC_ASSIGN_OR_RETURN(const std::shared_ptr<const Plan> plan, Compile(command));
  plan_ = plan;
  ZC_RETURN_IF_ERROR(FindDevices());
  ZC_ASSIGN_OR_RETURN(participants_, MakeParticipants(plan, command.node));
  ZC_RETURN_IF_ERROR(PlanBuffers());
  ZC_ASSIGN_OR_RETURN(CheckedFiles files,
                      CheckFiles(*environment_, plan_, participants_, command_, &cancelled_));
  if (!files.folder.empty()) command_.checkpoint_path = std::move(files.folder);
  identities_ = std::move(files.identities);
  PreparedPlan prepared;
  prepared.digest = plan_->digest;
  if (!on_devices()) {
    held_ = environment_->cache->Find(plan_->digest);
    prepared.content_key = std::move(files.content_key);
  }
  prepared.held = ListHeld(held_);
  // Where all is here already, none may ever be needed.
  if (!HoldsAllOwn(prepared.held)) ZC_RETURN_IF_ERROR(MakeArenas(OwnRanks()));
  prepare_duration_ = environment_->clock->Steady() - start;
  may_run_ = true;
  return prepared;
}

std::vector<int32_t> Load::OwnRanks() const {
  const auto [first, last] = RanksOfNode(plan_->layout, command_.node);
  std::vector<int32_t> ranks;
  for (int32_t rank = first; rank < last; ++rank) ranks.push_back(rank);
  return ranks;
}

bool Load::HoldsAllOwn(const std::vector<HeldShards>& held) const {
  const std::vector<int32_t> own = OwnRanks();
  return std::any_of(held.begin(), held.end(), [&own](const HeldShards& shards) {
    return std::includes(shards.ranks.begin(), shards.ranks.end(), own.begin(), own.end());
  });
}

absl::Status Load::MakeArenas(const std::vector<int32_t>& ranks) {
  arenas_ = std::make_shared<std::vector<Arena>>();
  arena_ranks_ = ranks;
  for (const int32_t rank : ranks) {
    if (cancelled_) return Cancelled("prepare");
    ZC_ASSIGN_OR_RETURN(Arena arena, MakeArena(rank));
    arenas_->push_back(std::move(arena));
  }
  return absl::OkStatus();
}

absl::StatusOr<Arena> Load::MakeArena(int32_t rank) const {
  if (!on_devices()) {
    return Arena::Create(absl::StrCat("zerocast-", key_.load, "-rank-", rank), plan_->arena_bytes);
  }
  const int device = rank - RanksOfNode(plan_->layout, command_.node).first;
  absl::StatusOr<std::unique_ptr<DeviceMemory>> memory =
      devices_->Allocate(device, plan_->arena_bytes);
  if (memory.ok()) {
    if (const std::string because = (*memory)->because(); !because.empty()) {
      spdlog::warn(
          "{} epoch {}: the shard of rank {} on {} can be handed over by {}, and by no "
          "better way: {}",
          key_.load, key_.epoch, rank, devices_->Describe(device), (*memory)->ticket().way,
          EscapeControls(because));
    }
    return Arena::OnDevice(*std::move(memory));
  }
  return Annotate(memory.status(), absl::StrCat("make the shard of rank ", rank, " on ",
                                                devices_->Describe(device)));
}

absl::Status Load::FindDevices() {
  if (!for_devices() || !environment_->opens_gpus) return absl::OkStatus();
  const std::string what = absl::StrCat("prepare ", key_.load, " on node ", environment_->node_name,
                                        " with --device cuda");
  absl::StatusOr<std::shared_ptr<Devices>> found = environment_->devices->Get();
  if (!found.ok()) return Annotate(found.status(), what);
  devices_ = *std::move(found);
  const auto num_ranks = static_cast<int>(OwnRanks().size());
  if (num_ranks <= devices_->count()) return absl::OkStatus();
  return WithReason(
      absl::FailedPreconditionError(absl::StrCat(
          what, ": the job has ", num_ranks, " ranks there, and the agent sees ", devices_->count(),
          " devices; each rank needs one: use more nodes, or let the agent see more devices")),
      "UNSUPPORTED");
}

absl::Status Load::PlanBuffers() {
  int64_t limit = environment_->max_buffer_bytes;
  if (command_.max_buffer_bytes > 0) limit = std::min(limit, command_.max_buffer_bytes);
  const Plan& plan = *participants_.plan;
  const auto count = static_cast<int>(participants_.numbers.size());
  buffer_bytes_ = 0;
  for (const int32_t number : participants_.numbers) {
    const NodeBudget budget =
        ComputeNodeBudget(plan, *participants_.schedule, number,
                          ReadingThreads(environment_->num_threads), count, limit);
    ZC_RETURN_IF_ERROR(CheckBuffers(budget.needs, plan.layout, limit));
    buffer_bytes_ += budget.needs.buffers();
    // Those of all are alike.
    num_threads_ = budget.num_threads;
    chunk_bytes_ = budget.chunk_bytes;
  }
  return absl::OkStatus();
}

bool Load::BeginRun() { return may_run_.exchange(false); }

NodeResult Load::Run(const StartCommand& start) {
  const absl::Duration began = environment_->clock->Steady();
  NodeResult result;
  result.progress.node = command_.node;
  result.progress.node_name = environment_->node_name;
  result.progress.source = start.source;
  result.progress.seconds.prepare = prepare_duration_;
  result.status = RunStages(start, &result);
  result.progress.seconds.total = environment_->clock->Steady() - began;
  links_.Drop();
  if (result.status.ok()) {
    result.progress.stage = NodeStage::kDone;
  } else {
    result.shards.clear();
  }
  // What is left is the shards and their index: the plan can be large.
  arenas_.reset();
  taken_.clear();
  held_.clear();
  plan_.reset();
  participants_ = {};
  identities_.clear();
  return result;
}

absl::Status Load::RunStages(const StartCommand& start, NodeResult* result) {
  NodeProgress* const progress = &result->progress;
  const std::vector<int32_t> own = OwnRanks();
  progress->arena_bytes = plan_->arena_bytes * static_cast<int64_t>(own.size());
  progress->transport = "loopback";
  if (on_devices() && start.source != LoadSource::kFiles) {
    return WithReason(absl::FailedPreconditionError(absl::StrCat(
                          "start ", key_.load,
                          ": its shards lie on GPUs here and in host memory on other nodes, "
                          "which gave them to other loads; start the agents of all nodes with "
                          "--no-gpu, or none")),
                      "WRONG_STATE");
  }
  if (start.source == LoadSource::kFiles) {
    held_.clear();
    if (arenas_ == nullptr) ZC_RETURN_IF_ERROR(MakeArenas(own));
    progress->buffer_bytes = buffer_bytes_;
    TellWay(plan_->layout, devices_ != nullptr, *arenas_, progress);
    ZC_RETURN_IF_ERROR(Read(progress));
  } else {
    ZC_RETURN_IF_ERROR(TakeHeld(start));
    TellWay(plan_->layout, devices_ != nullptr, *arenas_, progress);
    if (start.source == LoadSource::kPeers) ZC_RETURN_IF_ERROR(Transfer(start, progress));
  }
  return Finish(start, result);
}

// Of what is held here, what this load's ranks need; arenas for the ranks that peers have.
absl::Status Load::TakeHeld(const StartCommand& start) {
  std::set<int32_t> fetched;
  for (const ShardTransfer& transfer : start.peers.transfers) {
    if (transfer.taker == start.peers.participant) fetched.insert(transfer.rank);
  }
  std::vector<int32_t> missing;
  for (const int32_t rank : OwnRanks()) {
    ShardLease* const held = FindHeld(start.content_key, rank);
    if (held != nullptr) {
      // From now on nobody can be given it to write to.
      ZC_RETURN_IF_ERROR(held->SealForSharing());
      taken_[rank] = std::move(*held);
    } else if (fetched.count(rank) > 0) {
      missing.push_back(rank);
    } else {
      return WithReason(absl::FailedPreconditionError(
                            absl::StrCat("start ", key_.load, ": the shard of rank ", rank,
                                         " is neither here nor on its way from another agent")),
                        "WRONG_STATE");
    }
  }
  return MakeArenas(missing);
}

ShardLease* Load::FindHeld(const std::string& content_key, int32_t rank) {
  const auto found =
      std::find_if(held_.begin(), held_.end(), [&content_key, rank](const ShardLease& shard) {
        return shard.valid() && shard.rank() == rank && shard.content().content_key == content_key;
      });
  return found == held_.end() || content_key.empty() ? nullptr : &*found;
}

absl::Status Load::Read(NodeProgress* progress) {
  progress->num_rounds = participants_.schedule->num_rounds();
  progress->bytes_to_read = participants_.ReadBytes();
  progress->stage = NodeStage::kConnecting;
  Report(*progress);
  const absl::Duration began = environment_->clock->Steady(), prepared = progress->seconds.prepare;
  std::atomic<bool> is_connected{false};
  NodeReadingOptions options;
  options.environment = environment_;
  options.devices = devices_;
  options.participants = participants_;
  options.command = command_;
  options.identities = identities_;
  options.arenas = arenas_;
  options.num_threads = num_threads_;
  options.chunk_bytes = chunk_bytes_;
  options.connect = [&](size_t k, const std::function<bool()>& cancelled) {
    ConnectRequest request;
    request.participant = participants_.numbers[k];
    request.num_participants = participants_.plan->layout.num_nodes;
    request.arenas = ArenasText(plan_->layout, devices_ != nullptr);
    if (devices_ != nullptr) {
      request.devices = devices_.get();
      request.device = static_cast<int>(k);
    }
    request.cancelled = cancelled;
    return Connect(std::move(request));
  };
  options.abort = [this](const std::string& why) { links_.Abort(why); };
  options.cancelled = &cancelled_;
  options.on_progress = [&] {
    if (progress->stage == NodeStage::kLoading && !is_connected.exchange(true)) {
      // Without what ReadNode itself had to prepare.
      progress->seconds.connect =
          environment_->clock->Steady() - began - (progress->seconds.prepare - prepared);
      return Report(*progress);
    }
    if (environment_->clock->Steady() - last_report_ >= kReportInterval) Report(*progress);
  };
  return ReadNode(options, progress);
}

absl::StatusOr<Communicator*> Load::Connect(ConnectRequest request) {
  request.key = key_;
  request.nonce = BulkNonce(key_.load, key_.epoch, command_.plan_digest, command_.attach_token);
  request.entries = &rendezvous_;
  request.timeout = command_.stage_timeout;
  ZC_ASSIGN_OR_RETURN(std::unique_ptr<Communicator> communicator,
                      ConnectThroughServer(*environment_, request));
  return links_.Keep(std::move(communicator));
}

absl::Status Load::Transfer(const StartCommand& start, NodeProgress* progress) {
  ConnectRequest request;
  request.kind = LinkKind::kPeers;
  request.participant = start.peers.participant;
  request.num_participants = static_cast<int>(start.peers.participants.size());
  request.cancelled = [this] { return cancelled_.load(); };
  progress->stage = NodeStage::kConnecting;
  Report(*progress);
  const absl::Duration before = environment_->clock->Steady();
  const absl::StatusOr<Communicator*> communicator = Connect(std::move(request));
  progress->seconds.connect = environment_->clock->Steady() - before;
  ZC_RETURN_IF_ERROR(communicator.status());
  progress->transport = std::string((*communicator)->transport());
  progress->stage = NodeStage::kLoading;
  Report(*progress);
  TransferOptions options;
  options.peers = start.peers;
  options.arena_bytes = plan_->arena_bytes;
  options.round_bytes = plan_->layout.round_bytes;
  for (const ShardLease& shard : held_) {
    if (shard.valid() && shard.content().content_key == start.content_key) {
      options.arenas[shard.rank()] = shard.arena().data();
    }
  }
  for (size_t k = 0; k < arena_ranks_.size(); ++k) {
    options.arenas[arena_ranks_[k]] = (*arenas_)[k].data();
  }
  options.communicator = *communicator;
  options.round_timeout = command_.stage_timeout;
  options.send_limit = environment_->send_limit;
  options.cancelled = &cancelled_;
  const auto update = [progress](const TransferProgress& now) {
    progress->round = now.round;
    progress->num_rounds = now.num_rounds;
    progress->bytes_sent = now.bytes_sent;
    progress->bytes_received = now.bytes_received;
  };
  options.on_round = [this, progress, &update](const TransferProgress& now) {
    update(now);
    if (environment_->clock->Steady() - last_report_ >= kReportInterval) Report(*progress);
  };
  const absl::Duration began = environment_->clock->Steady();
  TransferProgress end;
  absl::Status status = TransferShards(options, &end);
  update(end);
  progress->seconds.exchange = environment_->clock->Steady() - began;
  environment_->bytes_sent += end.bytes_sent;
  environment_->bytes_received += end.bytes_received;
  return status;
}

absl::Status Load::AddDigests(const Arena& arena, ShardReport* shard) const {
  ZC_ASSIGN_OR_RETURN(const ArenaDigests digests, DigestsOf(*plan_, arena));
  for (size_t t = 0; t < digests.partitions.size(); ++t) {
    shard->digests.push_back({plan_->targets[t].name, digests.partitions[t]});
  }
  auto next = digests.secondary.begin();
  for (const Target& target : plan_->targets) {
    if (target.secondary_elements == 0) continue;
    shard->digests.push_back({target.name, *next++, /*secondary=*/true});
  }
  return absl::OkStatus();
}

absl::StatusOr<ShardReport> Load::FinishShard(int32_t rank, const Arena& arena) const {
  if (cancelled_) return Cancelled("finish");
  ShardReport shard;
  shard.rank = rank;
  shard.arena_bytes = plan_->arena_bytes;
  if (command_.compute_digests) ZC_RETURN_IF_ERROR(AddDigests(arena, &shard));
  return shard;
}

absl::Status Load::Finish(const StartCommand& start, NodeResult* result) {
  result->progress.stage = NodeStage::kFinishing;
  Report(result->progress);
  const absl::Duration began = environment_->clock->Steady();
  for (Arena& arena : *arenas_) ZC_RETURN_IF_ERROR(arena.Seal());
  // What lies on devices is handed over, never given to another load.
  const ShardContent content = {plan_->digest, on_devices() ? "" : start.content_key};
  environment_->cache->CountHits(static_cast<int64_t>(taken_.size()));
  environment_->cache->CountMisses(static_cast<int64_t>(arenas_->size()));
  for (size_t k = 0; k < arenas_->size(); ++k) {
    ZC_ASSIGN_OR_RETURN(ShardReport shard, FinishShard(arena_ranks_[k], (*arenas_)[k]));
    result->shards.push_back(std::move(shard));
  }
  for (const auto& [rank, lease] : taken_) {
    ZC_ASSIGN_OR_RETURN(ShardReport shard, FinishShard(rank, lease.arena()));
    result->shards.push_back(std::move(shard));
  }
  std::sort(result->shards.begin(), result->shards.end(),
            [](const ShardReport& a, const ShardReport& b) { return a.rank < b.rank; });
  for (size_t k = 0; k < arenas_->size(); ++k) {
    taken_[arena_ranks_[k]] =
        environment_->cache->AddOne(content, arena_ranks_[k], std::move((*arenas_)[k]));
  }
  std::vector<ShardLease> leases;
  for (auto& [rank, lease] : taken_) leases.push_back(std::move(lease));
  result->progress.seconds.finish = environment_->clock->Steady() - began;
  auto book = std::make_shared<ShardBook>(MakeShardIndex(key_.load, *plan_), command_.attach_token,
                                          RanksOfNode(plan_->layout, command_.node).first,
                                          std::move(leases));
  MutexLock lock(&mutex_);
  if (cancelled_) return Cancelled("finish");
  shards_ = std::move(book);
  ready_at_ = environment_->clock->Steady();
  return absl::OkStatus();
}

void Load::Report(const NodeProgress& progress) {
  last_report_ = environment_->clock->Steady();
  if (!cancelled_) environment_->events->Progress(key_, progress);
}

void Load::Cancel(const std::string& why) {
  cancelled_ = true;
  rendezvous_.Cancel(why);
  links_.Abort(why);
  std::shared_ptr<ShardBook> freed;  // its arenas are unmapped after the lock is released
  {
    MutexLock lock(&mutex_);
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
