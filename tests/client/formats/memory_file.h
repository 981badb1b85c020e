#ifndef ZEROCAST_TESTS_CLIENT_FORMATS_MEMORY_FILE_H_
#define ZEROCAST_TESTS_CLIENT_FORMATS_MEMORY_FILE_H_

#include <sys/mman.h>
#include <unistd.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace zerocast {

// A file without a disk, for tests that make thousands of them.  Readers open path().
class MemoryFile {
 public:
  explicit MemoryFile(absl::string_view bytes) : fd_(::memfd_create("a.pt", MFD_CLOEXEC)) {
    while (fd_ >= 0 && !bytes.empty()) {
      const ssize_t put = ::write(fd_, bytes.data(), bytes.size());
      if (put <= 0) break;
      bytes.remove_prefix(static_cast<size_t>(put));
    }
    complete_ = fd_ >= 0 && bytes.empty();
  }
  ~MemoryFile() {
    if (fd_ >= 0) ::close(fd_);
  }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  // "" where the file could not be made.
  std::string path() const { return complete_ ? absl::StrCat("/proc/self/fd/", fd_) : ""; }

 private:
  const int fd_;
  bool complete_ = false;
};

}  // namespace zerocast

#endif  // ZEROCAST_TESTS_CLIENT_FORMATS_MEMORY_FILE_H_
