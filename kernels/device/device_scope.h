#ifndef ZEROCAST_KERNELS_DEVICE_DEVICE_SCOPE_H_
#define ZEROCAST_KERNELS_DEVICE_DEVICE_SCOPE_H_

#include "absl/status/statusor.h"

namespace zerocast {

// While it lives, `device` is the calling thread's current CUDA device; then the one before is
// again.  Stays on the thread that entered it; scopes nest.
class [[nodiscard]] DeviceScope {
 public:
  // INVALID_ARGUMENT when there is no such device, FAILED_PRECONDITION without any.
  static absl::StatusOr<DeviceScope> Enter(int device);
  // The same for where nobody takes a status: an error is logged, and the device stays as it is.
  static DeviceScope EnterOrLog(int device) noexcept;
  ~DeviceScope();

  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;
  // Moved from, it does nothing at its end.
  DeviceScope(DeviceScope&& other) noexcept;
  DeviceScope& operator=(DeviceScope&&) = delete;

 private:
  explicit DeviceScope(int previous) : previous_(previous) {}
  int previous_;  // -1: nothing to go back to
};

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_DEVICE_DEVICE_SCOPE_H_
