#include "client/agent/locked_arenas.h"

#include <algorithm>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "client/agent/fresh_memory.h"
#include "client/agent/numa.h"
#include "client/agent/threads.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"

namespace zerocast {
namespace {

// Made between two looks whether to go on.
constexpr int64_t kPieceBytes = int64_t{64} << 20;

bool IsSet(const std::atomic<bool>* flag) { return flag != nullptr && *flag; }

// Makes the pages of `arena` by several threads: the driver, which would make what it locks, has
// one.
void MakePages(const Arena& arena, int num_threads, const std::atomic<bool>* cancelled) {
  char* const data = arena.data();
  FreshMemory fresh(absl::MakeConstSpan(&data, 1), {}, arena.num_bytes());
  std::atomic<int64_t> next{0};
  const auto make = [&] {
    while (!IsSet(cancelled)) {
      const int64_t at = next.fetch_add(kPieceBytes);
      if (at >= arena.num_bytes()) return;
      fresh.Make(data + at, std::min(kPieceBytes, arena.num_bytes() - at));
    }
  };
  std::vector<std::thread> threads;
  const int64_t num_pieces = (arena.num_bytes() + kPieceBytes - 1) / kPieceBytes;
  for (int k = 1; k < std::min<int64_t>(num_threads, num_pieces); ++k) {
    absl::StatusOr<std::thread> thread = StartThread(make);
    if (!thread.ok()) break;  // those that there are do it
    threads.push_back(*std::move(thread));
  }
  make();
  for (std::thread& thread : threads) thread.join();
}

absl::StatusOr<std::unique_ptr<LockedMemory>> LockOne(const Arena& arena, int device,
                                                      Devices* devices, int num_threads,
                                                      const std::atomic<bool>* cancelled) {
  // The pages come from the node of the processors that make them; threads begin where this one is.
  const ProcessorScope scope(devices->NearProcessors(device));
  MakePages(arena, num_threads, cancelled);
  if (IsSet(cancelled)) {
    return WithReason(absl::CancelledError("the load was cancelled"), "CANCELLED");
  }
  absl::StatusOr<std::unique_ptr<LockedMemory>> locked =
      devices->Lock(device, arena.data(), arena.num_bytes());
  if (!absl::IsResourceExhausted(locked.status())) return locked;
  return WithReason(
      absl::ResourceExhaustedError(absl::StrCat(
          locked.status().message(),
          "; the config offloads parameters to the host, where they must fit: give the agent more "
          "memory (its container's limit, ulimit -l), or use more nodes")),
      "RESOURCE_EXHAUSTED");
}

}  // namespace

LockedArenas::LockedArenas(std::shared_ptr<const std::vector<Arena>> arenas)
    : arenas_(std::move(arenas)), locks_(arenas_->size()) {}

absl::StatusOr<std::shared_ptr<LockedArenas>> LockedArenas::Create(
    std::shared_ptr<const std::vector<Arena>> arenas, Devices* devices, int32_t first_rank,
    int num_threads, const std::atomic<bool>* cancelled) {
  const std::shared_ptr<LockedArenas> locked(new LockedArenas(std::move(arenas)));
  std::vector<absl::Status> statuses(locked->arenas_->size());
  const auto lock = [&](size_t k) {
    const Arena& arena = (*locked->arenas_)[k];
    if (arena.num_bytes() == 0) return;
    const auto device = static_cast<int>(k);
    absl::StatusOr<std::unique_ptr<LockedMemory>> one =
        LockOne(arena, device, devices, num_threads, cancelled);
    if (one.ok()) {
      locked->locks_[k] = *std::move(one);
      return;
    }
    statuses[k] =
        Annotate(one.status(), absl::StrCat("lock the shard of rank ", first_rank + device,
                                            " in host memory for ", devices->Describe(device)));
  };
  std::vector<std::thread> threads;
  for (size_t k = 1; k < statuses.size(); ++k) {
    absl::StatusOr<std::thread> thread = StartThread([&lock, k] { lock(k); });
    if (thread.ok()) {
      threads.push_back(*std::move(thread));
    } else {
      statuses[k] = thread.status();
    }
  }
  if (!statuses.empty()) lock(0);
  for (std::thread& thread : threads) thread.join();
  for (const absl::Status& status : statuses) ZC_RETURN_IF_ERROR(status);
  return locked;
}

ArenaMemory LockedArenas::MemoryOf(const std::shared_ptr<LockedArenas>& locked, size_t k) {
  const std::unique_ptr<LockedMemory>& lock = locked->locks_[k];
  return {{lock == nullptr ? nullptr : lock->on_device()}, locked};
}

}  // namespace zerocast
