#ifndef ZEROCAST_KERNELS_DEVICE_COPY_TO_HOST_H_
#define ZEROCAST_KERNELS_DEVICE_COPY_TO_HOST_H_

#include <cuda_runtime_api.h>

#include <cstddef>
#include <functional>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"

namespace zerocast {

// Copies `to.size()` bytes at `from`, memory of `device`, to any host memory, and waits for that.
// Work on that memory must have ended.  Errors: those of Event::Wait, for each 16 MiB, and of
// PinnedBuffer.
absl::Status CopyToHost(int device, const std::byte* from, absl::Span<char> to,
                        absl::Duration timeout);

// Gives `work` a stream of `device` of its own, and waits until what it started there has ended.
// Errors: those of `work` and of Event::Wait.
absl::Status RunAndWait(int device, const std::function<absl::Status(cudaStream_t)>& work,
                        absl::Duration timeout);

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_DEVICE_COPY_TO_HOST_H_
