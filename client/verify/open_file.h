#ifndef ZEROCAST_CLIENT_VERIFY_OPEN_FILE_H_
#define ZEROCAST_CLIENT_VERIFY_OPEN_FILE_H_

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "server/base/errors.h"

namespace zerocast::verify {

inline absl::Status Corrupt(absl::string_view path, absl::string_view what) {
  return WithReason(absl::DataLossError(absl::StrCat("read ", path, ": ", what)),
                    "CHECKPOINT_CORRUPT");
}

// A regular file, opened for reading; closes itself.
class OpenFile {
 public:
  static absl::StatusOr<OpenFile> Open(const std::string& path) {
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) {
      const int error = errno;
      const absl::Status status = ErrnoStatus(error, absl::StrCat("open ", path));
      return WithReason(status, error == ENOENT ? "CHECKPOINT_NOT_FOUND" : "IO_ERROR");
    }
    OpenFile file(path, descriptor);
    struct stat info;
    if (::fstat(descriptor, &info) != 0) {
      return WithReason(ErrnoStatus(errno, absl::StrCat("stat ", path)), "IO_ERROR");
    }
    if (!S_ISREG(info.st_mode)) return Corrupt(path, "it is not a regular file");
    file.size_ = info.st_size;
    return file;
  }
  OpenFile(OpenFile&& other) noexcept
      : path_(std::move(other.path_)),
        descriptor_(std::exchange(other.descriptor_, -1)),
        size_(other.size_) {}
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;
  ~OpenFile() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }

  const std::string& path() const { return path_; }
  int64_t size() const { return size_; }

  // Errors: DATA_LOSS where it ends before `begin` + `count`; UNAVAILABLE (I/O).
  absl::StatusOr<std::string> Read(int64_t begin, int64_t count) const {
    std::string bytes(count, '\0');
    int64_t done = 0;
    while (done < count) {
      const ssize_t got = ::pread(descriptor_, bytes.data() + done, count - done, begin + done);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) {
        return WithReason(
            ErrnoStatus(errno, absl::StrCat("read ", path_, " at byte ", begin + done)),
            "IO_ERROR");
      }
      if (got == 0) {
        return Corrupt(path_, absl::StrCat("it ends at byte ", begin + done, ", ", count - done,
                                           " bytes before the end of what was to be read"));
      }
      done += got;
    }
    return bytes;
  }

 private:
  OpenFile(std::string path, int descriptor) : path_(std::move(path)), descriptor_(descriptor) {}

  std::string path_;
  int descriptor_;
  int64_t size_ = 0;
};

}  // namespace zerocast::verify

#endif  // ZEROCAST_CLIENT_VERIFY_OPEN_FILE_H_
