#include "client/formats/output_folder.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"

namespace zerocast {
namespace {

constexpr int kMaxLeftOvers = 100;

absl::Status IoError(int error_number, absl::string_view what) {
  return WithReason(ErrnoStatus(error_number, what), "IO_ERROR");
}

// Whether `path` is a folder with nothing in it.
bool IsEmptyFolder(const std::string& path) {
  std::error_code error;
  return std::filesystem::is_empty(path, error) && !error &&
         std::filesystem::is_directory(path, error) && !error;
}

// So that the new name is on disk when the caller goes on.
absl::Status FlushFolder(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return IoError(errno, absl::StrCat("open ", path));
  const int failed = ::fsync(fd) != 0 ? errno : 0;
  ::close(fd);
  // Some file systems have no fsync of folders; their renames are as they are.
  if (failed == 0 || failed == EINVAL) return absl::OkStatus();
  return IoError(failed, absl::StrCat("flush ", path));
}

}  // namespace

absl::StatusOr<OutputFolder> OutputFolder::Create(const std::string& path) {
  OutputFolder folder;
  folder.path_ = path;
  while (!folder.path_.empty() && folder.path_.back() == '/') folder.path_.pop_back();
  if (folder.path_.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("create folder \"", path, "\": name a folder that does not exist yet"));
  }
  struct stat info;
  if (::lstat(folder.path_.c_str(), &info) == 0 && !IsEmptyFolder(folder.path_)) {
    return WithReason(
        absl::AlreadyExistsError(
            absl::StrCat("create folder ", path,
                         ": it exists and is not an empty folder; name another one, or remove it")),
        "ALREADY_EXISTS");
  }
  // One that a killed process left may have this process's number: in containers they are often the
  // same.  It may as well be another machine's that lives, so it stays.
  const std::string first = absl::StrCat(folder.path_, ".tmp.", ::getpid());
  std::string staging = first;
  for (int k = 1; ::mkdir(staging.c_str(), 0777) != 0; ++k) {
    if (errno != EEXIST || k > kMaxLeftOvers) {
      return IoError(errno, absl::StrCat("create folder ", staging));
    }
    staging = absl::StrCat(first, ".", k);
  }
  folder.staging_ = staging;
  return folder;
}

OutputFolder::OutputFolder(OutputFolder&& other) noexcept
    : path_(std::move(other.path_)), staging_(std::exchange(other.staging_, "")) {}

OutputFolder::~OutputFolder() {
  std::error_code ignored;  // a destructor has nobody to tell
  if (!staging_.empty()) std::filesystem::remove_all(staging_, ignored);
}

absl::Status OutputFolder::MakeFolder(const std::string& name) const {
  std::error_code error;
  std::filesystem::create_directories(File(name), error);
  if (!error) return absl::OkStatus();
  return IoError(error.value(), absl::StrCat("create folder ", File(name)));
}

absl::Status OutputFolder::Commit() {
  ZC_RETURN_IF_ERROR(FlushFolder(staging_));
  if (::rename(staging_.c_str(), path_.c_str()) != 0) {
    return IoError(errno, absl::StrCat("rename ", staging_, " to ", path_));
  }
  staging_.clear();
  const size_t slash = path_.rfind('/');
  return FlushFolder(slash == std::string::npos ? "." : slash == 0 ? "/" : path_.substr(0, slash));
}

}  // namespace zerocast
