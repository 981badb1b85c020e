#include "tests/bench/read_floor.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/agent/arena.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"

namespace zerocast {
namespace {

constexpr int64_t kReadBytes = int64_t{8} << 20;

struct File {
  int fd = -1;
  int64_t begin = 0, num_bytes = 0;  // in the memory
};

class AnonymousMemory {
 public:
  explicit AnonymousMemory(int64_t num_bytes)
      : num_bytes_(static_cast<size_t>(num_bytes)),
        data_(mmap(nullptr, num_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
                   0)) {}
  ~AnonymousMemory() {
    if (data_ != MAP_FAILED) munmap(data_, num_bytes_);
  }
  AnonymousMemory(const AnonymousMemory&) = delete;
  AnonymousMemory& operator=(const AnonymousMemory&) = delete;

  char* data() const { return data_ == MAP_FAILED ? nullptr : static_cast<char*>(data_); }

 private:
  const size_t num_bytes_;
  void* const data_;
};

// Reads what of `file` lies in [begin, end) of the memory.
bool ReadPart(const File& file, int64_t begin, int64_t end, char* memory) {
  begin = std::max(begin, file.begin);
  end = std::min(end, file.begin + file.num_bytes);
  while (begin < end) {
    const ssize_t got = pread(file.fd, memory + begin, static_cast<size_t>(end - begin),
                              static_cast<off_t>(begin - file.begin));
    if (got <= 0) return false;
    begin += got;
  }
  return true;
}

absl::Status ReadAll(const std::vector<File>& files, int64_t total, int threads, char* memory) {
  std::atomic<int64_t> next{0};
  std::atomic<bool> failed{false};
  std::vector<std::thread> readers;
  for (int t = 0; t < threads; ++t) {
    readers.emplace_back([&] {
      for (int64_t at = next.fetch_add(kReadBytes); at < total; at = next.fetch_add(kReadBytes)) {
        for (const File& file : files) {
          if (!ReadPart(file, at, std::min(at + kReadBytes, total), memory)) failed = true;
        }
      }
    });
  }
  for (std::thread& reader : readers) reader.join();
  if (failed) return absl::UnavailableError("read the floor: a file ended early or cannot be read");
  return absl::OkStatus();
}

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

absl::StatusOr<double> ReadFloor(const Manifest& manifest, const std::string& folder, int threads,
                                 FloorMemory memory) {
  const double start = Now();
  std::vector<File> files;
  int64_t total = 0;
  absl::Status status;
  for (const ManifestFile& file : manifest.files) {
    const std::string path = absl::StrCat(folder, "/", file.path);
    files.push_back({open(path.c_str(), O_RDONLY | O_CLOEXEC), total, file.num_bytes});
    if (files.back().fd < 0 && status.ok()) status = ErrnoStatus(errno, "open " + path);
    total += file.num_bytes;
  }
  double seconds = 0;
  if (status.ok() && memory == FloorMemory::kMemfd) {
    const absl::StatusOr<Arena> arena = Arena::Create("floor", total);
    status = arena.ok() ? ReadAll(files, total, threads, arena->data()) : arena.status();
    seconds = Now() - start;
  } else if (status.ok()) {
    const AnonymousMemory anonymous(total);
    status = anonymous.data() == nullptr
                 ? absl::ResourceExhaustedError(absl::StrCat("map ", total, " bytes"))
                 : ReadAll(files, total, threads, anonymous.data());
    seconds = Now() - start;
  }
  for (const File& file : files) {
    if (file.fd >= 0) close(file.fd);
  }
  ZC_RETURN_IF_ERROR(status);
  return seconds;
}

}  // namespace zerocast
