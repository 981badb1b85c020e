#include "client/agent/memory_needs.h"

#include <algorithm>
#include <thread>

#include "absl/strings/str_cat.h"
#include "client/agent/chunks.h"
#include "client/agent/placement.h"
#include "client/agent/posix_file.h"
#include "server/base/errors.h"
#include "server/plan/messages.h"
#include "server/plan/round_exchange.h"

namespace zerocast {
namespace {

// More at once does not read faster, and leaves the caches before it is copied.
constexpr int64_t kMostChunkBytes = int64_t{4} << 20;
constexpr int64_t kLeastChunkBytes = int64_t{64} << 10;

bool Transposes(const Plan& plan) {
  for (const Target& target : plan.targets) {
    if (std::any_of(target.boxes.begin(), target.boxes.end(), IsTransposed)) return true;
  }
  return false;
}

}  // namespace

int ReadingThreads(int wanted) {
  constexpr unsigned kMost = 16;
  if (wanted > 0) return wanted;
  return static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1u, kMost));
}

namespace {

// Of chunks that are read `factor` times as large.
int64_t ChunkBytesOf(const Layout& layout, int num_threads, int64_t max_buffer_bytes,
                     int64_t factor) {
  // What is read in two rounds and what comes in them: three quarters; a load without exchange
  // leaves half of it unused.
  const int64_t share = max_buffer_bytes / (NeedsExchange(layout) ? 4 : 2);
  return std::clamp(share / (num_threads * kChunksUnderWay * factor), kLeastChunkBytes,
                    kMostChunkBytes);
}

}  // namespace

int64_t ChunkBytes(const Layout& layout, int num_threads, int64_t max_buffer_bytes) {
  return ChunkBytesOf(layout, num_threads, max_buffer_bytes, kTransposedChunks);
}

int64_t DeviceChunkBytes(const Plan& plan, int num_threads, int64_t max_buffer_bytes) {
  return ChunkBytesOf(plan.layout, num_threads, max_buffer_bytes,
                      Transposes(plan) ? kTransposedChunks : 1);
}

int64_t StagingBytes(const Plan& plan, int64_t chunk_bytes) {
  // O_DIRECT reads whole blocks at both ends.
  return chunk_bytes * (Transposes(plan) ? kTransposedChunks : 1) + 2 * kDirectAlignment;
}

MemoryNeeds ComputeMemoryNeeds(const Plan& plan, const Schedule& schedule, int32_t node,
                               int num_threads, int64_t chunk_bytes) {
  MemoryNeeds needs;
  const auto [first, last] = RanksOfNode(plan.layout, node);
  needs.arenas = plan.arena_bytes * (last - first);
  if (schedule.ReadBytes(node) > 0) {
    needs.reading =
        num_threads * kChunksUnderWay * chunk_bytes * (Transposes(plan) ? kTransposedChunks : 1);
  }
  const ExchangeBuffers exchange = ComputeExchangeBuffers(plan, schedule, node);
  needs.sending = exchange.sending();
  needs.receiving = exchange.receiving();
  return needs;
}

absl::Status CheckBuffers(const MemoryNeeds& needs, const Layout& layout,
                          int64_t max_buffer_bytes) {
  if (needs.buffers() <= max_buffer_bytes) return absl::OkStatus();
  return WithReason(
      absl::ResourceExhaustedError(absl::StrCat(
          "plan the buffers: ", needs.buffers(), " bytes (", needs.reading, " to read, ",
          needs.sending, " to send, ", needs.receiving, " to receive, with rounds of ",
          layout.round_bytes, "), more than --max-buffer-memory ", max_buffer_bytes,
          "; allow more, or load with smaller rounds (--round-bytes, or a smaller "
          "--max-buffer-memory of the load)")),
      "RESOURCE_EXHAUSTED");
}

}  // namespace zerocast
