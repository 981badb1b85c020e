// Of a build without CUDA.

#include "absl/strings/str_cat.h"
#include "client/cpp/device_shard.h"
#include "server/base/errors.h"

namespace zerocast {
namespace {

absl::Status WithoutCuda(absl::string_view what) {
  return WithReason(
      absl::UnimplementedError(absl::StrCat(
          what, ": this zerocast was built without CUDA; build it with -DZEROCAST_CUDA=ON")),
      "UNSUPPORTED");
}

}  // namespace

absl::Status CanImport(const std::string& way, const std::string& device_uuid) {
  return WithoutCuda(absl::StrCat("take a shard over by \"", way, "\" on device ", device_uuid));
}

absl::StatusOr<std::unique_ptr<DeviceShard>> ImportDeviceShard(const DeviceOffer& offer) {
  return CanImport(offer.way, offer.device_uuid);
}

absl::StatusOr<std::unique_ptr<DeviceShard>> CopyShardToDevice(const std::string& device_uuid,
                                                               absl::Span<char>, absl::Status*) {
  return WithoutCuda(
      absl::StrCat("copy a shard to ", device_uuid.empty() ? "a device" : device_uuid));
}

}  // namespace zerocast
