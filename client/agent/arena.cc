#include "client/agent/arena.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/agent/threads.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"

namespace zerocast {
namespace {

std::atomic<int64_t> total_bytes{0};

constexpr int64_t kBytesPerThread = int64_t{256} << 20;
constexpr int64_t kMostThreads = 8;
constexpr int64_t kHugePageBytes = int64_t{2} << 20;

// Unmaps memory of a memfd, whose pages stay with who else has it.  For each page the kernel keeps
// account of, 0.1 s a GB, and holds up all that maps or unmaps in the process meanwhile; what
// MADV_DONTNEED takes out of a mapping it takes out beside others, and munmap finds nothing left.
void Unmap(char* data, int64_t num_bytes) {
  const int64_t num_threads =
      std::min({kMostThreads, static_cast<int64_t>(std::thread::hardware_concurrency()),
                num_bytes / kBytesPerThread});
  std::vector<std::thread> threads;
  for (int64_t part = 0; part < num_threads; ++part) {
    const auto border = [=](int64_t number) {
      return number == num_threads
                 ? num_bytes
                 : num_bytes / num_threads * number / kHugePageBytes * kHugePageBytes;
    };
    const int64_t begin = border(part);
    const int64_t end = border(part + 1);
    absl::StatusOr<std::thread> thread = StartThread([data, begin, end] {
      ::madvise(data + begin, static_cast<size_t>(end - begin), MADV_DONTNEED);
    });
    if (!thread.ok()) break;  // munmap does the rest
    threads.push_back(*std::move(thread));
  }
  for (std::thread& thread : threads) thread.join();
  ::munmap(data, static_cast<size_t>(num_bytes));
}

}  // namespace

absl::StatusOr<Arena> Arena::Create(const std::string& name, int64_t num_bytes) {
  if (num_bytes < 0) {
    return absl::InvalidArgumentError(absl::StrCat("create arena of ", num_bytes, " bytes"));
  }
  const std::string what = absl::StrCat("create arena ", name, " of ", num_bytes, " bytes");
  Arena arena;
  arena.fd_ = ::memfd_create(name.substr(0, 200).c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (arena.fd_ < 0) return ErrnoStatus(errno, what);
  if (::ftruncate(arena.fd_, num_bytes) != 0) return ErrnoStatus(errno, what);
  if (num_bytes > 0) {
    void* place = ::mmap(nullptr, static_cast<size_t>(num_bytes), PROT_READ | PROT_WRITE,
                         MAP_SHARED, arena.fd_, 0);
    if (place == MAP_FAILED) return ErrnoStatus(errno, what);
    // Where the system gives shared memory huge pages (transparent_hugepage/shmem_enabled); refused
    // or not, the pages come.
    ::madvise(place, static_cast<size_t>(num_bytes), MADV_HUGEPAGE);
    arena.data_ = static_cast<char*>(place);
    arena.num_bytes_ = num_bytes;
    total_bytes += num_bytes;
  }
  return arena;
}

Arena Arena::OnDevice(std::unique_ptr<DeviceMemory> memory) {
  Arena arena;
  arena.fd_ = memory->ticket().fd;
  arena.data_ = memory->data();
  arena.num_bytes_ = memory->num_bytes();
  arena.device_ = std::move(memory);
  total_bytes += arena.num_bytes_;
  return arena;
}

Arena::Arena(Arena&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)),
      data_(std::exchange(other.data_, nullptr)),
      num_bytes_(std::exchange(other.num_bytes_, 0)),
      device_(std::move(other.device_)) {}

Arena& Arena::operator=(Arena&& other) noexcept {
  if (this != &other) {
    Reset();
    fd_ = std::exchange(other.fd_, -1);
    data_ = std::exchange(other.data_, nullptr);
    num_bytes_ = std::exchange(other.num_bytes_, 0);
    device_ = std::move(other.device_);
  }
  return *this;
}

Arena::~Arena() { Reset(); }

void Arena::Reset() {
  total_bytes -= num_bytes_;
  if (device_ != nullptr) {
    device_.reset();
  } else {
    if (data_ != nullptr) Unmap(data_, num_bytes_);
    if (fd_ >= 0) ::close(fd_);
  }
  fd_ = -1;
  data_ = nullptr;
  num_bytes_ = 0;
}

absl::Status Arena::AddSeals(int seals, const char* what) {
  if (fd_ < 0) return absl::FailedPreconditionError(absl::StrCat(what, ": the arena is empty"));
  if (::fcntl(fd_, F_ADD_SEALS, seals) != 0) {
    if (errno == EINVAL) {
      return WithReason(
          absl::UnimplementedError(absl::StrCat(what, ": this kernel does not know the seal")),
          "UNSUPPORTED");
    }
    return ErrnoStatus(errno, what);
  }
  return absl::OkStatus();
}

absl::Status Arena::Seal() {
  // The size of a device's memory never changes.
  if (device_ != nullptr) return absl::OkStatus();
  return AddSeals(F_SEAL_SHRINK | F_SEAL_GROW, "seal the arena");
}

absl::Status Arena::SealForSharing() {
  if (device_ != nullptr) {
    return WithReason(absl::UnimplementedError("seal the arena against writing: it lies on a "
                                               "device, whose memory has no such seal; attach with "
                                               "mode shared"),
                      "UNSUPPORTED");
  }
  return AddSeals(F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE,
                  "seal the arena against writing");
}

ArenaMemory MemoryOf(std::shared_ptr<const std::vector<Arena>> arenas) {
  ArenaMemory memory;
  for (const Arena& arena : *arenas) {
    memory.data.push_back(arena.data());
    memory.fds.push_back(arena.device() == nullptr ? arena.fd() : -1);
  }
  memory.owner = std::move(arenas);
  return memory;
}

int64_t Arena::TotalBytes() { return total_bytes; }

}  // namespace zerocast
