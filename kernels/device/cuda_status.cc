#include "kernels/device/cuda_status.h"

#include <exception>
#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "spdlog/spdlog.h"

namespace zerocast {
namespace {

struct Meaning {
  absl::StatusCode code;
  const char* advice;  // what to do, "" when unknown
};

Meaning MeaningOf(cudaError_t error) {
  using Code = absl::StatusCode;
  switch (error) {
    case cudaErrorMemoryAllocation:
      return {Code::kResourceExhausted, "; free memory there, or use smaller buffers"};
    case cudaErrorNoDevice:
      return {Code::kFailedPrecondition,
              "; run on a machine with an NVIDIA GPU that CUDA_VISIBLE_DEVICES does not hide"};
    case cudaErrorInsufficientDriver:
    case cudaErrorStubLibrary:
    case cudaErrorSystemDriverMismatch:
    case cudaErrorCompatNotSupportedOnDevice:
      return {Code::kFailedPrecondition,
              "; there is no NVIDIA driver, or one older than release 580: run on a machine with "
              "an NVIDIA GPU and such a driver"};
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorUnsupportedPtxVersion:
      return {Code::kFailedPrecondition,
              "; build with this GPU's architecture in CMAKE_CUDA_ARCHITECTURES"};
    case cudaErrorSystemNotReady:
    case cudaErrorInitializationError:
      return {Code::kFailedPrecondition, "; see nvidia-smi and the log of nvidia-fabricmanager"};
    case cudaErrorInvalidDevice:
      return {Code::kInvalidArgument, "; nvidia-smi -L lists the devices"};
    case cudaErrorDevicesUnavailable:
    case cudaErrorDeviceUninitialized:
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorContained:
      return {Code::kUnavailable, "; see nvidia-smi for who holds the device and its errors"};
    case cudaErrorNotSupported:
      return {Code::kUnimplemented, ""};
    default:
      return {Code::kInternal, ""};
  }
}

}  // namespace

absl::Status ToStatus(cudaError_t error, absl::string_view what) {
  if (error == cudaSuccess) return absl::OkStatus();
  // Its own result is `error` once more, or none: some calls report an error without leaving it.
  static_cast<void>(cudaGetLastError());
  const Meaning meaning = MeaningOf(error);
  return absl::Status(
      meaning.code, absl::StrCat(what, ": ", cudaGetErrorName(error), " (", static_cast<int>(error),
                                 "): ", cudaGetErrorString(error), meaning.advice));
}

void LogIfError(cudaError_t error, absl::string_view what) noexcept {
  if (error == cudaSuccess || error == cudaErrorCudartUnloading) return;
  try {
    const absl::Status status = ToStatus(error, what);
    spdlog::error("{}", std::string(status.message()));
  } catch (const std::exception&) {
    // Out of memory for a message; the error itself stays in CUDA's slot.
  }
}

absl::StatusOr<int> DeviceCount() {
  int count = 0;
  ZC_RETURN_IF_ERROR(ToStatus(cudaGetDeviceCount(&count), "count CUDA devices"));
  if (count == 0) return ToStatus(cudaErrorNoDevice, "count CUDA devices");
  return count;
}

}  // namespace zerocast
