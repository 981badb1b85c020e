#include "client/agent/devices.h"

#include "kernels/base/status_macros.h"

namespace zerocast {

absl::StatusOr<std::shared_ptr<Devices>> DeviceFinder::Get() {
  MutexLock lock(&mutex_);
  if (found_ == nullptr) {
    ZC_ASSIGN_OR_RETURN(found_, find_());
  }
  return found_;
}

}  // namespace zerocast
