#include "server/plan/node_memory.h"

#include <algorithm>

#include "server/plan/messages.h"
#include "server/plan/reads.h"
#include "server/plan/round_exchange.h"

namespace zerocast {
namespace {

// More at once does not read faster, and leaves the caches before it is copied.
constexpr int64_t kMostChunkBytes = int64_t{1} << 20;
// A device is given as much at a time: each time costs a launch.
constexpr int64_t kMostDeviceChunkBytes = int64_t{4} << 20;
constexpr int64_t kLeastChunkBytes = int64_t{64} << 10;

// Of so many participants the messages are derived for a dry run.
constexpr int32_t kNodesWithMemory = 16;

// What is read in two rounds and what comes in them: three quarters; a load without exchange
// leaves half of it unused.
int64_t ShareOfReading(const Layout& layout, int64_t max_buffer_bytes) {
  return max_buffer_bytes / (NeedsExchange(layout) ? 4 : 2);
}

// Of chunks that are read `factor` times as large; at most `most`.
int64_t ChunkBytesOf(const Layout& layout, int num_threads, int64_t max_buffer_bytes,
                     int64_t factor, int64_t most) {
  const int64_t share = ShareOfReading(layout, max_buffer_bytes);
  return std::clamp(share / (num_threads * kChunksUnderWay * factor), kLeastChunkBytes, most);
}

// What a file system may want a direct read, and its memory, to be aligned to.
constexpr int64_t kBlockBytes = 4096;

// All staging places of a participant, on the host, where their data is aligned.
int64_t AllStagingBytes(const Plan& plan, int num_threads, int64_t chunk_bytes) {
  const int64_t data = StagingBytes(plan, chunk_bytes);
  const int64_t beside = DescriptorRoom(data) + kBlockBytes;
  return num_threads * kChunksUnderWay * (data + beside) + kStagingPlacesToUnpack * beside;
}

}  // namespace

int64_t StagingBytes(const Plan& plan, int64_t chunk_bytes) {
  return chunk_bytes * (Transposes(plan) ? kTransposedChunks : 1) + 2 * kBlockBytes;
}

int64_t DescriptorRoom(int64_t staging_bytes) {
  // A box has some hundred bytes.
  return std::clamp(staging_bytes / 16, int64_t{16} << 10, int64_t{256} << 10);
}

bool IsTransposed(const Box& box) {
  for (int k = 0; k + 1 < box.num_dims; ++k) {
    if (box.dims[k].source_stride < box.dims[box.num_dims - 1].source_stride) return true;
  }
  return false;
}

bool Transposes(const Plan& plan) {
  return std::any_of(plan.targets.begin(), plan.targets.end(), [](const Target& target) {
    return std::any_of(target.boxes.begin(), target.boxes.end(), IsTransposed);
  });
}

int64_t ChunkBytes(const Layout& layout, int num_threads, int64_t max_buffer_bytes) {
  return ChunkBytesOf(layout, num_threads, max_buffer_bytes, kTransposedChunks, kMostChunkBytes);
}

int64_t DeviceChunkBytes(const Plan& plan, int num_threads, int64_t max_buffer_bytes) {
  const int64_t share = ShareOfReading(plan.layout, max_buffer_bytes);
  int64_t chunk_bytes =
      ChunkBytesOf(plan.layout, num_threads, max_buffer_bytes,
                   Transposes(plan) ? kTransposedChunks : 1, kMostDeviceChunkBytes);
  while (chunk_bytes > kLeastChunkBytes &&
         AllStagingBytes(plan, num_threads, chunk_bytes) > share) {
    chunk_bytes = std::max(kLeastChunkBytes, chunk_bytes - chunk_bytes / 16);
  }
  return chunk_bytes;
}

MemoryNeeds ComputeMemoryNeeds(const Plan& plan, const Schedule& schedule, int32_t node,
                               int num_threads, int64_t chunk_bytes) {
  MemoryNeeds needs;
  const std::vector<int32_t> first_ranks = FirstRanks(plan.layout);
  const auto k = static_cast<size_t>(node);
  needs.arenas = plan.arena_bytes * (first_ranks[k + 1] - first_ranks[k]);
  needs.device_arenas = LieOnDevices(plan.layout) ? needs.arenas : 0;
  if (plan.layout.device != LoadDevice::kCpu) {
    needs.reading = AllStagingBytes(plan, num_threads, chunk_bytes);
  } else if (schedule.ReadBytes(node) > 0) {
    needs.reading =
        num_threads * kChunksUnderWay * chunk_bytes * (Transposes(plan) ? kTransposedChunks : 1);
  }
  const ExchangeBuffers exchange = ComputeExchangeBuffers(plan, schedule, node);
  needs.sending = exchange.sending();
  needs.receiving = exchange.receiving();
  return needs;
}

NodeBudget ComputeNodeBudget(const Plan& plan, const Schedule& schedule, int32_t participant,
                             int num_threads, int participants_of_agent, int64_t max_buffer_bytes) {
  NodeBudget budget;
  budget.num_threads = std::max(1, num_threads / participants_of_agent);
  budget.chunk_bytes = plan.layout.device != LoadDevice::kCpu
                           ? DeviceChunkBytes(plan, budget.num_threads, max_buffer_bytes)
                           : ChunkBytes(plan.layout, budget.num_threads, max_buffer_bytes);
  budget.needs =
      ComputeMemoryNeeds(plan, schedule, participant, budget.num_threads, budget.chunk_bytes);
  return budget;
}

std::vector<MemoryNeeds> MemoryOfNodes(const Plan& plan, const Schedule& schedule,
                                       const Layout& layout, const std::vector<AgentLimits>& agents,
                                       int64_t max_buffer_bytes) {
  std::vector<MemoryNeeds> memory;
  const std::vector<int32_t> first_ranks = FirstRanks(layout);
  const bool by_rank = layout.device != LoadDevice::kCpu;
  for (int32_t k = 0; k < std::min(plan.layout.num_nodes, kNodesWithMemory); ++k) {
    const auto node =
        static_cast<size_t>(by_rank ? layout.node_of_rank[static_cast<size_t>(k)] : k);
    AgentLimits limits = node < agents.size() ? agents[node] : AgentLimits();
    if (limits.num_threads == 0) limits.num_threads = kMostThreads;
    if (limits.max_buffer_bytes == 0) limits.max_buffer_bytes = max_buffer_bytes;
    const int participants = by_rank ? first_ranks[node + 1] - first_ranks[node] : 1;
    memory.push_back(ComputeNodeBudget(plan, schedule, k, limits.num_threads, participants,
                                       std::min(limits.max_buffer_bytes, max_buffer_bytes))
                         .needs);
  }
  return memory;
}

}  // namespace zerocast
