#include "client/agent/shard_cache.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/mutex.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"

namespace zerocast {

struct ShardLease::Entry {
  ShardContent content;
  int32_t rank = 0;
  Arena arena;

  // Guarded by State::mutex.
  int64_t users = 0;
  bool sealed = false;
  bool taken_out = false;
  uint64_t last_used = 0;

  bool findable() const { return !taken_out && !content.content_key.empty(); }
  bool HoldsSameAs(const Entry& other) const {
    return rank == other.rank && content.content_key == other.content.content_key &&
           content.plan_digest == other.content.plan_digest;
  }
};

struct ShardLease::State {
  using Entries = std::vector<std::shared_ptr<Entry>>;

  State(int64_t max_bytes, bool can_seal) : max_bytes(max_bytes), can_seal(can_seal) {}

  const int64_t max_bytes;
  const bool can_seal;
  mutable Mutex mutex;
  Entries entries ABSL_GUARDED_BY(mutex);
  uint64_t num_uses ABSL_GUARDED_BY(mutex) = 0;
  ShardCacheStats stats ABSL_GUARDED_BY(mutex);
  std::shared_ptr<const std::function<void()>> listener ABSL_GUARDED_BY(mutex);

  absl::Status SealLocked(Entry* entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  // True when the shard, which nobody uses any more, stays; what it displaces goes to `freed`.
  bool KeepLocked(Entry* entry, Entries* freed) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void EraseLocked(const Entry* entry, Entries* freed) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void Tell() const;
};

absl::Status ShardLease::State::SealLocked(Entry* entry) {
  if (entry->sealed) return absl::OkStatus();
  ZC_RETURN_IF_ERROR(entry->arena.SealForSharing());
  entry->sealed = true;
  return absl::OkStatus();
}

void ShardLease::State::EraseLocked(const Entry* entry, Entries* freed) {
  const auto found = std::find_if(entries.begin(), entries.end(),
                                  [entry](const auto& each) { return each.get() == entry; });
  freed->push_back(std::move(*found));
  entries.erase(found);
}

bool ShardLease::State::KeepLocked(Entry* entry, Entries* freed) {
  const int64_t num_bytes = entry->arena.num_bytes();
  if (!entry->findable() || !can_seal || num_bytes > max_bytes || max_bytes == 0) return false;
  for (const std::shared_ptr<Entry>& other : entries) {
    if (other.get() != entry && other->users == 0 && other->HoldsSameAs(*entry)) return false;
  }
  if (!SealLocked(entry).ok()) return false;
  entry->last_used = ++num_uses;
  stats.bytes += num_bytes;
  while (stats.bytes > max_bytes) {
    Entry* oldest = nullptr;
    for (const std::shared_ptr<Entry>& other : entries) {
      if (other->users > 0 || other.get() == entry) continue;
      if (oldest == nullptr || other->last_used < oldest->last_used) oldest = other.get();
    }
    stats.bytes -= oldest->arena.num_bytes();
    ++stats.evictions;
    EraseLocked(oldest, freed);
  }
  return true;
}

void ShardLease::State::Tell() const {
  std::shared_ptr<const std::function<void()>> told;
  {
    MutexLock lock(&mutex);
    told = listener;
  }
  if (told != nullptr && *told != nullptr) (*told)();
}

ShardLease::ShardLease(std::shared_ptr<State> state, std::shared_ptr<Entry> entry)
    : state_(std::move(state)), entry_(std::move(entry)) {}

ShardLease& ShardLease::operator=(ShardLease&& other) noexcept {
  if (this != &other) {
    Release();
    state_ = std::move(other.state_);
    entry_ = std::move(other.entry_);
  }
  return *this;
}

const Arena& ShardLease::arena() const { return entry_->arena; }
const ShardContent& ShardLease::content() const { return entry_->content; }
int32_t ShardLease::rank() const { return entry_->rank; }

absl::Status ShardLease::TakeOut() {
  {
    MutexLock lock(&state_->mutex);
    const char* why = nullptr;
    if (entry_->users > 1) {
      why = "another load of the same checkpoint uses this memory, too";
    } else if (entry_->sealed) {
      why = "its memory is sealed, as others have used it, too";
    }
    if (why != nullptr) {
      return WithReason(
          absl::FailedPreconditionError(absl::StrCat(why, "; attach with mode private, or auto")),
          "WRONG_STATE");
    }
    entry_->taken_out = true;
  }
  state_->Tell();
  return absl::OkStatus();
}

void ShardLease::PutBack() {
  {
    MutexLock lock(&state_->mutex);
    entry_->taken_out = false;
  }
  state_->Tell();
}

absl::Status ShardLease::SealForSharing() {
  MutexLock lock(&state_->mutex);
  return state_->SealLocked(entry_.get());
}

void ShardLease::Release() {
  if (entry_ == nullptr) return;
  const std::shared_ptr<State> state = std::move(state_);
  const std::shared_ptr<Entry> entry = std::move(entry_);
  bool changed = false;
  State::Entries freed;  // unmapped after the lock is released
  {
    MutexLock lock(&state->mutex);
    if (--entry->users > 0) return;
    changed = state->KeepLocked(entry.get(), &freed);
    if (!changed) state->EraseLocked(entry.get(), &freed);
    for (const std::shared_ptr<Entry>& each : freed) changed |= each->findable();
  }
  freed.clear();
  if (changed) state->Tell();
}

namespace {

bool CanSeal() {
  absl::StatusOr<Arena> probe = Arena::Create("zerocast-probe", 4096);
  return probe.ok() && probe->SealForSharing().ok();
}

}  // namespace

ShardCache::ShardCache(int64_t max_bytes)
    : state_(std::make_shared<ShardLease::State>(max_bytes, CanSeal())) {}

ShardLease ShardCache::AddOne(const ShardContent& content, int32_t rank, Arena arena) {
  auto entry = std::make_shared<ShardLease::Entry>();
  entry->content = content;
  entry->rank = rank;
  entry->arena = std::move(arena);
  entry->users = 1;
  {
    MutexLock lock(&state_->mutex);
    state_->entries.push_back(entry);
  }
  if (entry->findable()) state_->Tell();
  return ShardLease(state_, std::move(entry));
}

std::vector<ShardLease> ShardCache::Add(const ShardContent& content, int32_t first_rank,
                                        std::vector<Arena> arenas) {
  std::vector<ShardLease> leases;
  for (Arena& arena : arenas) {
    const int32_t rank = first_rank + static_cast<int32_t>(leases.size());
    leases.push_back(AddOne(content, rank, std::move(arena)));
  }
  return leases;
}

std::vector<ShardLease> ShardCache::Find(absl::string_view plan_digest) {
  std::vector<ShardLease> leases;
  if (!state_->can_seal) return leases;
  if (TakeLeases(plan_digest, &leases)) state_->Tell();
  return leases;
}

bool ShardCache::TakeLeases(absl::string_view plan_digest, std::vector<ShardLease>* leases) {
  std::map<std::pair<std::string, int32_t>, std::shared_ptr<ShardLease::Entry>> chosen;
  MutexLock lock(&state_->mutex);
  const int64_t bytes_before = state_->stats.bytes;
  for (const std::shared_ptr<ShardLease::Entry>& entry : state_->entries) {
    if (!entry->findable() || entry->content.plan_digest != plan_digest) continue;
    auto& best = chosen[{entry->content.content_key, entry->rank}];
    // One that is sealed already: the other can still be handed over shared.
    if (best == nullptr || (entry->sealed && !best->sealed)) best = entry;
  }
  for (auto& [place, entry] : chosen) {
    if (entry->users++ == 0) state_->stats.bytes -= entry->arena.num_bytes();
    leases->push_back(ShardLease(state_, std::move(entry)));
  }
  return state_->stats.bytes != bytes_before;
}

namespace {

// Sorts shards by what they hold.
class HeldList {
 public:
  void Add(const ShardContent& content, int32_t rank) {
    found_[{content.plan_digest, content.content_key}].insert(rank);
  }
  std::vector<HeldShards> Take() const {
    std::vector<HeldShards> list;
    for (const auto& [content, ranks] : found_) {
      list.push_back({content.first, content.second, {ranks.begin(), ranks.end()}});
    }
    return list;
  }

