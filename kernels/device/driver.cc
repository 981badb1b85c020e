#include "kernels/device/driver.h"

#include <cuda_runtime_api.h>

#include <atomic>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/device/cuda_status.h"

namespace zerocast {
namespace {

static_assert(static_cast<int>(CUDA_ERROR_OUT_OF_MEMORY) == cudaErrorMemoryAllocation);
static_assert(static_cast<int>(CUDA_ERROR_NO_DEVICE) == cudaErrorNoDevice);
static_assert(static_cast<int>(CUDA_ERROR_INVALID_DEVICE) == cudaErrorInvalidDevice);
static_assert(static_cast<int>(CUDA_ERROR_NOT_SUPPORTED) == cudaErrorNotSupported);
static_assert(static_cast<int>(CUDA_ERROR_ILLEGAL_ADDRESS) == cudaErrorIllegalAddress);

// The interface of the functions that is asked for; all are in it since 10.2.
constexpr unsigned kVersion = 12000;

template <typename Function>
absl::Status Find(const char* name, Function* function) {
  const std::string what = absl::StrCat("find ", name, " in CUDA's driver");
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
  ZC_RETURN_IF_ERROR(ToStatus(
      cudaGetDriverEntryPointByVersion(name, &found, kVersion, cudaEnableDefault, &result), what));
  if (result != cudaDriverEntryPointSuccess || found == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat(
        what, ": it has none (", static_cast<int>(result), "); install release 580 or later"));
  }
  *function = reinterpret_cast<Function>(found);
  return absl::OkStatus();
}

absl::Status FindAll(Driver* driver) {
  ZC_RETURN_IF_ERROR(Find("cuDeviceGet", &driver->device_get));
  ZC_RETURN_IF_ERROR(Find("cuDeviceGetAttribute", &driver->device_get_attribute));
  ZC_RETURN_IF_ERROR(Find("cuPointerGetAttribute", &driver->pointer_get_attribute));
  ZC_RETURN_IF_ERROR(Find("cuMemGetAllocationGranularity", &driver->get_granularity));
  ZC_RETURN_IF_ERROR(Find("cuMemCreate", &driver->create));
  ZC_RETURN_IF_ERROR(Find("cuMemRelease", &driver->release));
  ZC_RETURN_IF_ERROR(Find("cuMemAddressReserve", &driver->address_reserve));
  ZC_RETURN_IF_ERROR(Find("cuMemAddressFree", &driver->address_free));
  ZC_RETURN_IF_ERROR(Find("cuMemMap", &driver->map));
  ZC_RETURN_IF_ERROR(Find("cuMemUnmap", &driver->unmap));
  ZC_RETURN_IF_ERROR(Find("cuMemSetAccess", &driver->set_access));
  ZC_RETURN_IF_ERROR(Find("cuMemExportToShareableHandle", &driver->export_handle));
  return Find("cuMemImportFromShareableHandle", &driver->import_handle);
}

}  // namespace

absl::StatusOr<const Driver*> Driver::Load() {
  static Driver driver;
  static std::atomic<bool> loaded{false};
  if (loaded) return &driver;
  // Several threads may find the same functions at once; one of them keeps them.
  Driver found{};
  ZC_RETURN_IF_ERROR(FindAll(&found));
  static const bool kept = [&found] {
    driver = found;
    return true;
  }();
  loaded = kept;
  return &driver;
}

absl::Status ToStatus(CUresult result, absl::string_view what) {
  return ToStatus(static_cast<cudaError_t>(result), what);
}

void LogIfError(CUresult result, absl::string_view what) noexcept {
  LogIfError(static_cast<cudaError_t>(result), what);
}

}  // namespace zerocast
