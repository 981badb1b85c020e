#include "kernels/device/exportable_buffer.h"

#include <unistd.h>

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "kernels/base/status_macros.h"
#include "kernels/device/device_scope.h"
#include "kernels/device/driver.h"

namespace zerocast {
namespace {

CUmemAllocationProp Properties(int device) {
  CUmemAllocationProp properties{};
  properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  properties.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  properties.location.id = device;
  return properties;
}

absl::StatusOr<size_t> RoundUp(const Driver& driver, int device, int64_t num_bytes,
                               absl::string_view what) {
  if (num_bytes < 1) {
    return absl::InvalidArgumentError(absl::StrCat(what, ": the size must be at least 1"));
  }
  const CUmemAllocationProp properties = Properties(device);
  size_t granule = 0;
  ZC_RETURN_IF_ERROR(
      ToStatus(driver.get_granularity(&granule, &properties, CU_MEM_ALLOC_GRANULARITY_MINIMUM),
               absl::StrCat(what, ": ask for the granularity")));
  return (static_cast<size_t>(num_bytes) + granule - 1) / granule * granule;
}

// Destructors find the driver that their objects were made with.
const Driver* Loaded() noexcept {
  const absl::StatusOr<const Driver*> driver = Driver::Load();
  return driver.ok() ? *driver : nullptr;
}

absl::Status CheckAttribute(const Driver& driver, int device, CUdevice_attribute attribute,
                            absl::string_view name) {
  const std::string what = absl::StrCat("ask device ", device, " for ", name);
  CUdevice handle = 0;
  ZC_RETURN_IF_ERROR(ToStatus(driver.device_get(&handle, device), what));
  int value = 0;
  ZC_RETURN_IF_ERROR(ToStatus(driver.device_get_attribute(&value, attribute, handle), what));
  if (value != 0) return absl::OkStatus();
  return absl::UnimplementedError(
      absl::StrCat(what, ": not supported by the device or its driver"));
}

}  // namespace

void DescriptorTraits::Destroy(Handle handle) noexcept { ::close(handle); }

absl::Status CanExport(int device) {
  ZC_ASSIGN_OR_RETURN(const DeviceScope scope, DeviceScope::Enter(device));
  ZC_ASSIGN_OR_RETURN(const Driver* const driver, Driver::Load());
  ZC_RETURN_IF_ERROR(CheckAttribute(*driver, device,
                                    CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED,
                                    "virtual memory management"));
  return CheckAttribute(*driver, device,
                        CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED,
                        "memory with a file descriptor");
}

absl::StatusOr<ExportableBuffer> ExportableBuffer::Create(int device, int64_t num_bytes) {
  const std::string what =
      absl::StrCat("allocate ", num_bytes, " bytes of exportable memory on device ", device);
  ZC_RETURN_IF_ERROR(CanExport(device));
  ZC_ASSIGN_OR_RETURN(const DeviceScope scope, DeviceScope::Enter(device));
  ZC_ASSIGN_OR_RETURN(const Driver* const driver, Driver::Load());
  ZC_ASSIGN_OR_RETURN(const size_t mapped_bytes, RoundUp(*driver, device, num_bytes, what));
  const CUmemAllocationProp properties = Properties(device);
  CUmemGenericAllocationHandle handle = 0;
  ZC_RETURN_IF_ERROR(ToStatus(driver->create(&handle, mapped_bytes, &properties, 0), what));
  return Map(Allocation(handle), device, num_bytes, mapped_bytes);
}

absl::StatusOr<ExportableBuffer> ExportableBuffer::Import(int device, int descriptor,
                                                          int64_t num_bytes) {
  const std::string what = absl::StrCat("import ", num_bytes, " bytes of device ", device,
                                        " from file descriptor ", descriptor);
  ZC_ASSIGN_OR_RETURN(const DeviceScope scope, DeviceScope::Enter(device));
  ZC_ASSIGN_OR_RETURN(const Driver* const driver, Driver::Load());
  ZC_ASSIGN_OR_RETURN(const size_t mapped_bytes, RoundUp(*driver, device, num_bytes, what));
  CUmemGenericAllocationHandle handle = 0;
  // The driver takes the number itself as the pointer.
  void* const number = reinterpret_cast<void*>(static_cast<intptr_t>(descriptor));
  ZC_RETURN_IF_ERROR(ToStatus(
      driver->import_handle(&handle, number, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR), what));
  return Map(Allocation(handle), device, num_bytes, mapped_bytes);
}

absl::StatusOr<ExportableBuffer> ExportableBuffer::Map(Allocation allocation, int device,
                                                       int64_t num_bytes, size_t mapped_bytes) {
  const std::string what = absl::StrCat("map ", mapped_bytes, " bytes of device ", device);
  ZC_ASSIGN_OR_RETURN(const Driver* const driver, Driver::Load());
  ExportableBuffer buffer(device, num_bytes);
  buffer.allocation_ = std::move(allocation);
  Range range{0, mapped_bytes};
  ZC_RETURN_IF_ERROR(ToStatus(driver->address_reserve(&range.address, range.num_bytes, 0, 0, 0),
                              absl::StrCat(what, ": reserve addresses")));
  buffer.reservation_ = UniqueHandle<ReservationTraits>(range);
  ZC_RETURN_IF_ERROR(
      ToStatus(driver->map(range.address, range.num_bytes, 0, buffer.allocation_.get(), 0), what));
  buffer.mapping_ = UniqueHandle<MappingTraits>(range);
  CUmemAccessDesc access{};
  access.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  access.location.id = device;
  access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
  ZC_RETURN_IF_ERROR(ToStatus(driver->set_access(range.address, range.num_bytes, &access, 1),
                              absl::StrCat(what, ": let the device use them")));
  return buffer;
}

absl::StatusOr<Descriptor> ExportableBuffer::Export() const {
  ZC_ASSIGN_OR_RETURN(const Driver* const driver, Driver::Load());
  int descriptor = -1;
  ZC_RETURN_IF_ERROR(ToStatus(
      driver->export_handle(&descriptor, allocation_.get(),
                            CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
      absl::StrCat("export ", num_bytes_, " bytes of device ", device_, " as a file descriptor")));
  return Descriptor(descriptor);
}

void ExportableBuffer::AllocationTraits::Destroy(Handle handle) noexcept {
  if (const Driver* const driver = Loaded()) {
    LogIfError(driver->release(handle), "give back exportable memory");
  }
}

void ExportableBuffer::ReservationTraits::Destroy(Handle handle) noexcept {
  if (const Driver* const driver = Loaded()) {
    LogIfError(driver->address_free(handle.address, handle.num_bytes), "give back addresses");
  }
}

void ExportableBuffer::MappingTraits::Destroy(Handle handle) noexcept {
  if (const Driver* const driver = Loaded()) {
    LogIfError(driver->unmap(handle.address, handle.num_bytes), "unmap exportable memory");
  }
}

}  // namespace zerocast
