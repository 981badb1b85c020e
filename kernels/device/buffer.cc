#include "kernels/device/buffer.h"

#include <cuda_runtime_api.h>

#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "kernels/base/status_macros.h"
#include "kernels/device/cuda_status.h"
#include "kernels/device/device_scope.h"

namespace zerocast {
namespace {

std::string What(int64_t num_bytes, absl::string_view memory, int device) {
  return absl::StrCat("allocate ", num_bytes, " bytes of ", memory, " for device ", device);
}

absl::Status CheckSize(int64_t num_bytes, absl::string_view what) {
  if (num_bytes >= 1) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(what, ": the size must be at least 1"));
}

}  // namespace

absl::StatusOr<DeviceBuffer> DeviceBuffer::Create(int device, int64_t num_bytes) {
  const std::string what = What(num_bytes, "device memory", device);
  ZC_RETURN_IF_ERROR(CheckSize(num_bytes, what));
  ZC_ASSIGN_OR_RETURN(const DeviceScope scope, DeviceScope::Enter(device));
  void* handle = nullptr;
  ZC_RETURN_IF_ERROR(ToStatus(cudaMalloc(&handle, num_bytes), what));
  return DeviceBuffer(handle, device, num_bytes);
}

void DeviceBuffer::Traits::Destroy(Handle handle) noexcept {
  LogIfError(cudaFree(handle), "free device memory");
}

absl::StatusOr<PinnedBuffer> PinnedBuffer::Create(int device, int64_t num_bytes) {
  const std::string what = What(num_bytes, "pinned host memory", device);
  ZC_RETURN_IF_ERROR(CheckSize(num_bytes, what));
  ZC_ASSIGN_OR_RETURN(const DeviceScope scope, DeviceScope::Enter(device));
  void* handle = nullptr;
  ZC_RETURN_IF_ERROR(ToStatus(cudaHostAlloc(&handle, num_bytes, cudaHostAllocPortable), what));
  return PinnedBuffer(handle, num_bytes);
}

void PinnedBuffer::Traits::Destroy(Handle handle) noexcept {
  LogIfError(cudaFreeHost(handle), "free pinned host memory");
}

absl::StatusOr<PinnedRange> PinnedRange::Create(int device, void* memory, int64_t num_bytes) {
  const std::string what =
      absl::StrCat("page-lock ", num_bytes, " bytes of host memory for device ", device);
  ZC_RETURN_IF_ERROR(CheckSize(num_bytes, what));
  ZC_ASSIGN_OR_RETURN(const DeviceScope scope, DeviceScope::Enter(device));
  constexpr unsigned kFlags = cudaHostRegisterPortable | cudaHostRegisterMapped;
  ZC_RETURN_IF_ERROR(ToStatus(cudaHostRegister(memory, num_bytes, kFlags), what));
  return PinnedRange(memory);
}

absl::StatusOr<std::byte*> PinnedRange::AddressOn(int device) const {
  ZC_ASSIGN_OR_RETURN(const DeviceScope scope, DeviceScope::Enter(device));
  void* address = nullptr;
  ZC_RETURN_IF_ERROR(
      ToStatus(cudaHostGetDevicePointer(&address, handle_.get(), 0),
               absl::StrCat("ask where device ", device, " finds page-locked host memory")));
  return static_cast<std::byte*>(address);
}

void PinnedRange::Traits::Destroy(Handle handle) noexcept {
  LogIfError(cudaHostUnregister(handle), "unlock pages of host memory");
}

}  // namespace zerocast
