#ifndef ZEROCAST_KERNELS_DEVICE_CUDA_STATUS_H_
#define ZEROCAST_KERNELS_DEVICE_CUDA_STATUS_H_

#include <cuda_runtime_api.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace zerocast {

// The status of a CUDA call that was to do `what` ("allocate 4096 bytes on device 0"): OK for
// cudaSuccess, else a message of what was tried, CUDA's name and words for what happened, and what
// to do where that is known.  Clears the last-error slot of this thread, so that a later check of a
// launch does not report this error again.  An error that a kernel left behind (an illegal address)
// is not cleared by that: every later call of the process reports it.
//
//   RESOURCE_EXHAUSTED   out of device or pinned memory
//   FAILED_PRECONDITION  no device, no driver or one that is too old, a device that cannot run this
//                        build's kernels
//   INVALID_ARGUMENT     a device number that does not exist
//   UNAVAILABLE          a device that others hold exclusively, or that is lost to an error of
//                        its memory or its link
//   UNIMPLEMENTED        not supported by the device or the driver
//   INTERNAL             everything else, errors of kernels too
absl::Status ToStatus(cudaError_t error, absl::string_view what);

// As ToStatus, for where nobody takes a status: logs an error.  cudaErrorCudartUnloading is none:
// at the end of a process the runtime has taken back everything itself.
void LogIfError(cudaError_t error, absl::string_view what) noexcept;

// How many CUDA devices this process sees: at least 1, or FAILED_PRECONDITION saying why there is
// none.
absl::StatusOr<int> DeviceCount();

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_DEVICE_CUDA_STATUS_H_
