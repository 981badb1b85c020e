#include "kernels/device/devices.h"

#include <cuda_runtime_api.h>

#include <fstream>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "kernels/base/status_macros.h"
#include "kernels/device/cuda_status.h"

namespace zerocast {
namespace {

std::string UuidText(const cudaUUID_t& uuid) {
  const std::string hex = absl::BytesToHexString(absl::string_view(uuid.bytes, sizeof(uuid.bytes)));
  return absl::StrCat("GPU-", hex.substr(0, 8), "-", hex.substr(8, 4), "-", hex.substr(12, 4), "-",
                      hex.substr(16, 4), "-", hex.substr(20));
}

int NumaNode(const std::string& sys, const std::string& pci_bus_id) {
  std::ifstream file(absl::StrCat(sys, "/bus/pci/devices/", pci_bus_id, "/numa_node"));
  int node = -1;
  if (!(file >> node) || node < 0) return -1;
  return node;
}

absl::StatusOr<DeviceInfo> Describe(int number, const std::string& sys) {
  const std::string what = absl::StrCat("describe device ", number);
  cudaDeviceProp properties;
  ZC_RETURN_IF_ERROR(ToStatus(cudaGetDeviceProperties(&properties, number), what));
  char pci[32] = {};
  ZC_RETURN_IF_ERROR(ToStatus(cudaDeviceGetPCIBusId(pci, sizeof(pci), number), what));
  DeviceInfo info;
  info.number = number;
  info.name = properties.name;
  info.uuid = UuidText(properties.uuid);
  // The kernel's names have small letters.
  info.pci_bus_id = absl::AsciiStrToLower(pci);
  info.numa_node = NumaNode(sys, info.pci_bus_id);
  info.total_bytes = static_cast<int64_t>(properties.totalGlobalMem);
  info.compute_capability = properties.major * 10 + properties.minor;
  return info;
}

}  // namespace

absl::StatusOr<std::vector<DeviceInfo>> ListDevices(const std::string& sys) {
  ZC_ASSIGN_OR_RETURN(const int count, DeviceCount());
  std::vector<DeviceInfo> devices;
  for (int number = 0; number < count; ++number) {
    ZC_ASSIGN_OR_RETURN(DeviceInfo info, Describe(number, sys));
    devices.push_back(std::move(info));
  }
  return devices;
}

absl::StatusOr<DeviceInfo> FindDevice(const std::string& uuid, const std::string& sys) {
  ZC_ASSIGN_OR_RETURN(const std::vector<DeviceInfo> devices, ListDevices(sys));
  for (const DeviceInfo& info : devices) {
    if (info.uuid == uuid) return info;
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "find device ", uuid, ": this process sees only ",
      absl::StrJoin(devices, ", ",
                    [](std::string* out, const DeviceInfo& info) { out->append(info.uuid); })));
}

}  // namespace zerocast
