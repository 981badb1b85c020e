#include "client/agent/memory_needs.h"

#include <algorithm>
#include <thread>

namespace zerocast {

int ReadingThreads(int wanted) {
  if (wanted > 0) return wanted;
  return static_cast<int>(
      std::clamp(std::thread::hardware_concurrency(), 1u, unsigned{kMostThreads}));
}

}  // namespace zerocast
