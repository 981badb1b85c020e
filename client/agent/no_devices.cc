// Of a build without CUDA.

#include "client/agent/devices.h"
#include "server/base/errors.h"

namespace zerocast {

absl::StatusOr<std::shared_ptr<Devices>> FindCudaDevices(int, int) {
  return WithReason(absl::FailedPreconditionError(
                        "look for CUDA devices: this zerocast was built without CUDA, or "
                        "without NCCL; build it with CUDA Toolkit 13, NCCL and "
                        "-DZEROCAST_CUDA=ON"),
                    "UNSUPPORTED");
}

}  // namespace zerocast
