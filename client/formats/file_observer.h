#ifndef ZEROCAST_CLIENT_FORMATS_FILE_OBSERVER_H_
#define ZEROCAST_CLIENT_FORMATS_FILE_OBSERVER_H_

#include <functional>

#include "absl/strings/string_view.h"

namespace zerocast {

// Told of a call to the file system ("open /x/y") before it is made, on the thread that makes it: a
// dead network file system never answers, and then somebody else can say what was asked of it.  May
// be empty.
using FileObserver = std::function<void(absl::string_view call)>;

inline void Observe(const FileObserver& about_to, absl::string_view call) {
  if (about_to != nullptr) about_to(call);
}

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_FORMATS_FILE_OBSERVER_H_
