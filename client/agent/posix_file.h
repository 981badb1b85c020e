#ifndef ZEROCAST_CLIENT_AGENT_POSIX_FILE_H_
#define ZEROCAST_CLIENT_AGENT_POSIX_FILE_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "client/agent/reader.h"

namespace zerocast {

// Reads past the page cache begin and end at multiples of this, in file and memory.  Larger than
// any block size in use; statx's STATX_DIOALIGN tells the least.
inline constexpr int64_t kDirectAlignment = 4096;

enum class Residency { kCached, kNotCached, kUnknown };

// What the files of one reader share.
struct PosixReaderState {
  PosixReaderOptions options;
  std::atomic<int64_t> bytes_read{0};
};

// An open regular file, with what a queue of reads needs of it.  Thread-safe.
class PosixFile : public ReadableFile {
 public:
  // Takes `fd` over.
  PosixFile(std::shared_ptr<PosixReaderState> reader, std::string path, int fd);
  ~PosixFile() override;

  absl::StatusOr<FileIdentity> Identity() const override;
  absl::Status ReadAt(int64_t offset, absl::Span<const struct iovec> pieces) override;
  PosixFile* AsPosix() override { return this; }

  const std::string& path() const { return path_; }
  int fd() const { return fd_; }
  // A descriptor of the same file that reads past the page cache.  Errors: UNIMPLEMENTED where its
  // file system has no such reads.
  absl::StatusOr<int> DirectFd();
  // Whether all of some places in [offset, offset + num_bytes) are in the page cache.  Waits for no
  // disk.  Some file systems do not tell (overlayfs, tmpfs, most network ones).
  Residency ResidencyOf(int64_t offset, int64_t num_bytes) const;

  // For who reads by the descriptors: what a system call that read into `pieces` returned, bytes or
  // a negative error number.
  int64_t ResultOf(bool uring, bool direct, int64_t offset, absl::Span<const struct iovec> pieces,
                   int64_t result) const {
    if (reader_->options.result_of_read == nullptr) return result;
    return InjectedResult(uring, direct, offset, pieces, result);
  }
  // Counts `num_bytes` in FileReader::bytes_read.
  void CountRead(int64_t num_bytes) { reader_->bytes_read += num_bytes; }
  // The errors of ReadableFile::ReadAt.
  absl::Status ReadError(int error_number, int64_t offset) const;
  absl::Status TooShort(int64_t offset, int64_t missing) const;

 private:
  int64_t InjectedResult(bool uring, bool direct, int64_t offset,
                         absl::Span<const struct iovec> pieces, int64_t result) const;

  const std::shared_ptr<PosixReaderState> reader_;
  const std::string path_;
  const int fd_;
  std::atomic<int> direct_fd_{-1};
};

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_POSIX_FILE_H_
