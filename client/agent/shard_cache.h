#ifndef ZEROCAST_CLIENT_AGENT_SHARD_CACHE_H_
#define ZEROCAST_CLIENT_AGENT_SHARD_CACHE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "client/agent/arena.h"
#include "client/agent/messages.h"

namespace zerocast {

// What a finished shard holds: the plan that it was made by, and the files (content_key.h).
struct ShardContent {
  std::string plan_digest;
  std::string content_key;  // "": not known, and nobody finds it
};

struct ShardCacheStats {
  int64_t bytes = 0;      // gauge: of shards that no load uses any more
  int64_t hits = 0;       // shards that a load took from here
  int64_t misses = 0;     // shards that a load had to read or fetch
  int64_t evictions = 0;  // shards that were freed to make room
};

// The use of one finished shard: while it lives the shard stays.  Move-only, thread-compatible;
// several of one shard may be used by several threads.
class ShardLease {
 public:
  ShardLease() = default;  // of nothing
  ShardLease(ShardLease&& other) noexcept = default;
  ShardLease& operator=(ShardLease&& other) noexcept;
  ~ShardLease() { Release(); }

  bool valid() const { return entry_ != nullptr; }

  // All of these need a valid lease.
  const Arena& arena() const;
  const ShardContent& content() const;
  int32_t rank() const;

  // For a shared hand-over: nobody finds the shard from now on, and with its last lease it is
  // freed, never kept.  Errors: FAILED_PRECONDITION, reason WRONG_STATE, when another load uses it,
  // too, or it is sealed: then somebody may map it privately.
  absl::Status TakeOut();
  // It was not handed over after all.
  void PutBack();

  // Nobody but this process's own mapping can write to it from now on; it can never be taken out
  // again.  Idempotent.  Errors: as Arena::SealForSharing.
  absl::Status SealForSharing();

  // Ends the use.  The memory may be unmapped by that: not to be called under a lock.
  void Release();

 private:
  friend class ShardCache;
  struct Entry;
  struct State;
  ShardLease(std::shared_ptr<State> state, std::shared_ptr<Entry> entry);

  std::shared_ptr<State> state_;
  std::shared_ptr<Entry> entry_;
};

// All finished shards of an agent, found by what they hold.  A shard belongs to the loads that have
// a lease of it.  When the last one goes it is freed, or, where max_bytes lets it and it was not
// taken out, kept (and sealed) until others need the room, the least recently used ones first.
// Thread-safe.
class ShardCache {
 public:
  explicit ShardCache(int64_t max_bytes = 0);

  // Takes in the arenas of ranks first_rank, first_rank + 1, ...: finished, never handed out.
  std::vector<ShardLease> Add(const ShardContent& content, int32_t first_rank,
                              std::vector<Arena> arenas);
  ShardLease AddOne(const ShardContent& content, int32_t rank, Arena arena);

  // Leases of all shards of this plan, of each rank and content key at most one.  None where this
  // kernel cannot seal memory against writing.
  std::vector<ShardLease> Find(absl::string_view plan_digest);

  // What there is to find, by plan digest and content key; ranks ascend.
  std::vector<HeldShards> Inventory() const;
  // Called after each change of what Inventory and stats().bytes return, by whoever makes it and
  // maybe under a lock of his, never under one of the cache: `listener` must only take note.  Set
  // it before the first shard comes; null ends it.
  void SetListener(std::function<void()> listener);

  void CountHits(int64_t shards);
  void CountMisses(int64_t shards);
  ShardCacheStats stats() const;

 private:
  // True when that changed what is kept.
  bool TakeLeases(absl::string_view plan_digest, std::vector<ShardLease>* leases);

  const std::shared_ptr<ShardLease::State> state_;  // shared with the leases
};

// What `shards`, which are valid, are: by plan digest and content key; ranks ascend.
std::vector<HeldShards> ListHeld(const std::vector<ShardLease>& shards);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_SHARD_CACHE_H_
