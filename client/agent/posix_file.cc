#include "client/agent/posix_file.h"

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/agent/piece_cursor.h"
#include "server/base/errors.h"

namespace zerocast {

PosixFile::PosixFile(std::shared_ptr<PosixReaderState> reader, std::string path, int fd)
    : reader_(std::move(reader)), path_(std::move(path)), fd_(fd) {}

PosixFile::~PosixFile() {
  ::close(fd_);
  if (direct_fd_ >= 0) ::close(direct_fd_);
}

absl::StatusOr<FileIdentity> PosixFile::Identity() const {
  struct stat info;
  if (::fstat(fd_, &info) != 0) {
    return WithReason(ErrnoStatus(errno, absl::StrCat("stat ", path_)), "IO_ERROR");
  }
  return IdentityOfStat(info);
}

absl::Status PosixFile::ReadAt(int64_t offset, absl::Span<const struct iovec> pieces) {
  PieceCursor cursor(pieces);
  while (!cursor.at_end()) {
    const absl::Span<const struct iovec> call = cursor.Next();
    const ssize_t read = ::preadv(fd_, call.data(), static_cast<int>(call.size()), offset);
    const int64_t got = ResultOf(false, false, offset, call, read < 0 ? -errno : read);
    if (got == -EINTR) continue;
    if (got < 0) return ReadError(static_cast<int>(-got), offset);
    if (got == 0) return TooShort(offset, static_cast<int64_t>(cursor.BytesLeft()));
    CountRead(got);
    offset += got;
    cursor.Advance(static_cast<size_t>(got));
  }
  return absl::OkStatus();
}

int64_t PosixFile::InjectedResult(bool uring, bool direct, int64_t offset,
                                  absl::Span<const struct iovec> pieces, int64_t result) const {
  ReadCall call{path_, uring, direct, offset, 0};
  for (const struct iovec& piece : pieces) call.num_bytes += static_cast<int64_t>(piece.iov_len);
  return reader_->options.result_of_read(call, result);
}

absl::StatusOr<int> PosixFile::DirectFd() {
  if (direct_fd_ < 0) {
    // The same file, whatever is under its path now.
    const int fd = ::open(absl::StrCat("/proc/self/fd/", fd_).c_str(),
                          O_RDONLY | O_DIRECT | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
      return absl::UnimplementedError(
          ErrnoStatus(errno, absl::StrCat("open ", path_, " with O_DIRECT")).message());
    }
    int none = -1;
    if (!direct_fd_.compare_exchange_strong(none, fd)) ::close(fd);
  }
  return direct_fd_.load();
}

Residency PosixFile::ResidencyOf(int64_t offset, int64_t num_bytes) const {
  if (reader_->options.nothing_is_cached) return Residency::kNotCached;
  for (const int64_t place : {offset, offset + num_bytes / 2, offset + num_bytes - 1}) {
    char byte;
    const struct iovec piece = {&byte, 1};
    if (::preadv2(fd_, &piece, 1, place, RWF_NOWAIT) == 1) continue;
    return errno == EOPNOTSUPP ? Residency::kUnknown : Residency::kNotCached;
  }
  return Residency::kCached;
}

absl::Status PosixFile::ReadError(int error_number, int64_t offset) const {
  return WithReason(
      absl::UnavailableError(
          ErrnoStatus(error_number, absl::StrCat("read ", path_, " at offset ", offset)).message()),
      "IO_ERROR");
}

absl::Status PosixFile::TooShort(int64_t offset, int64_t missing) const {
  return WithReason(absl::DataLossError(absl::StrCat(
                        "read ", path_, " at offset ", offset, ": the file ends there, ", missing,
                        " bytes before the end of what its header promises")),
                    "CHECKPOINT_CORRUPT");
}

}  // namespace zerocast
