#include "server/base/missing_folder.h"

#include "absl/strings/str_cat.h"

namespace zerocast {

absl::Status MissingFolder(absl::string_view what, absl::string_view path, absl::string_view name) {
  const size_t slash = path.rfind('/');
  const absl::string_view folder = slash == absl::string_view::npos ? "."
                                   : slash == 0                     ? "/"
                                                                    : path.substr(0, slash);
  return absl::NotFoundError(absl::StrCat(what, ": its folder ", folder,
                                          " does not exist; make it (install -d ", folder,
                                          ") or name another ", name));
}

}  // namespace zerocast
