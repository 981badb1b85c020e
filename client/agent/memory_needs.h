#ifndef ZEROCAST_CLIENT_AGENT_MEMORY_NEEDS_H_
#define ZEROCAST_CLIENT_AGENT_MEMORY_NEEDS_H_

#include <cstdint>

#include "absl/status/status.h"
#include "server/plan/plan.h"
#include "server/plan/schedule.h"

namespace zerocast {

// The least that buffers may be allowed; bytes.
inline constexpr int64_t kLeastBufferBytes = int64_t{1} << 20;

// Chunks that each reading thread has under way: while one is copied the next is read, where the
// system reads by itself.
inline constexpr int kChunksUnderWay = 2;

// Threads that read and copy for one load: `wanted`, or, where that is 0, one for each processor,
// at most 16.
int ReadingThreads(int wanted);

// What a thread reads at once so that all of them stay within their share of `max_buffer_bytes`;
// bytes.  Rounds that transpose read kTransposedChunks (chunks.h) times as much.
int64_t ChunkBytes(const Layout& layout, int num_threads, int64_t max_buffer_bytes);
// The same for a load onto devices, whose caches a chunk need not fit: as much as its share allows.
int64_t DeviceChunkBytes(const Plan& plan, int num_threads, int64_t max_buffer_bytes);

// The most that a thread reads at once; bytes.  Without tensors whose elements are larger.
int64_t StagingBytes(const Plan& plan, int64_t chunk_bytes);

// The memory that a node needs for its part of a load, known before a byte is read; bytes.
struct MemoryNeeds {
  int64_t arenas = 0;     // of all its ranks
  int64_t reading = 0;    // at most: what the threads read into before it is copied
  int64_t sending = 0;    // messages and broadcasts of two rounds
  int64_t receiving = 0;  // those of two rounds

  int64_t buffers() const { return reading + sending + receiving; }
};

// Derives every message of every round; exact but for `reading`, which is an upper bound.
MemoryNeeds ComputeMemoryNeeds(const Plan& plan, const Schedule& schedule, int32_t node,
                               int num_threads, int64_t chunk_bytes);

// RESOURCE_EXHAUSTED where the buffers need more than `max_buffer_bytes`; says what to do.
absl::Status CheckBuffers(const MemoryNeeds& needs, const Layout& layout, int64_t max_buffer_bytes);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_MEMORY_NEEDS_H_
