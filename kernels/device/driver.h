#ifndef ZEROCAST_KERNELS_DEVICE_DRIVER_H_
#define ZEROCAST_KERNELS_DEVICE_DRIVER_H_

#include <cuda.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace zerocast {

// The functions of CUDA's driver that the runtime has no name for.  They are asked of the runtime,
// which opens the driver: no program of ours is linked with it, so that all start without it.
struct Driver {
  decltype(&cuDeviceGet) device_get;
  decltype(&cuDeviceGetAttribute) device_get_attribute;
  decltype(&cuPointerGetAttribute) pointer_get_attribute;
  decltype(&cuMemGetAllocationGranularity) get_granularity;
  decltype(&cuMemCreate) create;
  decltype(&cuMemRelease) release;
  decltype(&cuMemAddressReserve) address_reserve;
  decltype(&cuMemAddressFree) address_free;
  decltype(&cuMemMap) map;
  decltype(&cuMemUnmap) unmap;
  decltype(&cuMemSetAccess) set_access;
  decltype(&cuMemExportToShareableHandle) export_handle;
  decltype(&cuMemImportFromShareableHandle) import_handle;

  // FAILED_PRECONDITION without a driver, or with one that lacks a function.  What was found once
  // stays for the life of the process; an error does not.  Thread-safe.
  static absl::StatusOr<const Driver*> Load();
};

// As those of cuda_status.h: the runtime and the driver number their errors alike.
absl::Status ToStatus(CUresult result, absl::string_view what);
void LogIfError(CUresult result, absl::string_view what) noexcept;

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_DEVICE_DRIVER_H_
