// Of a build without CUDA.

#include "absl/strings/str_cat.h"
#include "client/cpp/device_shard.h"
#include "server/base/errors.h"

namespace zerocast {

absl::Status CanImport(const std::string& way, const std::string& device_uuid) {
  return WithReason(
      absl::UnimplementedError(
          absl::StrCat("take a shard over by \"", way, "\" on device ", device_uuid,
                       ": this zerocast was built without CUDA; build it with -DZEROCAST_CUDA=ON")),
      "UNSUPPORTED");
}

absl::StatusOr<std::unique_ptr<DeviceShard>> ImportDeviceShard(const std::string& way,
                                                               const std::string& device_uuid, int,
                                                               int64_t) {
  return CanImport(way, device_uuid);
}

}  // namespace zerocast
