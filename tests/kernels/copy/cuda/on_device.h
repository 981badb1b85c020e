#ifndef ZEROCAST_TESTS_KERNELS_COPY_CUDA_ON_DEVICE_H_
#define ZEROCAST_TESTS_KERNELS_COPY_CUDA_ON_DEVICE_H_

// Batches for the copy kernel, run on device 0.

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/copy/cuda/copy_batch.h"
#include "kernels/copy/cuda/decode_batch.h"
#include "kernels/device/buffer.h"
#include "kernels/device/stream.h"

namespace zerocast::copy_testing {

// Copies of `bytes` in new device memory, once `stream` has got there.
absl::StatusOr<DeviceBuffer> Upload(const std::vector<uint8_t>& bytes, const Stream& stream);

// Waits for all work of the stream, at most a minute.
absl::Status WaitFor(const Stream& stream);

// What lies in the buffer after all work of the stream.
absl::StatusOr<std::vector<uint8_t>> Download(const DeviceBuffer& buffer, const Stream& stream);

// Runs a batch and waits for it.
absl::Status RunBatch(const CopyBatch& batch, const Stream& stream);
absl::Status RunBatch(const DecodeBatch& batch, const Stream& stream);

}  // namespace zerocast::copy_testing

#endif  // ZEROCAST_TESTS_KERNELS_COPY_CUDA_ON_DEVICE_H_
