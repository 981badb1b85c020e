#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "client/cpp/device_shard.h"
#include "kernels/base/status_macros.h"
#include "kernels/device/copy_to_host.h"
#include "kernels/device/devices.h"
#include "kernels/device/exportable_buffer.h"
#include "server/base/errors.h"

namespace zerocast {
namespace {

class CudaShard : public DeviceShard {
 public:
  explicit CudaShard(ExportableBuffer buffer) : buffer_(std::move(buffer)) {}

  char* data() const override { return reinterpret_cast<char*>(buffer_.data()); }
  absl::Status CopyToHost(int64_t offset, absl::Span<char> to) const override {
    return zerocast::CopyToHost(buffer_.device(), buffer_.data() + offset, to, absl::Minutes(1));
  }

 private:
  const ExportableBuffer buffer_;
};

}  // namespace

absl::Status CanImport(const std::string& way, const std::string& device_uuid) {
  if (way == "cuda_vmm") return FindDevice(device_uuid).status();
  return WithReason(absl::UnimplementedError(absl::StrCat(
                        "take a shard over by \"", way, "\": this client does not know that way")),
                    "UNSUPPORTED");
}

absl::StatusOr<std::unique_ptr<DeviceShard>> ImportDeviceShard(const std::string& way,
                                                               const std::string& device_uuid,
                                                               int descriptor, int64_t num_bytes) {
  ZC_RETURN_IF_ERROR(CanImport(way, device_uuid));
  ZC_ASSIGN_OR_RETURN(const DeviceInfo device, FindDevice(device_uuid));
  ZC_ASSIGN_OR_RETURN(ExportableBuffer buffer,
                      ExportableBuffer::Import(device.number, descriptor, num_bytes));
  return std::make_unique<CudaShard>(std::move(buffer));
}

}  // namespace zerocast
