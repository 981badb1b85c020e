#ifndef ZEROCAST_KERNELS_DEVICE_EVENT_H_
#define ZEROCAST_KERNELS_DEVICE_EVENT_H_

#include <cuda_runtime_api.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kernels/device/unique_handle.h"

namespace zerocast {

// Owns a CUDA event of one device, without timing.  Move-only; moved from, it is only good for
// destruction.  Its methods may be called by several threads at once.
class Event {
 public:
  // Errors as DeviceScope::Enter.
  static absl::StatusOr<Event> Create(int device);

  cudaEvent_t get() const { return handle_.get(); }
  int device() const { return device_; }

  // Marks the work that `stream`, a stream of the event's device, has got so far.
  absl::Status Record(cudaStream_t stream) const;

  // True when the marked work has ended, or nothing was ever marked.  An error of that work, or of
  // any before it on the device, comes back here.
  absl::StatusOr<bool> IsDone() const;

  // Blocks until the marked work has ended.  DEADLINE_EXCEEDED when it has not within `timeout`
  // (at most a day); other errors as IsDone.
  absl::Status Wait(absl::Duration timeout) const;

 private:
  struct Traits {
    using Handle = cudaEvent_t;
    static constexpr Handle kNull = nullptr;
    static void Destroy(Handle handle) noexcept;
  };
  Event(cudaEvent_t handle, int device) : handle_(handle), device_(device) {}

  UniqueHandle<Traits> handle_;
  int device_;
};

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_DEVICE_EVENT_H_
