#include "client/agent/memory_needs.h"

#include <algorithm>
#include <thread>

#include "client/agent/posix_file.h"

namespace zerocast {

int ReadingThreads(int wanted) {
  if (wanted > 0) return wanted;
  return static_cast<int>(
      std::clamp(std::thread::hardware_concurrency(), 1u, unsigned{kMostThreads}));
}

int64_t StagingBytes(const Plan& plan, int64_t chunk_bytes) {
  // O_DIRECT reads whole blocks at both ends.
  return chunk_bytes * (Transposes(plan) ? kTransposedChunks : 1) + 2 * kDirectAlignment;
}

}  // namespace zerocast
