#include "kernels/device/ipc_buffer.h"

#include <cuda_runtime_api.h>

#include <cstring>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/device/cuda_status.h"
#include "kernels/device/device_scope.h"
#include "kernels/device/driver.h"

namespace zerocast {

absl::StatusOr<std::string> ExportIpc(const DeviceBuffer& buffer) {
  const std::string what = absl::StrCat("make a legacy IPC handle of ", buffer.num_bytes(),
                                        " bytes of device ", buffer.device());
  ZC_ASSIGN_OR_RETURN(const DeviceScope scope, DeviceScope::Enter(buffer.device()));
  ZC_ASSIGN_OR_RETURN(const Driver* const driver, Driver::Load());
  unsigned capable = 0;
  ZC_RETURN_IF_ERROR(ToStatus(
      driver->pointer_get_attribute(&capable, CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE,
                                    reinterpret_cast<CUdeviceptr>(buffer.data())),
      what));
  if (capable == 0) {
    return absl::UnimplementedError(
        absl::StrCat(what, ": not supported by the device or its driver"));
  }
  cudaIpcMemHandle_t handle;
  ZC_RETURN_IF_ERROR(ToStatus(cudaIpcGetMemHandle(&handle, buffer.data()), what));
  return std::string(handle.reserved, sizeof(handle.reserved));
}

absl::StatusOr<IpcBuffer> IpcBuffer::Import(int device, absl::string_view handle,
                                            int64_t num_bytes) {
  const std::string what =
      absl::StrCat("open ", num_bytes, " bytes by a legacy IPC handle on device ", device);
  cudaIpcMemHandle_t bytes;
  if (handle.size() != sizeof(bytes.reserved)) {
    return absl::InvalidArgumentError(absl::StrCat(what, ": the handle has ", handle.size(),
                                                   " bytes, not ", sizeof(bytes.reserved)));
  }
  std::memcpy(bytes.reserved, handle.data(), handle.size());
  ZC_ASSIGN_OR_RETURN(const DeviceScope scope, DeviceScope::Enter(device));
  Opened opened{nullptr, device, num_bytes};
  ZC_RETURN_IF_ERROR(
      ToStatus(cudaIpcOpenMemHandle(&opened.memory, bytes, cudaIpcMemLazyEnablePeerAccess), what));
  return IpcBuffer(opened);
}

void IpcBuffer::Traits::Destroy(Handle handle) noexcept {
  // Closing looks for the handle in the current device's context.
  const DeviceScope scope = DeviceScope::EnterOrLog(handle.device);
  const cudaError_t error = cudaIpcCloseMemHandle(handle.memory);
  if (error != cudaSuccess) LogIfError(error, Closing(handle));
}

std::string IpcBuffer::Traits::Closing(Handle handle) {
  return absl::StrCat("close the legacy IPC handle of ", handle.num_bytes, " bytes on device ",
                      handle.device);
}

absl::Status IpcBuffer::Close() {
  if (handle_.empty()) return absl::OkStatus();
  const Opened opened = handle_.get();
  ZC_ASSIGN_OR_RETURN(const DeviceScope scope, DeviceScope::Enter(opened.device));
  ZC_RETURN_IF_ERROR(ToStatus(cudaIpcCloseMemHandle(opened.memory), Traits::Closing(opened)));
  static_cast<void>(handle_.Release());
  return absl::OkStatus();
}

}  // namespace zerocast
