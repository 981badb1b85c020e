#include <type_traits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "client/cpp/device_shard.h"
#include "kernels/base/status_macros.h"
#include "kernels/device/buffer.h"
#include "kernels/device/copy_to_device.h"
#include "kernels/device/copy_to_host.h"
#include "kernels/device/devices.h"
#include "kernels/device/exportable_buffer.h"
#include "kernels/device/ipc_buffer.h"
#include "server/base/errors.h"

namespace zerocast {
namespace {

// Of each piece of a copy.
constexpr absl::Duration kCopyTimeout = absl::Minutes(1);

// Memory that `Buffer` owns, or has mapped.
template <typename Buffer>
class CudaShard : public DeviceShard {
 public:
  CudaShard(DeviceInfo device, Buffer buffer, std::shared_ptr<const void> connection = nullptr)
      : device_(std::move(device)),
        connection_(std::move(connection)),
        buffer_(std::move(buffer)) {}

  char* data() const override { return reinterpret_cast<char*>(buffer_.data()); }
  std::string device_uuid() const override { return device_.uuid; }
  absl::Status CopyToHost(int64_t offset, absl::Span<char> to) const override {
    return zerocast::CopyToHost(device_.number, buffer_.data() + offset, to, kCopyTimeout);
  }
  absl::Status Close() override {
    if constexpr (std::is_same_v<Buffer, IpcBuffer>) return buffer_.Close();
    return absl::OkStatus();
  }

 private:
  const DeviceInfo device_;
  const std::shared_ptr<const void> connection_;  // ends after the mapping
  Buffer buffer_;
};

}  // namespace

absl::Status CanImport(const std::string& way, const std::string& device_uuid) {
  if (way == "cuda_vmm" || way == "cuda_ipc") return FindDevice(device_uuid).status();
  return WithReason(absl::UnimplementedError(absl::StrCat(
                        "take a shard over by \"", way, "\": this client does not know that way")),
                    "UNSUPPORTED");
}

absl::StatusOr<std::unique_ptr<DeviceShard>> ImportDeviceShard(const DeviceOffer& offer) {
  ZC_RETURN_IF_ERROR(CanImport(offer.way, offer.device_uuid));
  ZC_ASSIGN_OR_RETURN(DeviceInfo device, FindDevice(offer.device_uuid));
  if (offer.way == "cuda_vmm") {
    ZC_ASSIGN_OR_RETURN(ExportableBuffer buffer,
                        ExportableBuffer::Import(device.number, offer.descriptor, offer.num_bytes));
    return std::make_unique<CudaShard<ExportableBuffer>>(std::move(device), std::move(buffer));
  }
  ZC_ASSIGN_OR_RETURN(IpcBuffer buffer,
                      IpcBuffer::Import(device.number, offer.handle, offer.num_bytes));
  return std::make_unique<CudaShard<IpcBuffer>>(std::move(device), std::move(buffer),
                                                offer.connection);
}

absl::StatusOr<std::unique_ptr<DeviceShard>> CopyShardToDevice(const std::string& device_uuid,
                                                               absl::Span<char> from,
                                                               absl::Status* locked) {
  DeviceInfo device;
  if (device_uuid.empty()) {
    ZC_ASSIGN_OR_RETURN(std::vector<DeviceInfo> devices, ListDevices());
    device = std::move(devices.front());
  } else {
    ZC_ASSIGN_OR_RETURN(device, FindDevice(device_uuid));
  }
  ZC_ASSIGN_OR_RETURN(DeviceBuffer buffer,
                      DeviceBuffer::Create(device.number, static_cast<int64_t>(from.size())));
  ZC_RETURN_IF_ERROR(CopyToDevice(device.number, buffer.data(), from, locked, kCopyTimeout));
  return std::make_unique<CudaShard<DeviceBuffer>>(std::move(device), std::move(buffer));
}

}  // namespace zerocast
