#include "kernels/device/copy_to_host.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/device/buffer.h"
#include "kernels/device/cuda_status.h"
#include "kernels/device/device_scope.h"
#include "kernels/device/event.h"
#include "kernels/device/stream.h"

namespace zerocast {
namespace {

constexpr int64_t kPieceBytes = int64_t{16} << 20;

}  // namespace

absl::Status RunAndWait(int device, const std::function<absl::Status(cudaStream_t)>& work,
                        absl::Duration timeout) {
  ZC_ASSIGN_OR_RETURN(const DeviceScope scope, DeviceScope::Enter(device));
  ZC_ASSIGN_OR_RETURN(const Stream stream, Stream::Create(device));
  ZC_ASSIGN_OR_RETURN(const Event done, Event::Create(device));
  ZC_RETURN_IF_ERROR(work(stream.get()));
  ZC_RETURN_IF_ERROR(done.Record(stream.get()));
  return done.Wait(timeout);
}

absl::Status CopyToHost(int device, const std::byte* from, absl::Span<char> to,
                        absl::Duration timeout) {
  const auto num_bytes = static_cast<int64_t>(to.size());
  if (num_bytes == 0) return absl::OkStatus();
  ZC_ASSIGN_OR_RETURN(const PinnedBuffer piece,
                      PinnedBuffer::Create(device, std::min(num_bytes, kPieceBytes)));
  for (int64_t at = 0; at < num_bytes; at += piece.num_bytes()) {
    const auto size = static_cast<size_t>(std::min(piece.num_bytes(), num_bytes - at));
    ZC_RETURN_IF_ERROR(RunAndWait(
        device,
        [&](cudaStream_t stream) {
          return ToStatus(
              cudaMemcpyAsync(piece.data(), from + at, size, cudaMemcpyDeviceToHost, stream),
              absl::StrCat("copy ", size, " bytes from device ", device, " to the host"));
        },
        timeout));
    std::memcpy(to.data() + at, piece.data(), size);
  }
  return absl::OkStatus();
}

}  // namespace zerocast
