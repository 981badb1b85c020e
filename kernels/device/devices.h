#ifndef ZEROCAST_KERNELS_DEVICE_DEVICES_H_
#define ZEROCAST_KERNELS_DEVICE_DEVICES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace zerocast {

struct DeviceInfo {
  int number = 0;          // in this process; CUDA_VISIBLE_DEVICES applies
  std::string name;        // "NVIDIA H100 80GB HBM3"
  std::string uuid;        // "GPU-01234567-89ab-...", as nvidia-smi -L says: the same everywhere
  std::string pci_bus_id;  // "0000:1b:00.0"
  int numa_node = -1;      // the host memory near it; -1 when the system does not say
  int64_t total_bytes = 0;
  int compute_capability = 0;  // 90 for 9.0
};

// All devices that this process sees, by number: at least one, or errors as DeviceCount.
// `sys` is where the kernel shows its devices.
absl::StatusOr<std::vector<DeviceInfo>> ListDevices(const std::string& sys = "/sys");

// The device of that UUID: INVALID_ARGUMENT naming those that there are when it is not among them.
absl::StatusOr<DeviceInfo> FindDevice(const std::string& uuid, const std::string& sys = "/sys");

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_DEVICE_DEVICES_H_
