#ifndef ZEROCAST_CLIENT_AGENT_FRESH_MEMORY_H_
#define ZEROCAST_CLIENT_AGENT_FRESH_MEMORY_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "client/agent/box_copy.h"

namespace zerocast {

// Arenas whose pages are not there yet, and the two ways to get them.  To have the kernel make them
// in a mapping, some hundreds at a time, takes half of what it takes to make each where it is first
// touched.  To write(2) whole pages of a memfd takes half of that again: nothing is mapped, and so
// nothing unmapped later; but the kernel lets one thread at a time write to a memfd.  Where it
// gives huge pages, it gives them to mappings, and nothing is faster.  Thread-safe.
class FreshMemory {
 public:
  // Each of `arenas` has `arena_bytes` bytes, and `fds`, where there are any, has its descriptor,
  // or -1; not owned.
  FreshMemory(absl::Span<char* const> arenas, absl::Span<const int> fds, int64_t arena_bytes);

  // Whether Run, with bytes that are in the caches, is the best way to bring them to
  // [place, place + num_bytes); otherwise they are best read there.
  bool PrefersRun(const char* place, int64_t num_bytes);

  // Executes `copy`.  Returns the bytes that it wrote.  Errors: RESOURCE_EXHAUSTED where there is
  // no memory to write to.
  absl::StatusOr<int64_t> Run(const BoxCopy& copy);

  // Sees to it that the pages of [begin, begin + num_bytes) are there, where that lies in an arena;
  // other memory is left alone.  What the kernel refuses is left to be made by writing.
  void Make(const char* begin, int64_t num_bytes);

 private:
  static constexpr int64_t kBlockBytes = int64_t{2} << 20;
  struct Region {
    Region(size_t k, char* region_data, int region_fd, size_t num_blocks)
        : number(k), data(region_data), fd(region_fd), made(num_blocks) {}
    const size_t number;
    char* const data;
    const int fd;
    std::vector<std::atomic<bool>> made;  // by block: all its pages are
    std::atomic<int> writers{0};          // threads that write to fd, or wait for it
  };
  Region* Find(const char* place);
  // The arena of those bytes, where they are best written through its descriptor; else null.
  Region* FindToWrite(const char* place, int64_t num_bytes);
  // To byte `at` of the arena.
  static absl::Status Write(const Region& region, int64_t at, const char* data, int64_t num_bytes);
  static absl::Status ConvertAndWrite(const Region& region, int64_t at, const BoxCopy& copy);

  const int64_t arena_bytes_;
  std::deque<Region> regions_;
};

// Whether shared memory gets huge pages in a mapping, by the text of hugepages-2048kB/shmem_enabled
// and of shmem_enabled below /sys/kernel/mm/transparent_hugepage; "" where there is no such file.
// The kernel's Documentation/admin-guide/mm/transhuge.rst.
bool MappingsGetHugePages(const std::string& of_size, const std::string& of_all);
// Whether it does on this system; asked once a process.
bool SharedMemoryGetsHugePages();
// The file that decides it.
std::string SharedHugePagesSetting();

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_FRESH_MEMORY_H_
