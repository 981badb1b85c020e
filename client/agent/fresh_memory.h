#ifndef ZEROCAST_CLIENT_AGENT_FRESH_MEMORY_H_
#define ZEROCAST_CLIENT_AGENT_FRESH_MEMORY_H_

#include <atomic>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "client/agent/box_copy.h"

namespace zerocast {

// Arenas whose pages are not there yet.  To have the kernel make them some hundreds at a time takes
// half of what it takes to make each where it is first written.  Thread-safe.
class FreshMemory {
 public:
  // Each of `arenas` has `arena_bytes` bytes; not owned.
  FreshMemory(absl::Span<char* const> arenas, int64_t arena_bytes);

  // Sees to it that the pages of [begin, begin + num_bytes) are there, where that lies in an arena;
  // other memory is left alone.  What the kernel refuses is left to be made by writing.
  void Make(const char* begin, int64_t num_bytes);
  // Those that `copy` writes to, gaps included.
  void MakeFor(const BoxCopy& copy);

 private:
  static constexpr int64_t kBlockBytes = int64_t{2} << 20;
  struct Region {
    char* data;
    std::vector<std::atomic<bool>> made;  // by block
  };
  const int64_t arena_bytes_;
  std::vector<Region> regions_;
};

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_FRESH_MEMORY_H_
