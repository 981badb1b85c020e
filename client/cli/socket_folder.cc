#include "client/cli/socket_folder.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/base/errors.h"

namespace zerocast {
namespace {

constexpr char kPrefix[] = "zerocast-embedded.";
// Another process that takes a new folder for a left one, before it is locked, costs one try.
constexpr int kMaxTries = 16;

std::vector<std::string> NamesIn(DIR* folder) {
  std::vector<std::string> names;
  while (const dirent* entry = ::readdir(folder)) names.push_back(entry->d_name);
  return names;
}

using Folder = std::unique_ptr<DIR, int (*)(DIR*)>;

// Removes the folder `path` if it is this user's and no process holds it: the sockets in it, and
// then the folder, which stays when it holds anything else.  Errors are nobody's concern: the next
// process tries again.
void RemoveIfLeft(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return;
  const Folder folder(::fdopendir(fd), ::closedir);
  if (folder == nullptr) {
    ::close(fd);
    return;
  }
  struct stat info;
  if (::fstat(fd, &info) != 0 || info.st_uid != ::geteuid()) return;
  if (::flock(fd, LOCK_EX | LOCK_NB) != 0) return;
  for (const std::string& name : NamesIn(folder.get())) {
    if (::fstatat(fd, name.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0 && S_ISSOCK(info.st_mode)) {
      ::unlinkat(fd, name.c_str(), 0);
    }
  }
  ::rmdir(path.c_str());
}

void RemoveLeftFolders(const std::string& parent) {
  const Folder folder(::opendir(parent.c_str()), ::closedir);
  if (folder == nullptr) return;  // making a folder there says why
  for (const std::string& name : NamesIn(folder.get())) {
    if (absl::StartsWith(name, kPrefix)) RemoveIfLeft(absl::StrCat(parent, "/", name));
  }
}

// The folder, locked; -1 when another process has removed it, or is about to.
int Lock(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return -1;
  struct stat info;
  if (::flock(fd, LOCK_EX | LOCK_NB) == 0 && ::fstat(fd, &info) == 0 && info.st_nlink > 0) {
    return fd;
  }
  ::close(fd);
  return -1;
}

}  // namespace

std::string SocketFolder::DefaultParent() {
  const char* const runtime = std::getenv("XDG_RUNTIME_DIR");
  return runtime != nullptr && *runtime != '\0' ? runtime : "/tmp";
}

absl::StatusOr<SocketFolder> SocketFolder::Create(const std::string& parent) {
  RemoveLeftFolders(parent);
  const std::string pattern = absl::StrCat(parent, "/", kPrefix, "XXXXXX");
  for (int k = 0; k < kMaxTries; ++k) {
    std::string path = pattern;
    if (::mkdtemp(path.data()) == nullptr) {
      return WithReason(ErrnoStatus(errno, absl::StrCat("create folder ", pattern)), "IO_ERROR");
    }
    SocketFolder folder;
    folder.lock_ = Lock(path);
    if (folder.lock_ < 0) continue;
    folder.path_ = std::move(path);
    return folder;
  }
  return WithReason(absl::UnavailableError(absl::StrCat("lock folder ", pattern,
                                                        ": its file system does not keep locks "
                                                        "(flock); set XDG_RUNTIME_DIR to another")),
                    "IO_ERROR");
}

SocketFolder::SocketFolder(SocketFolder&& other) noexcept
    : path_(std::exchange(other.path_, "")), lock_(std::exchange(other.lock_, -1)) {}

SocketFolder& SocketFolder::operator=(SocketFolder&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(lock_, other.lock_);
  return *this;
}

SocketFolder::~SocketFolder() {
  std::error_code ignored;  // a destructor has nobody to tell
  if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
  if (lock_ >= 0) ::close(lock_);
}

}  // namespace zerocast
