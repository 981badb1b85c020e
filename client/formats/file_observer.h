#ifndef ZEROCAST_CLIENT_FORMATS_FILE_OBSERVER_H_
#define ZEROCAST_CLIENT_FORMATS_FILE_OBSERVER_H_

#include <functional>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace zerocast {

// Told of a call to the file system ("open /x/y") before it is made, on the thread that makes it: a
// dead network file system never answers, and then somebody else can say what was asked of it.  Its
// error is for the caller: the call is not made, and the work ends with it.  May be empty.
using FileObserver = std::function<absl::Status(absl::string_view call)>;

inline absl::Status Observe(const FileObserver& about_to, absl::string_view call) {
  return about_to == nullptr ? absl::OkStatus() : about_to(call);
}

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_FORMATS_FILE_OBSERVER_H_
