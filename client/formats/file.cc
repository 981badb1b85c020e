#include "client/formats/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"

namespace zerocast {
namespace {

// Smaller writes are left to the kernel's own time.
constexpr int64_t kWriteBackBytes = 256 << 10;

absl::Status FileError(int error_number, absl::string_view what) {
  absl::Status status = ErrnoStatus(error_number, what);
  return WithReason(std::move(status),
                    error_number == ENOENT ? "CHECKPOINT_NOT_FOUND" : "IO_ERROR");
}

}  // namespace

absl::StatusOr<InputFile> InputFile::Open(const std::string& path, FileObserver about_to) {
  InputFile file;
  file.path_ = path;
  file.about_to_ = std::move(about_to);
  ZC_RETURN_IF_ERROR(Observe(file.about_to_, absl::StrCat("open ", path)));
  // Without O_NONBLOCK the open of a FIFO would wait for a writer, forever.
  file.fd_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file.fd_ < 0) return FileError(errno, absl::StrCat("open ", path));
  struct stat info;
  if (::fstat(file.fd_, &info) != 0) return FileError(errno, absl::StrCat("stat ", path));
  if (!S_ISREG(info.st_mode)) {
    return WithReason(
        absl::InvalidArgumentError(absl::StrCat("open ", path, ": not a regular file")),
        "IO_ERROR");
  }
  file.num_bytes_ = info.st_size;
  file.mtime_ns_ = info.st_mtim.tv_sec * int64_t{1'000'000'000} + info.st_mtim.tv_nsec;
  return file;
}

InputFile::InputFile(InputFile&& other) noexcept
    : path_(std::move(other.path_)),
      about_to_(std::move(other.about_to_)),
      fd_(std::exchange(other.fd_, -1)),
      num_bytes_(other.num_bytes_),
      mtime_ns_(other.mtime_ns_) {}

InputFile& InputFile::operator=(InputFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(about_to_, other.about_to_);
  std::swap(fd_, other.fd_);
  std::swap(num_bytes_, other.num_bytes_);
  std::swap(mtime_ns_, other.mtime_ns_);
  return *this;
}

InputFile::~InputFile() {
  if (fd_ >= 0) ::close(fd_);
}

absl::Status InputFile::ReadInto(int64_t offset, int64_t num_bytes, void* target) const {
  char* place = static_cast<char*>(target);
  while (num_bytes > 0) {
    ZC_RETURN_IF_ERROR(Observe(about_to_, absl::StrCat("read ", path_, " at offset ", offset)));
    const ssize_t got = ::pread(fd_, place, static_cast<size_t>(num_bytes), offset);
    if (got < 0) {
      if (errno == EINTR) continue;
      return FileError(errno, absl::StrCat("read ", path_, " at offset ", offset));
    }
    if (got == 0) {
      return WithReason(
          absl::DataLossError(absl::StrCat("read ", path_, " at offset ", offset,
                                           ": the file ends ", num_bytes, " bytes too early")),
          "CHECKPOINT_CORRUPT");
    }
    place += got;
    offset += got;
    num_bytes -= got;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> InputFile::Read(int64_t offset, int64_t num_bytes) const {
  std::string data(static_cast<size_t>(num_bytes), '\0');
  ZC_RETURN_IF_ERROR(ReadInto(offset, num_bytes, data.data()));
  return data;
}

absl::StatusOr<std::string> ReadTextFile(const std::string& path, int64_t max_bytes,
                                         const FileObserver& about_to) {
  ZC_ASSIGN_OR_RETURN(const InputFile file, InputFile::Open(path, about_to));
  if (file.num_bytes() > max_bytes) {
    return WithReason(
        absl::ResourceExhaustedError(absl::StrCat("read ", path, ": ", file.num_bytes(),
                                                  " bytes, at most ", max_bytes, " are read")),
        "RESOURCE_EXHAUSTED");
  }
  return file.Read(0, file.num_bytes());
}

absl::StatusOr<OutputFile> OutputFile::Create(const std::string& path) {
  OutputFile file;
  file.path_ = path;
  file.temporary_path_ = absl::StrCat(path, ".tmp.", ::getpid());
  file.fd_ = ::open(file.temporary_path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (file.fd_ < 0) {
    const int error_number = errno;
    file.temporary_path_.clear();
    return WithReason(ErrnoStatus(error_number, absl::StrCat("create ", path)), "IO_ERROR");
  }
  return file;
}

OutputFile::OutputFile(OutputFile&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_path_(std::exchange(other.temporary_path_, "")),
      fd_(std::exchange(other.fd_, -1)) {}

OutputFile::~OutputFile() {
  if (fd_ >= 0) ::close(fd_);
  if (!temporary_path_.empty()) ::unlink(temporary_path_.c_str());
}

absl::Status OutputFile::Append(absl::string_view data) {
  while (!data.empty()) {
    const ssize_t put = ::write(fd_, data.data(), data.size());
    if (put < 0) {
      if (errno == EINTR) continue;
      return WithReason(ErrnoStatus(errno, absl::StrCat("write ", path_)), "IO_ERROR");
    }
    data.remove_prefix(static_cast<size_t>(put));
  }
  return absl::OkStatus();
}

absl::Status OutputFile::WriteAt(int64_t offset, absl::string_view data) const {
  const int64_t begin = offset;
  while (!data.empty()) {
    const ssize_t put = ::pwrite(fd_, data.data(), data.size(), offset);
    if (put < 0) {
      if (errno == EINTR) continue;
      return WithReason(ErrnoStatus(errno, absl::StrCat("write ", path_)), "IO_ERROR");
    }
    data.remove_prefix(static_cast<size_t>(put));
    offset += put;
  }
  // The disk begins while others still write, so that Commit has little to wait for.  Only a hint:
  // whether the bytes are on it is Commit's to say.
  if (offset - begin >= kWriteBackBytes) {
    ::sync_file_range(fd_, begin, offset - begin, SYNC_FILE_RANGE_WRITE);
  }
  return absl::OkStatus();
}

absl::Status OutputFile::Commit() {
  if (::fsync(fd_) != 0) {
    return WithReason(ErrnoStatus(errno, absl::StrCat("flush ", path_)), "IO_ERROR");
  }
  if (::close(std::exchange(fd_, -1)) != 0) {
    return WithReason(ErrnoStatus(errno, absl::StrCat("close ", path_)), "IO_ERROR");
  }
  if (::rename(temporary_path_.c_str(), path_.c_str()) != 0) {
    return WithReason(ErrnoStatus(errno, absl::StrCat("rename to ", path_)), "IO_ERROR");
  }
  temporary_path_.clear();
  return absl::OkStatus();
}

}  // namespace zerocast