 private:
  std::map<std::pair<std::string, std::string>, std::set<int32_t>> found_;
};

}  // namespace

std::vector<HeldShards> ShardCache::Inventory() const {
  HeldList list;
  MutexLock lock(&state_->mutex);
  for (const std::shared_ptr<ShardLease::Entry>& entry : state_->entries) {
    if (entry->findable() && state_->can_seal) list.Add(entry->content, entry->rank);
  }
  return list.Take();
}

std::vector<HeldShards> ListHeld(const std::vector<ShardLease>& shards) {
  HeldList list;
  for (const ShardLease& shard : shards) list.Add(shard.content(), shard.rank());
  return list.Take();
}

void ShardCache::SetListener(std::function<void()> listener) {
  auto shared = std::make_shared<const std::function<void()>>(std::move(listener));
  MutexLock lock(&state_->mutex);
  state_->listener = std::move(shared);
}

void ShardCache::CountHits(int64_t shards) {
  MutexLock lock(&state_->mutex);
  state_->stats.hits += shards;
}

void ShardCache::CountMisses(int64_t shards) {
  MutexLock lock(&state_->mutex);
  state_->stats.misses += shards;
}

ShardCacheStats ShardCache::stats() const {
  MutexLock lock(&state_->mutex);
  return state_->stats;
}

}  // namespace zerocast
