#include "kernels/device/stream.h"

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/device/cuda_status.h"
#include "kernels/device/device_scope.h"

namespace zerocast {

absl::StatusOr<Stream> Stream::Create(int device) {
  ZC_ASSIGN_OR_RETURN(const DeviceScope scope, DeviceScope::Enter(device));
  cudaStream_t handle = nullptr;
  ZC_RETURN_IF_ERROR(ToStatus(cudaStreamCreateWithFlags(&handle, cudaStreamNonBlocking),
                              absl::StrCat("create a stream on device ", device)));
  return Stream(handle, device);
}

absl::Status Stream::WaitFor(cudaEvent_t event) const {
  return ToStatus(cudaStreamWaitEvent(get(), event, cudaEventWaitDefault),
                  absl::StrCat("let a stream of device ", device_, " wait for an event"));
}

void Stream::Traits::Destroy(Handle handle) noexcept {
  LogIfError(cudaStreamDestroy(handle), "destroy a stream");
}

}  // namespace zerocast
