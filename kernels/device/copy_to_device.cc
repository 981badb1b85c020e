#include "kernels/device/copy_to_device.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/device/buffer.h"
#include "kernels/device/copy_to_host.h"
#include "kernels/device/cuda_status.h"

namespace zerocast {
namespace {

constexpr int64_t kPieceBytes = int64_t{256} << 20;

}  // namespace

absl::Status CopyToDevice(int device, std::byte* to, absl::Span<char> from, absl::Status* locked,
                          absl::Duration timeout) {
  const auto num_bytes = static_cast<int64_t>(from.size());
  if (num_bytes == 0) return absl::OkStatus();
  absl::StatusOr<PinnedRange> range = absl::UnknownError("not wanted");
  if (locked != nullptr) {
    range = PinnedRange::Create(device, from.data(), num_bytes);
    *locked = range.status();
  }
  for (int64_t at = 0; at < num_bytes; at += kPieceBytes) {
    const auto size = static_cast<size_t>(std::min(kPieceBytes, num_bytes - at));
    ZC_RETURN_IF_ERROR(RunAndWait(
        device,
        [&](cudaStream_t stream) {
          return ToStatus(
              cudaMemcpyAsync(to + at, from.data() + at, size, cudaMemcpyHostToDevice, stream),
              absl::StrCat("copy ", size, " bytes from the host to device ", device));
        },
        timeout));
  }
  return absl::OkStatus();
}

}  // namespace zerocast
