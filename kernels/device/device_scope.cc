#include "kernels/device/device_scope.h"

#include <cuda_runtime_api.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/device/cuda_status.h"

namespace zerocast {

absl::StatusOr<DeviceScope> DeviceScope::Enter(int device) {
  int previous = 0;
  ZC_RETURN_IF_ERROR(ToStatus(cudaGetDevice(&previous), "ask for the current device"));
  ZC_RETURN_IF_ERROR(ToStatus(cudaSetDevice(device), absl::StrCat("select device ", device)));
  return DeviceScope(previous);
}

DeviceScope DeviceScope::EnterOrLog(int device) noexcept {
  int previous = 0;
  cudaError_t error = cudaGetDevice(&previous);
  if (error == cudaSuccess) error = cudaSetDevice(device);
  if (error == cudaSuccess) return DeviceScope(previous);
  LogIfError(error, "select the device of what ends");
  return DeviceScope(-1);
}

DeviceScope::DeviceScope(DeviceScope&& other) noexcept
    : previous_(std::exchange(other.previous_, -1)) {}

DeviceScope::~DeviceScope() {
  if (previous_ >= 0) LogIfError(cudaSetDevice(previous_), "select the device of before");
}

}  // namespace zerocast
