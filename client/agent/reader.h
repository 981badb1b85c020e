#ifndef ZEROCAST_CLIENT_AGENT_READER_H_
#define ZEROCAST_CLIENT_AGENT_READER_H_

#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace zerocast {

class PosixFile;

// How files are read.
enum class IoMode {
  kAuto,    // what is in the page cache from there, the rest by the faster way
  kCached,  // through the page cache
  kDirect,  // past the page cache, where the file system can
};

// What tells one file, and one state of it, from another.
struct FileIdentity {
  int64_t num_bytes = 0;
  int64_t mtime_ns = 0;
  uint64_t inode = 0;
  uint64_t device = 0;
  // Of the last change of anything, which nobody sets back.  Not compared: links change it, too.
  int64_t ctime_ns = 0;

  friend bool operator==(const FileIdentity& a, const FileIdentity& b) {
    return a.num_bytes == b.num_bytes && a.mtime_ns == b.mtime_ns && a.inode == b.inode &&
           a.device == b.device;
  }
};

FileIdentity IdentityOfStat(const struct stat& info);

// ABORTED, reason CHECKPOINT_CHANGED, when the two differ; says in what.
absl::Status CheckSameFile(const std::string& path, const FileIdentity& before,
                           const FileIdentity& now);

// A file that is open for reading.  Thread-safe.
class ReadableFile {
 public:
  virtual ~ReadableFile() = default;

  // Of the open file, now.
  virtual absl::StatusOr<FileIdentity> Identity() const = 0;

  // Fills the pieces of memory, one after the other, with what is in the file from `offset` on;
  // short reads are continued.  Errors, all naming file and offset:
  //   DATA_LOSS    the file ends before that; reason CHECKPOINT_CORRUPT.
  //   UNAVAILABLE  reading failed; reason IO_ERROR.
  virtual absl::Status ReadAt(int64_t offset, absl::Span<const struct iovec> pieces) = 0;

  // The file as its system calls see it; null where it is not one.
  virtual PosixFile* AsPosix() { return nullptr; }
};

// Opens files.  Thread-safe.
class FileReader {
 public:
  virtual ~FileReader() = default;

  // Errors: NOT_FOUND (reason CHECKPOINT_NOT_FOUND), PERMISSION_DENIED, UNAVAILABLE.
  virtual absl::StatusOr<std::unique_ptr<ReadableFile>> Open(const std::string& path) = 0;

  // Of the file that is under `path` now.
  virtual absl::StatusOr<FileIdentity> IdentityOf(const std::string& path) = 0;

  // Bytes that ReadAt of all files has read so far.
  virtual int64_t bytes_read() const = 0;
};

// A system call that read a file, as a test sees it.
struct ReadCall {
  std::string path;
  bool uring = false;   // by io_uring; else preadv
  bool direct = false;  // past the page cache
  int64_t offset = 0;
  int64_t num_bytes = 0;  // that were asked for
};

struct PosixReaderOptions {
  // Files must lie below one of these, after symbolic links are followed; empty: anywhere.  The
  // check is made on the open descriptor, so a link that is swapped meanwhile does not pass.
  std::vector<std::string> roots;
  // For tests.  What a system call that reads is taken to have returned, bytes or a negative error
  // number, where it returned `result`; called on reading threads for every such call, when it is
  // done.
  std::function<int64_t(const ReadCall& call, int64_t result)> result_of_read;
  // For tests: takes everything to be out of the page cache.
  bool nothing_is_cached = false;
};
std::shared_ptr<FileReader> MakePosixReader(PosixReaderOptions options);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_READER_H_
