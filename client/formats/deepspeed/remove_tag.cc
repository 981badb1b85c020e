#include "client/formats/deepspeed/remove_tag.h"

#include <sys/stat.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <system_error>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/formats/deepspeed/find_checkpoints.h"
#include "client/formats/deepspeed/zero_files.h"
#include "client/formats/file.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/base/utf8.h"

namespace zerocast {
namespace {

constexpr int64_t kMaxTagBytes = 4096;
// Below the tag's folder: zero/NAME/STATE.pt of the universal form.
constexpr int kMaxDepth = 2;

absl::Status Stays(const std::string& path, absl::string_view why) {
  return WithReason(absl::FailedPreconditionError(absl::StrCat("remove ", path, ": ", why)),
                    "WRONG_STATE");
}

// Whether DeepSpeed writes such a file at this depth below a tag's folder.
bool IsExpectedFile(int depth, const std::string& name) {
  return depth == 0 ? NamesStates(name) : absl::EndsWith(name, ".pt");
}

// Adds the bytes of the plain files in `path`, which has to hold nothing else but what DeepSpeed
// writes.
absl::Status CountFiles(const std::string& path, int depth, const FileObserver& about_to,
                        int64_t* num_bytes) {
  ZC_ASSIGN_OR_RETURN(const std::vector<std::string> names, ListNames(path, about_to));
  for (const std::string& name : names) {
    const std::string below = absl::StrCat(path, "/", name);
    ZC_RETURN_IF_ERROR(Observe(about_to, absl::StrCat("stat ", below)));
    struct stat info;
    if (::lstat(below.c_str(), &info) != 0) {
      return ErrnoStatus(errno, absl::StrCat("stat ", below));
    }
    const bool is_folder =
        S_ISDIR(info.st_mode) && depth < kMaxDepth && (depth > 0 || name == "zero");
    if (is_folder) {
      ZC_RETURN_IF_ERROR(CountFiles(below, depth + 1, about_to, num_bytes));
      continue;
    }
    if (!S_ISREG(info.st_mode) || !IsExpectedFile(depth, name)) {
      return Stays(path, absl::StrCat("it holds ", EscapeControls(name),
                                      ", which DeepSpeed does not write there"));
    }
    if (info.st_nlink == 1) *num_bytes += info.st_size;
  }
  return absl::OkStatus();
}

absl::Status CheckFolder(const std::string& path, const FileObserver& about_to,
                         int64_t* num_bytes) {
  ZC_RETURN_IF_ERROR(Observe(about_to, absl::StrCat("stat ", path)));
  struct stat info;
  if (::lstat(path.c_str(), &info) != 0) {
    const absl::Status status = ErrnoStatus(errno, absl::StrCat("find ", path));
    return absl::IsNotFound(status) ? WithReason(status, "CHECKPOINT_NOT_FOUND") : status;
  }
  if (S_ISLNK(info.st_mode)) return Stays(path, "it is a link");
  if (!S_ISDIR(info.st_mode)) return Stays(path, "it is no folder");
  return CountFiles(path, 0, about_to, num_bytes);
}

absl::Status CheckNotLatest(const std::string& folder, const std::string& tag,
                            const FileObserver& about_to) {
  for (const char* const name : {"latest", "latest_universal"}) {
    const std::string path = absl::StrCat(folder, "/", name);
    const absl::StatusOr<std::string> text = ReadTextFile(path, kMaxTagBytes, about_to);
    if (absl::IsNotFound(text.status())) continue;
    ZC_RETURN_IF_ERROR(text.status());
    if (absl::StripAsciiWhitespace(*text) == tag) {
      return Stays(absl::StrCat(folder, "/", tag),
                   absl::StrCat("the file ", name, " names it, and who resumes would look for it"));
    }
  }
  return absl::OkStatus();
}

absl::Status Rename(const std::string& from, const std::string& to) {
  struct stat info;
  if (::lstat(to.c_str(), &info) == 0) {
    return WithReason(
        absl::AlreadyExistsError(absl::StrCat("rename ", from, " to ", to, ": that exists")),
        "ALREADY_EXISTS");
  }
  if (::rename(from.c_str(), to.c_str()) == 0) return absl::OkStatus();
  return WithReason(ErrnoStatus(errno, absl::StrCat("rename ", from, " to ", to)), "IO_ERROR");
}

}  // namespace

TagRemoval::TagRemoval(const std::string& folder, const std::string& tag)
    : path_(absl::StrCat(folder, "/", tag)), aside_(absl::StrCat(folder, "/", kAsidePrefix, tag)) {}

absl::StatusOr<TagRemoval> TagRemoval::Check(const std::string& folder, const ExpectedTag& expected,
                                             const FileObserver& about_to) {
  TagRemoval removal(folder, expected.tag);
  ZC_RETURN_IF_ERROR(CheckFolder(removal.path_, about_to, &removal.num_bytes_));
  ZC_RETURN_IF_ERROR(CheckNotLatest(folder, expected.tag, about_to));
  FindZeroOptions options;
  options.tags = {expected.tag};
  options.about_to = about_to;
  ZC_ASSIGN_OR_RETURN(const FoundZeroFolder found, FindZeroCheckpoints(folder, options));
  for (const FoundZeroCheckpoint& each : found.checkpoints) {
    if (each.tag != expected.tag) continue;
    if (each.digest == expected.digest && each.num_files == expected.num_files &&
        each.num_bytes == expected.num_bytes && each.mtime_ns == expected.mtime_ns) {
      return removal;
    }
  }
  return WithReason(
      absl::AbortedError(absl::StrCat(
          "remove ", removal.path_, ": its files here are not those that an agent has looked at")),
      "CHECKPOINT_CHANGED");
}

absl::StatusOr<TagRemoval> TagRemoval::FindLeft(const std::string& folder, const std::string& tag,
                                                const FileObserver& about_to) {
  TagRemoval removal(folder, tag);
  removal.was_aside_ = true;
  ZC_RETURN_IF_ERROR(CheckFolder(removal.aside_, about_to, &removal.num_bytes_));
  return removal;
}

absl::Status TagRemoval::SetAside() {
  return was_aside_ ? absl::OkStatus() : Rename(path_, aside_);
}

absl::Status TagRemoval::PutBack() { return was_aside_ ? absl::OkStatus() : Rename(aside_, path_); }

absl::Status TagRemoval::Remove() {
  std::error_code error;
  std::filesystem::remove_all(aside_, error);
  if (!error) return absl::OkStatus();
  return WithReason(ErrnoStatus(error.value(), absl::StrCat("remove ", aside_)), "IO_ERROR");
}

}  // namespace zerocast
