#ifndef ZEROCAST_CLIENT_AGENT_LOCKED_ARENAS_H_
#define ZEROCAST_CLIENT_AGENT_LOCKED_ARENAS_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/agent/arena.h"
#include "client/agent/devices.h"

namespace zerocast {

// Arenas in host memory that devices fill: page-locked, the k-th for device k, until Unlock or the
// end.  Keeps the arenas, not the devices.
class LockedArenas {
 public:
  // Makes the pages of all arenas, each near to its device, by `num_threads` threads an arena, and
  // locks them.  `first_rank` is that of the first arena.  No page is made any more once
  // `cancelled` (may be null) is true; what the driver has begun to lock it locks to the end.
  // Errors:
  //   RESOURCE_EXHAUSTED  the system, or its limit for the agent, has not as much memory to lock;
  //                       reason RESOURCE_EXHAUSTED.
  //   CANCELLED           `cancelled` was true; reason CANCELLED.
  // Otherwise those of Devices::Lock.  All of them name the rank.
  static absl::StatusOr<std::shared_ptr<LockedArenas>> Create(
      std::shared_ptr<const std::vector<Arena>> arenas, Devices* devices, int32_t first_rank,
      int num_threads, const std::atomic<bool>* cancelled);

  // Where device `k` finds its arena.  Whoever has an owner of it keeps all arenas, locked.
  static ArenaMemory MemoryOf(const std::shared_ptr<LockedArenas>& locked, size_t k);

  // Once no device writes any more: it waits for all work of the devices.
  void Unlock() { locks_.clear(); }

 private:
  explicit LockedArenas(std::shared_ptr<const std::vector<Arena>> arenas);

  const std::shared_ptr<const std::vector<Arena>> arenas_;
  // Of those that are not empty, by arena; behind what they lock: they end first.
  std::vector<std::unique_ptr<LockedMemory>> locks_;
};

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_LOCKED_ARENAS_H_
