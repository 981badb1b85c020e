#include "client/agent/path_policy.h"

#include <limits.h>
#include <stdlib.h>

#include <cerrno>
#include <filesystem>
#include <memory>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"

namespace zerocast {
namespace {

namespace fs = std::filesystem;

absl::StatusOr<std::string> RealPath(const std::string& path, const FileObserver& about_to) {
  ZC_RETURN_IF_ERROR(Observe(about_to, absl::StrCat("resolve ", path)));
  char* const resolved = ::realpath(path.c_str(), nullptr);
  if (resolved == nullptr) return ErrnoStatus(errno, absl::StrCat("resolve ", path));
  std::string result = resolved;
  ::free(resolved);
  return result;
}

absl::Status Outside(const std::vector<std::string>& roots, const std::string& path,
                     const std::string& resolved) {
  return WithReason(absl::PermissionDeniedError(
                        absl::StrCat("read ", path, ": it lies at ", resolved,
                                     ", outside of the folders that this agent may read (--root: ",
                                     absl::StrJoin(roots, ", "), ")")),
                    "PERMISSION_DENIED");
}

}  // namespace

bool IsBelow(const std::vector<std::string>& roots, const std::string& path) {
  if (roots.empty()) return true;
  for (const std::string& root : roots) {
    if (root == "/" || path == root || absl::StartsWith(path, absl::StrCat(root, "/"))) return true;
  }
  return false;
}

absl::StatusOr<std::vector<std::string>> ResolveRoots(const std::vector<std::string>& roots,
                                                      const FileObserver& about_to) {
  std::vector<std::string> resolved;
  for (const std::string& root : roots) {
    if (!absl::StartsWith(root, "/")) {
      return InvalidFields({{"root", absl::StrCat("must be an absolute path, was '", root, "'")}});
    }
    ZC_ASSIGN_OR_RETURN(std::string path, RealPath(root, about_to));
    resolved.push_back(std::move(path));
  }
  return resolved;
}

absl::StatusOr<std::string> ResolveCheckpoint(const std::vector<std::string>& roots,
                                              const std::string& path,
                                              const FileObserver& about_to) {
  if (!roots.empty()) {
    for (const absl::string_view part : absl::StrSplit(path, '/')) {
      if (part == "..") {
        return WithReason(
            absl::PermissionDeniedError(absl::StrCat("read ", path, ": '..' is not allowed")),
            "PERMISSION_DENIED");
      }
    }
  }
  absl::StatusOr<std::string> folder = RealPath(path, about_to);
  if (!folder.ok()) return WithReason(folder.status(), "CHECKPOINT_NOT_FOUND");
  if (!IsBelow(roots, *folder)) return Outside(roots, path, *folder);
  if (roots.empty()) return folder;
  // Files may be links, as in the cache of huggingface_hub: they must stay inside, too.  Whatever
  // their names: an index may name any of them.
  ZC_RETURN_IF_ERROR(Observe(about_to, absl::StrCat("list ", *folder)));
  std::error_code error;
  for (fs::directory_iterator entry(*folder, error), end; !error && entry != end;
       entry.increment(error)) {
    // Its own type, not its target's; an entry that cannot be told is resolved, too.
    std::error_code unknown;
    if (!entry->is_symlink(unknown) && !unknown) continue;
    const absl::StatusOr<std::string> file = RealPath(entry->path().string(), about_to);
    if (!file.ok()) continue;  // a dangling link: reported as missing where it is needed
    if (!IsBelow(roots, *file)) return Outside(roots, entry->path().string(), *file);
  }
  if (error) return ErrnoStatus(error.value(), absl::StrCat("list ", *folder));
  return folder;
}

}  // namespace zerocast
