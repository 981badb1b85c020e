#include "client/agent/fresh_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <utility>

namespace zerocast {
namespace {

// Linux 5.14; glibc's headers may be older than the kernel.
constexpr int kPopulateWrite = 23;

}  // namespace

FreshMemory::FreshMemory(absl::Span<char* const> arenas, int64_t arena_bytes)
    : arena_bytes_(arena_bytes) {
  const auto blocks = static_cast<size_t>((arena_bytes + kBlockBytes - 1) / kBlockBytes);
  for (char* const data : arenas) {
    regions_.push_back({data, std::vector<std::atomic<bool>>(blocks)});
  }
}

void FreshMemory::Make(const char* begin, int64_t num_bytes) {
  for (Region& region : regions_) {
    if (begin < region.data || begin >= region.data + arena_bytes_) continue;
    const int64_t first = (begin - region.data) / kBlockBytes;
    const int64_t last = (begin - region.data + num_bytes - 1) / kBlockBytes;
    for (int64_t block = first; block <= last; ++block) {
      std::atomic<bool>& made = region.made[static_cast<size_t>(block)];
      if (made || made.exchange(true)) continue;
      const int64_t at = block * kBlockBytes;
      // An older kernel does not know it: then pages come as they are written.
      ::madvise(region.data + at, static_cast<size_t>(std::min(kBlockBytes, arena_bytes_ - at)),
                kPopulateWrite);
    }
    return;
  }
}

void FreshMemory::MakeFor(const BoxCopy& copy) {
  const int64_t size = SizeOf(copy.target_dtype);
  Make(copy.target + copy.box.target_offset * size,
       (TargetEnd(copy.box) - copy.box.target_offset) * size);
}

}  // namespace zerocast
