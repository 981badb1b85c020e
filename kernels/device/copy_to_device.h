#ifndef ZEROCAST_KERNELS_DEVICE_COPY_TO_DEVICE_H_
#define ZEROCAST_KERNELS_DEVICE_COPY_TO_DEVICE_H_

#include <cstddef>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"

namespace zerocast {

// Copies `from`, any host memory, to `to`, memory of `device`, and waits for that.  Unless `locked`
// is null the pages of `from` are locked meanwhile, so that the device reads them without a detour;
// then it must be a mapping that may be written, and not a private one of a file, whose pages that
// would duplicate.  Where they cannot be locked `locked` says why, and the copy goes through the
// driver's own buffers.  Errors: those of Event::Wait, for each 256 MiB.
absl::Status CopyToDevice(int device, std::byte* to, absl::Span<char> from, absl::Status* locked,
                          absl::Duration timeout);

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_DEVICE_COPY_TO_DEVICE_H_
