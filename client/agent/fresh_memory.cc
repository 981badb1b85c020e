#include "client/agent/fresh_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <iterator>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/copy/algebra.h"
#include "server/base/errors.h"

namespace zerocast {
namespace {

// Linux 5.14; glibc's headers may be older than the kernel.
constexpr int kPopulateWrite = 23;
// The kernel lets one at a time write to a memfd.
constexpr int kMostWriters = 3;

// Newer kernels have a setting for each size, which may leave it to the one of all sizes.
constexpr char kOfHugePageSize[] =
    "/sys/kernel/mm/transparent_hugepage/hugepages-2048kB/shmem_enabled";
constexpr char kOfAllSizes[] = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";

bool DecidesItself(const std::string& of_size) {
  return !of_size.empty() && !absl::StrContains(of_size, "[inherit]");
}

std::string ReadSetting(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// What is cast or decoded, and then written, at a time: on the stack of whoever copies.
constexpr int64_t kConvertedBytes = int64_t{32} << 10;

// True when the bytes of the source are those of the target; of a box that is contiguous.
bool KeepsBytes(const BoxCopy& copy) {
  return copy.decoder == nullptr && copy.source_dtype == copy.target_dtype;
}

}  // namespace

bool MappingsGetHugePages(const std::string& of_size, const std::string& of_all) {
  const std::string& text = DecidesItself(of_size) ? of_size : of_all;
  return absl::StrContains(text, "[") && !absl::StrContains(text, "[never]") &&
         !absl::StrContains(text, "[deny]");
}

bool SharedMemoryGetsHugePages() {
  static const bool gets =
      MappingsGetHugePages(ReadSetting(kOfHugePageSize), ReadSetting(kOfAllSizes));
  return gets;
}

std::string SharedHugePagesSetting() {
  const std::string of_size = ReadSetting(kOfHugePageSize);
  return DecidesItself(of_size) ? kOfHugePageSize : kOfAllSizes;
}

FreshMemory::FreshMemory(absl::Span<char* const> arenas, absl::Span<const int> fds,
                         int64_t arena_bytes)
    : arena_bytes_(arena_bytes) {
  const bool writes = !fds.empty() && !SharedMemoryGetsHugePages();
  const auto blocks = static_cast<size_t>((arena_bytes + kBlockBytes - 1) / kBlockBytes);
  for (size_t k = 0; k < arenas.size(); ++k) {
    regions_.emplace_back(k, arenas[k], writes ? fds[k] : -1, blocks);
  }
}

FreshMemory::Region* FreshMemory::Find(const char* place) {
  for (Region& region : regions_) {
    if (place >= region.data && place < region.data + arena_bytes_) return &region;
  }
  return nullptr;
}

FreshMemory::Region* FreshMemory::FindToWrite(const char* place, int64_t num_bytes) {
  Region* const region = Find(place);
  if (region == nullptr || region->fd < 0) return nullptr;
  const auto block = region->made.begin() + (place - region->data) / kBlockBytes;
  const auto last = region->made.begin() + (place - region->data + num_bytes - 1) / kBlockBytes;
  const bool is_made =
      std::all_of(block, last + 1, [](const std::atomic<bool>& made) { return made.load(); });
  return is_made ? nullptr : region;
}

bool FreshMemory::PrefersRun(const char* place, int64_t num_bytes) {
  return FindToWrite(place, num_bytes) != nullptr;
}

void FreshMemory::Make(const char* begin, int64_t num_bytes) {
  Region* const region = Find(begin);
  if (region == nullptr || num_bytes == 0) return;
  const int64_t first = (begin - region->data) / kBlockBytes;
  const int64_t last = (begin - region->data + num_bytes - 1) / kBlockBytes;
  for (int64_t block = first; block <= last; ++block) {
    std::atomic<bool>& made = region->made[static_cast<size_t>(block)];
    if (made || made.exchange(true)) continue;
    const int64_t at = block * kBlockBytes;
    // An older kernel does not know it: then pages come as they are written.
    ::madvise(region->data + at, static_cast<size_t>(std::min(kBlockBytes, arena_bytes_ - at)),
              kPopulateWrite);
  }
}

absl::Status FreshMemory::Write(const Region& region, int64_t at, const char* data,
                                int64_t num_bytes) {
  while (num_bytes > 0) {
    const ssize_t written = ::pwrite(region.fd, data, static_cast<size_t>(num_bytes), at);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) {
      return ErrnoStatus(written < 0 ? errno : ENOSPC,
                         absl::StrCat("write ", num_bytes, " bytes to shared memory, into arena ",
                                      region.number, " of this node at ", at));
    }
    data += written;
    at += written;
    num_bytes -= written;
  }
  return absl::OkStatus();
}

absl::Status FreshMemory::ConvertAndWrite(const Region& region, int64_t at, const BoxCopy& copy) {
  alignas(64) char converted[kConvertedBytes];
  const int64_t size = SizeOf(copy.target_dtype);
  const int64_t count = NumElements(copy.box);
  const int64_t step = kConvertedBytes / size;
  for (int64_t first = 0; first < count; first += step) {
    BoxCopy part = copy;
    part.box.num_dims = 1;
    part.box.dims[0] = {std::min(step, count - first), 1, 1};
    part.box.source_offset += first;
    part.box.target_offset = 0;
    part.target = converted;
    ZC_RETURN_IF_ERROR(Write(region, at + first * size, converted, RunBoxCopy(part)));
  }
  return absl::OkStatus();
}

absl::StatusOr<int64_t> FreshMemory::Run(const BoxCopy& copy) {
  const int64_t size = SizeOf(copy.target_dtype);
  const char* const place = copy.target + copy.box.target_offset * size;
  const int64_t num_bytes = (TargetEnd(copy.box) - copy.box.target_offset) * size;
  Region* const region = IsContiguous(copy.box) ? FindToWrite(place, num_bytes) : nullptr;
  if (region != nullptr && region->writers < kMostWriters) {
    ++region->writers;
    const absl::Cleanup done = [region] { --region->writers; };
    const int64_t at = place - region->data;
    ZC_RETURN_IF_ERROR(
        KeepsBytes(copy)
            ? Write(*region, at, copy.source + copy.box.source_offset * size, num_bytes)
            : ConvertAndWrite(*region, at, copy));
    return num_bytes;
  }
  Make(place, num_bytes);
  return RunBoxCopy(copy);
}

}  // namespace zerocast
