#include "tests/kernels/copy/cuda/on_device.h"

#include <cuda_runtime_api.h>

#include <cstring>

#include "absl/time/time.h"
#include "absl/types/span.h"
#include "kernels/base/status_macros.h"
#include "kernels/copy/cuda/launch.h"
#include "kernels/device/cuda_status.h"
#include "kernels/device/event.h"

namespace zerocast::copy_testing {
namespace {

template <typename T>
std::vector<uint8_t> BytesOf(const std::vector<T>& items) {
  std::vector<uint8_t> bytes(items.size() * sizeof(T));
  std::memcpy(bytes.data(), items.data(), bytes.size());
  return bytes;
}

template <typename T>
absl::Span<const T> ItemsIn(const DeviceBuffer& buffer) {
  return absl::MakeConstSpan(reinterpret_cast<const T*>(buffer.data()),
                             buffer.num_bytes() / sizeof(T));
}

}  // namespace

absl::StatusOr<DeviceBuffer> Upload(const std::vector<uint8_t>& bytes, const Stream& stream) {
  const auto num_bytes = static_cast<int64_t>(bytes.size());
  ZC_ASSIGN_OR_RETURN(DeviceBuffer buffer, DeviceBuffer::Create(stream.device(), num_bytes));
  ZC_RETURN_IF_ERROR(ToStatus(
      cudaMemcpyAsync(buffer.data(), bytes.data(), num_bytes, cudaMemcpyHostToDevice, stream.get()),
      "copy to the device"));
  return buffer;
}

absl::Status WaitFor(const Stream& stream) {
  ZC_ASSIGN_OR_RETURN(const Event done, Event::Create(stream.device()));
  ZC_RETURN_IF_ERROR(done.Record(stream.get()));
  return done.Wait(absl::Minutes(1));
}

absl::StatusOr<std::vector<uint8_t>> Download(const DeviceBuffer& buffer, const Stream& stream) {
  std::vector<uint8_t> bytes(buffer.num_bytes());
  ZC_RETURN_IF_ERROR(ToStatus(cudaMemcpyAsync(bytes.data(), buffer.data(), bytes.size(),
                                              cudaMemcpyDeviceToHost, stream.get()),
                              "copy from the device"));
  ZC_RETURN_IF_ERROR(WaitFor(stream));
  return bytes;
}

absl::Status RunBatch(const CopyBatch& batch, const Stream& stream) {
  ZC_ASSIGN_OR_RETURN(const DeviceBuffer pieces, Upload(BytesOf(batch.pieces), stream));
  ZC_ASSIGN_OR_RETURN(const DeviceBuffer firsts, Upload(BytesOf(batch.first_elements), stream));
  ZC_RETURN_IF_ERROR(LaunchCopyBoxes(ItemsIn<CopyPiece>(pieces), ItemsIn<int64_t>(firsts),
                                     batch.num_elements(), batch.source_dtype, batch.target_dtype,
                                     stream.get()));
  return WaitFor(stream);
}

absl::Status RunBatch(const DecodeBatch& batch, const Stream& stream) {
  ZC_ASSIGN_OR_RETURN(const DeviceBuffer pieces, Upload(BytesOf(batch.pieces), stream));
  ZC_ASSIGN_OR_RETURN(const DeviceBuffer firsts, Upload(BytesOf(batch.first_elements), stream));
  ZC_RETURN_IF_ERROR(LaunchDecodeBoxes(ItemsIn<DecodePiece>(pieces), ItemsIn<int64_t>(firsts),
                                       batch.num_elements(), batch.target_dtype, stream.get()));
  return WaitFor(stream);
}

}  // namespace zerocast::copy_testing
