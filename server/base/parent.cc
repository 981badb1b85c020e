#include "server/base/parent.h"

#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "server/base/errors.h"

namespace zerocast {

absl::Status EndWithParent(pid_t parent) {
  if (::prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) {
    return ErrnoStatus(errno, "ask the kernel to end this process with its parent");
  }
  // One that ended before the call is not told of any more.
  if (::getppid() == parent) return absl::OkStatus();
  return WithReason(absl::FailedPreconditionError(absl::StrCat("end with process ", parent,
                                                               ": it did not start this one, or "
                                                               "has ended; the parent is ",
                                                               ::getppid())),
                    "WRONG_STATE");
}

}  // namespace zerocast
