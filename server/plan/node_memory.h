#ifndef ZEROCAST_SERVER_PLAN_NODE_MEMORY_H_
#define ZEROCAST_SERVER_PLAN_NODE_MEMORY_H_

// The memory that a node needs for its part of a load, known before a byte is read: what a dry run
// states, and what an agent keeps to.  Functions.

#include <cstdint>
#include <vector>

#include "kernels/copy/box.h"
#include "server/plan/plan.h"
#include "server/plan/schedule.h"

namespace zerocast {

// The least that a load's buffers on a node may be allowed; bytes.
inline constexpr int64_t kLeastBufferBytes = int64_t{1} << 20;

// Chunks that each reading thread has under way: while one is copied the next is read, where the
// system reads by itself.
inline constexpr int kChunksUnderWay = 2;

// In a round that transposes chunks are as many times larger: each visit of a page of the target
// then brings more.
inline constexpr int64_t kTransposedChunks = 4;

// True where the last two loops, as both sides order them, are not the same one.
bool IsTransposed(const Box& box);
// Whether some box of the plan is.
bool Transposes(const Plan& plan);

// What a thread reads at once so that all of them stay within their share of `max_buffer_bytes`;
// bytes.  Rounds that transpose read kTransposedChunks times as much.
int64_t ChunkBytes(const Layout& layout, int num_threads, int64_t max_buffer_bytes);
// The same for a load onto devices, whose caches a chunk need not fit: as much as its share allows.
int64_t DeviceChunkBytes(const Plan& plan, int num_threads, int64_t max_buffer_bytes);

// On devices what is read lies in staging places, page-locked and once more on the device: one for
// each chunk under way, and these for what is unpacked.
inline constexpr int kStagingPlacesToUnpack = 4;
// The most that a thread reads at once, with the whole blocks of a direct read; bytes.  Without
// tensors whose elements are larger.
int64_t StagingBytes(const Plan& plan, int64_t chunk_bytes);
// Room in each place for descriptors of boxes, beside StagingBytes of data or none; bytes.
int64_t DescriptorRoom(int64_t staging_bytes);

// Bytes.
struct MemoryNeeds {
  int64_t arenas = 0;  // of all its ranks
  // Of those on devices, not in host memory.
  int64_t device_arenas = 0;
  int64_t reading = 0;    // at most: what the threads read into before it is copied
  int64_t sending = 0;    // messages and broadcasts of two rounds
  int64_t receiving = 0;  // those of two rounds

  int64_t buffers() const { return reading + sending + receiving; }
};

// Derives every message of every round; exact but for `reading`, which is an upper bound.
MemoryNeeds ComputeMemoryNeeds(const Plan& plan, const Schedule& schedule, int32_t node,
                               int num_threads, int64_t chunk_bytes);

// How one participant of a load (a node; a rank where devices fill shards) uses its memory.
struct NodeBudget {
  int num_threads = 1;      // that read and copy
  int64_t chunk_bytes = 0;  // of each
  MemoryNeeds needs;
};

// `plan` is an ExchangePlan() (plan.h).  `num_threads` are the agent's, which
// `participants_of_agent` share.
NodeBudget ComputeNodeBudget(const Plan& plan, const Schedule& schedule, int32_t participant,
                             int num_threads, int participants_of_agent, int64_t max_buffer_bytes);

// The most threads that an agent has unless it is told how many.
inline constexpr int kMostThreads = 16;

// What an agent allows one load; 0: not known.
struct AgentLimits {
  int64_t max_buffer_bytes = 0;  // as much as the job
  int num_threads = 0;           // kMostThreads
};

// By participant, of the first 16.  `agents` are those of the nodes of `layout`, the job's own;
// may be fewer.  `max_buffer_bytes` is the job's.
std::vector<MemoryNeeds> MemoryOfNodes(const Plan& plan, const Schedule& schedule,
                                       const Layout& layout, const std::vector<AgentLimits>& agents,
                                       int64_t max_buffer_bytes);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_PLAN_NODE_MEMORY_H_
