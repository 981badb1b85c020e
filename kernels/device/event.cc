#include "kernels/device/event.h"

#include <algorithm>
#include <chrono>
#include <thread>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/device/cuda_status.h"
#include "kernels/device/device_scope.h"

namespace zerocast {

absl::StatusOr<Event> Event::Create(int device) {
  ZC_ASSIGN_OR_RETURN(const DeviceScope scope, DeviceScope::Enter(device));
  cudaEvent_t handle = nullptr;
  ZC_RETURN_IF_ERROR(ToStatus(cudaEventCreateWithFlags(&handle, cudaEventDisableTiming),
                              absl::StrCat("create an event on device ", device)));
  return Event(handle, device);
}

absl::Status Event::Record(cudaStream_t stream) const {
  return ToStatus(cudaEventRecord(get(), stream),
                  absl::StrCat("record an event on device ", device_));
}

absl::StatusOr<bool> Event::IsDone() const {
  const cudaError_t error = cudaEventQuery(get());
  if (error == cudaErrorNotReady) {
    // Not a failure, but it is left in the slot that the next check of a launch reads.
    static_cast<void>(cudaGetLastError());
    return false;
  }
  ZC_RETURN_IF_ERROR(ToStatus(error, absl::StrCat("run the work on device ", device_)));
  return true;
}

absl::Status Event::Wait(absl::Duration timeout) const {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point begin = Clock::now();
  const Clock::time_point end =
      begin + absl::ToChronoNanoseconds(std::clamp(timeout, absl::ZeroDuration(), absl::Hours(24)));
  for (;;) {
    // Read before the question, so that work which ends just in time counts.
    const Clock::time_point now = Clock::now();
    ZC_ASSIGN_OR_RETURN(const bool is_done, IsDone());
    if (is_done) return absl::OkStatus();
    if (now >= end) {
      return absl::DeadlineExceededError(absl::StrCat("wait for the work on device ", device_,
                                                      ": not done after ",
                                                      absl::FormatDuration(timeout)));
    }
    // cudaEventSynchronize has no deadline.  Sleeps are a small part of the time waited so far:
    // short work is seen at once, long work costs no core.
    const Clock::duration nap = std::clamp<Clock::duration>(
        (now - begin) / 16, std::chrono::microseconds(5), std::chrono::milliseconds(1));
    std::this_thread::sleep_for(std::min<Clock::duration>(nap, end - now));
  }
}

void Event::Traits::Destroy(Handle handle) noexcept {
  LogIfError(cudaEventDestroy(handle), "destroy an event");
}

}  // namespace zerocast
