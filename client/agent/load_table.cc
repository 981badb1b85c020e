#include "client/agent/load_table.h"

#include <spdlog/spdlog.h>

#include <atomic>
#include <deque>
#include <set>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/agent/log.h"
#include "client/agent/threads.h"
#include "kernels/base/status_macros.h"
#include "kernels/comm/deadline.h"
#include "server/base/errors.h"

namespace zerocast {
namespace {

// Epochs are remembered for this many loads, the latest ones.
constexpr size_t kMaxEpochs = 65536;
// As are the loads whose shards have all left, to answer who comes again.
constexpr size_t kMaxGone = 4096;

bool PeerFailed(const absl::Status& status) {
  return status.code() == absl::StatusCode::kUnavailable && ReasonOf(status) == "EXCHANGE_FAILED";
}

absl::Status NotHere(const LoadKey& key) {
  return WithReason(
      absl::FailedPreconditionError(absl::StrCat("start ", key.load, " epoch ", key.epoch,
                                                 ": it is not prepared here, or was started")),
      "WRONG_STATE");
}

// A look at a checkpoint's headers, while it lasts.
struct Inspection {
  LoadKey key;
  std::atomic<bool> cancelled{false};
};

}  // namespace

struct LoadTable::State {
  std::shared_ptr<LoadEnvironment> environment;
  size_t max_loads = 0;

  Mutex mutex;
  CondVar idle;
  bool stopped ABSL_GUARDED_BY(mutex) = false;
  int num_threads ABSL_GUARDED_BY(mutex) = 0;
  std::map<std::string, std::shared_ptr<Load>> loads ABSL_GUARDED_BY(mutex);
  std::set<std::shared_ptr<Inspection>> inspections ABSL_GUARDED_BY(mutex);
  std::map<std::string, int64_t> epochs ABSL_GUARDED_BY(mutex);  // the greatest seen
  // The same, to forget the oldest; two loads may have one epoch.
  std::set<std::pair<int64_t, std::string>> by_epoch ABSL_GUARDED_BY(mutex);
  std::map<std::string, std::string> gone ABSL_GUARDED_BY(mutex);  // why, by load
  std::deque<std::string> gone_order ABSL_GUARDED_BY(mutex);
  LoadCounts counts ABSL_GUARDED_BY(mutex);
  Donations donations;

