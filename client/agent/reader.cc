#include "client/agent/reader.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/agent/path_policy.h"
#include "client/agent/posix_file.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"

namespace zerocast {
namespace {

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

class PosixReader : public FileReader {
 public:
  explicit PosixReader(PosixReaderOptions options) : shared_(std::make_shared<PosixReaderState>()) {
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
    return IdentityOfStat(info);
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

  const std::shared_ptr<PosixReaderState> shared_;
};

}  // namespace

FileIdentity IdentityOfStat(const struct stat& info) {
  FileIdentity identity;
  identity.num_bytes = info.st_size;
  const auto nanoseconds = [](const timespec& time) {
    return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
  };
  identity.mtime_ns = nanoseconds(info.st_mtim);
  identity.ctime_ns = nanoseconds(info.st_ctim);
  identity.inode = info.st_ino;
  identity.device = info.st_dev;
  return identity;
}

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
