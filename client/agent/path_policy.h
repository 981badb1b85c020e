#ifndef ZEROCAST_CLIENT_AGENT_PATH_POLICY_H_
#define ZEROCAST_CLIENT_AGENT_PATH_POLICY_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/formats/file_observer.h"

namespace zerocast {

// True when `path` (absolute, links resolved) is one of `roots` or below it; always true when
// `roots` is empty.  `roots` are resolved too (see ResolveRoots).
bool IsBelow(const std::vector<std::string>& roots, const std::string& path);

// The roots with their symbolic links followed.  `about_to` is told of every call to the file
// system, here and below.  Errors: NOT_FOUND, INVALID_ARGUMENT (relative).
absl::StatusOr<std::vector<std::string>> ResolveRoots(const std::vector<std::string>& roots,
                                                      const FileObserver& about_to = {});

// The folder `path` with its symbolic links followed, checked against `roots`; also checks what
// each link in it points to, whatever its name: an index may name any file beside it.  Errors:
//   PERMISSION_DENIED  it or the target of a link in it is outside of all roots, or the path has a
//                      ".." component; reason PERMISSION_DENIED.
//   NOT_FOUND          no such folder; reason CHECKPOINT_NOT_FOUND.
absl::StatusOr<std::string> ResolveCheckpoint(const std::vector<std::string>& roots,
                                              const std::string& path,
                                              const FileObserver& about_to = {});

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_PATH_POLICY_H_
