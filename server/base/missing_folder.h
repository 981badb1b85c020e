#ifndef ZEROCAST_SERVER_BASE_MISSING_FOLDER_H_
#define ZEROCAST_SERVER_BASE_MISSING_FOLDER_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace zerocast {

// NOT_FOUND for a file that could not be made because its folder does not exist: "`what`: its
// folder DIR does not exist; make it (install -d DIR) or name another `name`".  `path` is the
// file's; the caller has seen ENOENT, nothing is looked up here.
absl::Status MissingFolder(absl::string_view what, absl::string_view path, absl::string_view name);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_BASE_MISSING_FOLDER_H_