  // Takes the load off the books when no shard of it is left.
  void ForgetEmptyLocked(const std::shared_ptr<Load>& load, const ShardBook& shards,
                         const std::string& why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    const std::string& name = load->key().load;
    const auto found = loads.find(name);
    if (found == loads.end() || found->second != load || !shards.empty()) return;
    loads.erase(found);
    if (gone.insert_or_assign(name, why).second) gone_order.push_back(name);
    if (gone_order.size() <= kMaxGone) return;
    gone.erase(gone_order.front());
    gone_order.pop_front();
  }
  absl::Status FenceLocked(const LoadKey& key, std::shared_ptr<Load>* superseded)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
};

absl::Status LoadTable::State::FenceLocked(const LoadKey& key, std::shared_ptr<Load>* superseded) {
  int64_t& seen = epochs[key.load];
  if (key.epoch < seen) {
    return WithReason(absl::FailedPreconditionError(absl::StrCat(
                          "command for ", key.load, ": its epoch is ", key.epoch,
                          ", this agent has seen ", seen, "; it belongs to an older attempt")),
                      "STALE_EPOCH");
  }
  by_epoch.erase({seen, key.load});
  seen = key.epoch;
  by_epoch.insert({key.epoch, key.load});
  const auto found = loads.find(key.load);
  if (found != loads.end() && found->second->key().epoch < key.epoch) {
    *superseded = std::move(found->second);
    loads.erase(found);
  }
  if (epochs.size() > kMaxEpochs) {
    epochs.erase(by_epoch.begin()->second);
    by_epoch.erase(by_epoch.begin());
  }
  return absl::OkStatus();
}

LoadTable::LoadTable(std::shared_ptr<LoadEnvironment> environment, int max_loads)
    : state_(std::make_shared<State>()) {
  state_->environment = std::move(environment);
  state_->max_loads = static_cast<size_t>(max_loads);
  state_->environment->cache->SetListener(
      [events = state_->environment->events] { events->InventoryChanged(); });
}

LoadTable::~LoadTable() { Shutdown(absl::Seconds(10)); }

template <typename Work, typename Failed>
void LoadTable::Spawn(Work work, Failed failed) {
  bool stopped;
  {
    MutexLock lock(&state_->mutex);
    stopped = state_->stopped;
    if (!stopped) ++state_->num_threads;
  }
  // What was to be cancelled must be still: its own thread is waited for.
  if (stopped) return failed(absl::CancelledError("the agent stops"));
  const auto done = [state = state_] {
    MutexLock lock(&state->mutex);
    --state->num_threads;
    state->idle.SignalAll();
  };
  absl::StatusOr<std::thread> thread = StartThread([work = std::move(work), done]() mutable {
    work();
    // What the work holds goes before the thread counts as gone.
    { const Work freed = std::move(work); }
    done();
  });
  if (!thread.ok()) {
    done();
    failed(thread.status());
    return;
  }
  thread->detach();
}

void LoadTable::Free(std::shared_ptr<Load> load, const std::string& why) {
  Spawn([load, why] { load->Cancel(why); }, [&](const absl::Status&) { load->Cancel(why); });
}

absl::Status LoadTable::Fence(const LoadKey& key) {
  std::shared_ptr<Load> superseded;
  absl::Status status;
  {
    MutexLock lock(&state_->mutex);
    status = state_->FenceLocked(key, &superseded);
  }
  if (superseded != nullptr) {
    Free(std::move(superseded), absl::StrCat("a new attempt of epoch ", key.epoch, " began"));
  }
  return status;
}

void LoadTable::Remove(State* state, const std::shared_ptr<Load>& load) {
  MutexLock lock(&state->mutex);
  const auto found = state->loads.find(load->key().load);
  if (found != state->loads.end() && found->second == load) state->loads.erase(found);
}

void LoadTable::Inspect(const LoadKey& key, const InspectCommand& command) {
  const std::shared_ptr<LoadEnvironment> environment = state_->environment;
  const absl::Status fenced = Fence(key);
  if (!fenced.ok()) return environment->events->ManifestDone(key, fenced);
  const auto inspection = std::make_shared<Inspection>();
  inspection->key = key;
  {
    MutexLock lock(&state_->mutex);
    if (state_->stopped) return;
    state_->inspections.insert(inspection);
  }
  const auto end = [state = state_, inspection] {
    MutexLock lock(&state->mutex);
    state->inspections.erase(inspection);
  };
  Spawn(
      [environment, inspection, end, command] {
        const absl::StatusOr<InspectedCheckpoint> inspected =
            InspectCheckpoint(*environment, command, inspection->cancelled);
        end();
        if (inspection->cancelled) return;
        environment->events->ManifestDone(inspection->key, inspected);
      },
      [&](const absl::Status& status) {
        end();
        environment->events->ManifestDone(key, status);
      });
}

void LoadTable::Prepare(const LoadKey& key, PrepareCommand command) {
  const std::shared_ptr<LoadEnvironment> environment = state_->environment;
  const absl::Status fenced = Fence(key);
  if (!fenced.ok()) return environment->events->PlanDone(key, fenced);
  auto load = std::make_shared<Load>(environment, key);
  absl::Status refused;
  {
    MutexLock lock(&state_->mutex);
    if (state_->loads.count(key.load) != 0) {
      refused = WithReason(absl::AlreadyExistsError(absl::StrCat("prepare ", key.load, " epoch ",
                                                                 key.epoch, ": it was before")),
                           "ALREADY_EXISTS");
    } else if (state_->loads.size() >= state_->max_loads) {
      refused = WithReason(absl::ResourceExhaustedError(absl::StrCat(
                               "prepare ", key.load, ": this agent already holds ",
                               state_->loads.size(), " loads; hand over or cancel some")),
                           "RESOURCE_EXHAUSTED");
    } else {
      state_->loads[key.load] = load;
    }
  }
  if (!refused.ok()) return environment->events->PlanDone(key, refused);
  Spawn(
      [state = state_, load, command = std::move(command)] {
        const absl::StatusOr<PreparedPlan> prepared = load->Prepare(command);
        if (!prepared.ok()) {
          Remove(state.get(), load);
          spdlog::warn("{} epoch {}: {}", load->key().load, load->key().epoch,
                       ForLog(prepared.status()));
          MutexLock lock(&state->mutex);
          ++(load->cancelled() ? state->counts.cancelled : state->counts.failed);
        }
        if (!load->cancelled()) state->environment->events->PlanDone(load->key(), prepared);
      },
      [&](const absl::Status& status) {
        Remove(state_.get(), load);
        environment->events->PlanDone(key, status);
      });
}

void LoadTable::Start(const LoadKey& key, StartCommand command) {
  const std::shared_ptr<LoadEnvironment> environment = state_->environment;
  std::shared_ptr<Load> load;
  NodeResult result;
  result.progress.node_name = environment->node_name;
  result.status = Fence(key);
  if (result.status.ok()) {
    MutexLock lock(&state_->mutex);
    const auto found = state_->loads.find(key.load);
    if (found != state_->loads.end() && found->second->key().epoch == key.epoch) {
      load = found->second;
    }
  }
  if (result.status.ok() && (load == nullptr || !load->BeginRun())) result.status = NotHere(key);
  if (!result.status.ok()) return environment->events->LoadDone(key, result);
  Spawn([state = state_, load, command = std::move(command)] { RunLoad(state, load, command); },
        [&](const absl::Status& status) {
          Remove(state_.get(), load);
          result.status = status;
          environment->events->LoadDone(key, result);
        });
}

void LoadTable::RunLoad(const std::shared_ptr<State>& state, const std::shared_ptr<Load>& load,
                        const StartCommand& command) {
  const NodeResult result = load->Run(command);
  const LoadKey& key = load->key();
  // On the books until then: a cancel must find it.
  const bool cancelled =
      load->cancelled() ||
      (PeerFailed(result.status) && load->WaitForCancel(state->environment->root_cause_grace));
  if (!result.status.ok()) Remove(state.get(), load);
  {
    MutexLock lock(&state->mutex);
    ++(cancelled            ? state->counts.cancelled
       : result.status.ok() ? state->counts.ready
                            : state->counts.failed);
  }
  if (cancelled) return;
  if (result.status.ok()) {
    spdlog::info("{} epoch {}: ready, {} bytes read, {}", key.load, key.epoch,
                 result.progress.bytes_read, absl::FormatDuration(result.progress.seconds.total));
  } else {
    spdlog::warn("{} epoch {}: {}", key.load, key.epoch, ForLog(result.status));
  }
  state->environment->events->LoadDone(key, result);
}

void LoadTable::Donate(const LoadKey& key, DonateCommand command) {
  const std::shared_ptr<LoadEnvironment> environment = state_->environment;
  const absl::Status fenced = Fence(key);
  if (!fenced.ok()) return environment->events->Donated(key, fenced);
  const auto donation = std::make_shared<Donation>(environment, key);
  state_->donations.Add(donation);
  Spawn([state = state_, donation,
         command = std::move(command)] { RunDonation(state, donation, command); },
        [&](const absl::Status& status) {
          state_->donations.Remove(donation);
          environment->events->Donated(key, status);
        });
}

void LoadTable::RunDonation(const std::shared_ptr<State>& state,
                            const std::shared_ptr<Donation>& donation,
                            const DonateCommand& command) {
  AgentEvents& events = *state->environment->events;
  const LoadKey& key = donation->key();
  absl::Status status = donation->Accept(command);
  if (status.ok()) {
    events.Donated(key, DonationStep::kAccepted);
    status = donation->Run();
  }
  // On the books until then: a cancel must find it.
  const bool cancelled =
      donation->cancelled() ||
      (PeerFailed(status) && donation->WaitForCancel(state->environment->root_cause_grace));
  state->donations.Remove(donation);
  if (cancelled) return;
  if (status.ok()) return events.Donated(key, DonationStep::kDone);
  spdlog::warn("donation to {} epoch {}: {}", key.load, key.epoch, ForLog(status));
  events.Donated(key, status);
}

void LoadTable::AddRendezvous(const LoadKey& key, const std::string& name,
                              const std::string& value) {
  state_->donations.AddRendezvous(key, name, value);
  std::shared_ptr<Load> load;
  {
    MutexLock lock(&state_->mutex);
    const auto found = state_->loads.find(key.load);
    if (found == state_->loads.end() || found->second->key().epoch != key.epoch) return;
    load = found->second;
  }
  load->AddRendezvous(name, value);
}

void LoadTable::Cancel(const LoadKey& key, const std::string& why) {
  state_->donations.Cancel(key, why);
  std::shared_ptr<Load> load;
  {
    MutexLock lock(&state_->mutex);
    for (const std::shared_ptr<Inspection>& inspection : state_->inspections) {
      if (inspection->key.load != key.load || inspection->key.epoch > key.epoch) continue;
      inspection->cancelled = true;
    }
    const auto found = state_->loads.find(key.load);
    if (found == state_->loads.end() || found->second->key().epoch > key.epoch) return;
    load = std::move(found->second);
    state_->loads.erase(found);
  }
  spdlog::info("{} epoch {}: cancelled: {}", key.load, key.epoch, why);
  Free(std::move(load), why);
}

void LoadTable::CancelAll(const std::string& why) {
  state_->donations.CancelAll(why);
  std::map<std::string, std::shared_ptr<Load>> loads;
  {
    MutexLock lock(&state_->mutex);
    for (const auto& inspection : state_->inspections) inspection->cancelled = true;
    loads.swap(state_->loads);
  }
  for (const auto& [name, load] : loads) load->Cancel(why);
}

std::vector<LoadKey> LoadTable::Held() const {
  MutexLock lock(&state_->mutex);
  std::vector<LoadKey> held;
  for (const auto& [name, load] : state_->loads) held.push_back(load->key());
  return held;
}

std::vector<HeldShards> LoadTable::Inventory() const {
  return state_->environment->cache->Inventory();
}

ShardCacheStats LoadTable::cache_stats() const { return state_->environment->cache->stats(); }

absl::StatusOr<ShardOffer> LoadTable::Offer(const std::string& load, int32_t rank,
                                            const std::string& token, AttachMode mode,
                                            const std::function<bool()>& stopped) {
  std::shared_ptr<Load> found;
  std::string why_gone;
  {
    MutexLock lock(&state_->mutex);
    const auto entry = state_->loads.find(load);
    if (entry != state_->loads.end()) found = entry->second;
    const auto gone = state_->gone.find(load);
    if (gone != state_->gone.end()) why_gone = gone->second;
  }
  if (found == nullptr && !why_gone.empty()) {
    return WithReason(absl::FailedPreconditionError(
                          absl::StrCat("attach to rank ", rank, " of ", load, ": ", why_gone)),
                      "WRONG_STATE");
  }
  if (found == nullptr) {
    return WithReason(
        absl::NotFoundError(absl::StrCat("attach to ", load,
                                         ": this agent has no shards of it; "
                                         "they were never here, or the load was cancelled")),
        "NOT_FOUND");
  }
  const std::shared_ptr<ShardBook> shards = found->shards();
  if (shards == nullptr) {
    return WithReason(
        absl::FailedPreconditionError(absl::StrCat("attach to ", load, ": it is not ready yet")),
        "WRONG_STATE");
  }
  return shards->Offer(rank, token, mode, stopped);
}

absl::StatusOr<LoadTable::Offered> LoadTable::FindOffered(const ShardOffer& offer) const {
  Offered offered;
  {
    MutexLock lock(&state_->mutex);
    const auto entry = state_->loads.find(offer.index->load);
    if (entry != state_->loads.end()) offered.load = entry->second;
  }
  if (offered.load != nullptr) offered.shards = offered.load->shards();
  if (offered.shards != nullptr && offered.shards->index() == offer.index) return offered;
  return WithReason(absl::FailedPreconditionError(
                        absl::StrCat("attach to rank ", offer.rank, " of ", offer.index->load,
                                     ": the load was cancelled while it was handed over")),
                    "WRONG_STATE");
}

absl::StatusOr<ShardOffer> LoadTable::OfferCopy(const ShardOffer& offer, const std::string& why,
                                                const std::function<bool()>& stopped) {
  ZC_ASSIGN_OR_RETURN(const Offered offered, FindOffered(offer));
  return offered.shards->OfferCopy(offer, why, stopped);
}

absl::Status LoadTable::Settle(const ShardOffer& offer, bool acknowledged) {
  ZC_ASSIGN_OR_RETURN(const Offered offered, FindOffered(offer));
  const auto& [load, shards] = offered;
  ZC_RETURN_IF_ERROR(shards->Settle(offer.rank, offer.mode, acknowledged, offer.lent.get()));
  if (!acknowledged) return absl::OkStatus();
  {
    MutexLock lock(&state_->mutex);
    state_->ForgetEmptyLocked(load, *shards, "all its shards here were handed over");
  }
  state_->environment->events->HandedOver(load->key(),
                                          {offer.rank, offer.mode, offer.way, offer.because});
  return absl::OkStatus();
}

void LoadTable::ExpireUnclaimed(absl::Duration ttl) {
  const absl::Duration now = state_->environment->clock->Steady();
  std::vector<std::shared_ptr<Load>> old;
  {
    MutexLock lock(&state_->mutex);
    for (const auto& [name, load] : state_->loads) {
      if (now - load->ready_at() >= ttl) old.push_back(load);
    }
  }
  for (const std::shared_ptr<Load>& load : old) {
    const std::shared_ptr<ShardBook> shards = load->shards();
    if (shards == nullptr) continue;  // cancelled meanwhile
    const std::string why =
        absl::StrCat("no process took it within ", absl::FormatDuration(ttl),
                     " of its load's being ready, so it was freed; load it again, or start the "
                     "agent with a longer --unclaimed-ttl");
    const std::vector<int32_t> ranks = shards->Expire(why);
    if (ranks.empty()) continue;
    spdlog::warn("{} epoch {}: {} of its shards were freed: no process took them within {}",
                 load->key().load, load->key().epoch, ranks.size(), absl::FormatDuration(ttl));
    {
      MutexLock lock(&state_->mutex);
      ++state_->counts.expired;
      state_->ForgetEmptyLocked(load, *shards, why);
    }
    state_->environment->events->ShardsFreed(
        load->key(), ranks, WithReason(absl::FailedPreconditionError(why), "WRONG_STATE"));
  }
}

void LoadTable::Shutdown(absl::Duration timeout) {
  {
    MutexLock lock(&state_->mutex);
    state_->stopped = true;
  }
  CancelAll("the agent stops");
  const Deadline deadline(timeout);
  MutexLock lock(&state_->mutex);
  while (state_->num_threads > 0 && !deadline.Passed()) {
    state_->idle.WaitWithTimeout(&state_->mutex, deadline.Remaining());
  }
  if (state_->num_threads > 0) {
    const int left = state_->num_threads;
    spdlog::error("stop: {} of loads {} not end within {} and {} left behind",
                  left == 1 ? "1 thread" : absl::StrCat(left, " threads"),
                  left == 1 ? "does" : "do", absl::FormatDuration(timeout),
                  left == 1 ? "is" : "are");
  }
}

LoadCounts LoadTable::counts() const {
  MutexLock lock(&state_->mutex);
  LoadCounts counts = state_->counts;
  counts.held = static_cast<int64_t>(state_->loads.size());
  return counts;
}

}  // namespace zerocast
