#include "client/agent/reader.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/agent/path_policy.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"

namespace zerocast {
namespace {

// Pieces of memory that one system call fills.
constexpr size_t kMaxPieces = 256;
static_assert(kMaxPieces <= IOV_MAX);

FileIdentity IdentityFromStat(const struct stat& info) {
  FileIdentity identity;
  identity.num_bytes = info.st_size;
  identity.mtime_ns = int64_t{info.st_mtim.tv_sec} * 1'000'000'000 + info.st_mtim.tv_nsec;
  identity.inode = info.st_ino;
  identity.device = info.st_dev;
  return identity;
}

absl::Status OpenError(int error_number, const std::string& path) {
  const absl::Status status = ErrnoStatus(error_number, absl::StrCat("open ", path));
  switch (status.code()) {
    case absl::StatusCode::kNotFound:
      return WithReason(status, "CHECKPOINT_NOT_FOUND");
    case absl::StatusCode::kPermissionDenied:
      return WithReason(status, "PERMISSION_DENIED");
    default:
      return WithReason(status, "IO_ERROR");
  }
}

struct Shared {
  PosixReaderOptions options;
  std::atomic<int64_t> bytes_read{0};
};

class PosixFile : public ReadableFile {
 public:
  PosixFile(std::shared_ptr<Shared> shared, std::string path, int fd)
      : shared_(std::move(shared)), path_(std::move(path)), fd_(fd) {}
  ~PosixFile() override { ::close(fd_); }

  int fd() const { return fd_; }

  absl::StatusOr<FileIdentity> Identity() const override {
    struct stat info;
    if (::fstat(fd_, &info) != 0) {
      return WithReason(ErrnoStatus(errno, absl::StrCat("stat ", path_)), "IO_ERROR");
    }
    return IdentityFromStat(info);
  }

  absl::Status ReadAt(int64_t offset, absl::Span<const struct iovec> pieces) override {
    struct iovec call[kMaxPieces];
    size_t skip = 0;  // bytes of pieces.front() that are there already
    while (true) {
      while (!pieces.empty() && skip >= pieces.front().iov_len) {
        skip -= pieces.front().iov_len;
        pieces.remove_prefix(1);
      }
      if (pieces.empty()) return absl::OkStatus();
      const size_t count = std::min(pieces.size(), kMaxPieces);
      std::copy_n(pieces.begin(), count, call);
      call[0].iov_base = static_cast<char*>(call[0].iov_base) + skip;
      call[0].iov_len -= skip;
      const ssize_t got = Read(call, static_cast<int>(count), offset);
      if (got < 0) {
        if (errno == EINTR) continue;
        return ReadError(errno, offset);
      }
      if (got == 0) return TooShort(offset, TotalLength(pieces) - skip);
      shared_->bytes_read += got;
      offset += got;
      skip += static_cast<size_t>(got);
    }
  }

 private:
  ssize_t Read(const struct iovec* pieces, int count, int64_t offset) const {
    if (shared_->options.pread == nullptr) return ::preadv(fd_, pieces, count, offset);
    return shared_->options.pread(fd_, pieces->iov_base, pieces->iov_len, offset);
  }

  static size_t TotalLength(absl::Span<const struct iovec> pieces) {
    size_t total = 0;
    for (const struct iovec& piece : pieces) total += piece.iov_len;
    return total;
  }

  absl::Status ReadError(int error_number, int64_t offset) const {
    return WithReason(
        absl::UnavailableError(
            ErrnoStatus(error_number, absl::StrCat("read ", path_, " at offset ", offset))
                .message()),
        "IO_ERROR");
  }

  absl::Status TooShort(int64_t offset, size_t missing) const {
    return WithReason(absl::DataLossError(absl::StrCat(
                          "read ", path_, " at offset ", offset, ": the file ends there, ", missing,
                          " bytes before the end of what its header promises")),
                      "CHECKPOINT_CORRUPT");
  }

  const std::shared_ptr<Shared> shared_;
  const std::string path_;
  const int fd_;
};

class PosixReader : public FileReader {
 public:
  explicit PosixReader(PosixReaderOptions options) : shared_(std::make_shared<Shared>()) {
    shared_->options = std::move(options);
  }

  absl::StatusOr<std::unique_ptr<ReadableFile>> Open(const std::string& path) override {
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return OpenError(errno, path);
    auto file = std::make_unique<PosixFile>(shared_, path, fd);
    struct stat info;
    if (::fstat(fd, &info) != 0) return OpenError(errno, path);
    if (!S_ISREG(info.st_mode)) {
      return WithReason(
          absl::InvalidArgumentError(absl::StrCat("open ", path, ": not a regular file")),
          "CHECKPOINT_CORRUPT");
    }
    ZC_RETURN_IF_ERROR(CheckRoots(path, fd));
    ::posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    return file;
  }

  absl::StatusOr<FileIdentity> IdentityOf(const std::string& path) override {
    struct stat info;
    if (::stat(path.c_str(), &info) != 0) return OpenError(errno, path);
    return IdentityFromStat(info);
  }

  int64_t bytes_read() const override { return shared_->bytes_read; }

 private:
  absl::Status CheckRoots(const std::string& path, int fd) const {
    if (shared_->options.roots.empty()) return absl::OkStatus();
    char place[PATH_MAX];
    const ssize_t length =
        ::readlink(absl::StrCat("/proc/self/fd/", fd).c_str(), place, sizeof(place));
    if (length < 0) return OpenError(errno, path);
    const std::string resolved(place, static_cast<size_t>(length));
    if (IsBelow(shared_->options.roots, resolved)) return absl::OkStatus();
    return WithReason(
        absl::PermissionDeniedError(absl::StrCat("open ", path, ": it lies at ", resolved,
                                                 ", outside of the folders that this agent may "
                                                 "read")),
        "PERMISSION_DENIED");
  }

  const std::shared_ptr<Shared> shared_;
};

}  // namespace

absl::Status CheckSameFile(const std::string& path, const FileIdentity& before,
                           const FileIdentity& now) {
  std::vector<std::string> changes;
  if (before.inode != now.inode || before.device != now.device) {
    changes.push_back("it is another file now");
  }
  if (before.num_bytes != now.num_bytes) {
    changes.push_back(absl::StrCat("it had ", before.num_bytes, " bytes and has ", now.num_bytes));
  }
  if (before.mtime_ns != now.mtime_ns) changes.push_back("it was modified");
  if (changes.empty()) return absl::OkStatus();
  return WithReason(absl::AbortedError(absl::StrCat("check ", path,
                                                    ": the file changed while it "
                                                    "was loaded: ",
                                                    absl::StrJoin(changes, ", "))),
                    "CHECKPOINT_CHANGED");
}

std::shared_ptr<FileReader> MakePosixReader(PosixReaderOptions options) {
  return std::make_shared<PosixReader>(std::move(options));
}

}  // namespace zerocast
