#ifndef ZEROCAST_CLIENT_AGENT_CUDA_STAGING_PLACE_H_
#define ZEROCAST_CLIENT_AGENT_CUDA_STAGING_PLACE_H_

#include <cuda_runtime_api.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "client/agent/box_copy.h"
#include "kernels/copy/cuda/mixed_batch.h"
#include "kernels/device/buffer.h"
#include "kernels/device/event.h"

namespace zerocast {

// Memory twice, page-locked on the host and on a device.  Move-only.
class StagingMemory {
 public:
  StagingMemory() = default;
  // `num_bytes` of both, aligned to 4096 on the host and to 256 on the device.  Once: it never
  // grows.  Frees nothing, after an error neither.  Errors: those of kernels/device.
  absl::Status Reserve(int device, int64_t num_bytes);

  std::byte* host() const { return host_data_; }
  std::byte* device() const { return device_.has_value() ? device_->data() : nullptr; }
  int64_t num_bytes() const { return num_bytes_; }
  int64_t device_bytes() const { return device_.has_value() ? device_->num_bytes() : 0; }

 private:
  std::optional<PinnedBuffer> host_;
  std::optional<DeviceBuffer> device_;
  std::byte* host_data_ = nullptr;
  int64_t num_bytes_ = 0;
};

// `copy` in two, which together do the same; none where it has one element only.  Errors: those of
// MakeBox.
absl::StatusOr<std::vector<BoxCopy>> HalvesOf(const BoxCopy& copy);

// One place of the ring: what is read at once, behind it the scales that its kernel needs, sources
// that the file does not align, and the descriptors of its boxes: one copy to the device.
// Thread-compatible.
class StagingPlace {
 public:
  // Without memory, until Reserve.  Errors: those of kernels/device.
  static absl::StatusOr<StagingPlace> Create(int device);
  // Room for `num_bytes`, of data and of what lies behind it, once.  Errors: those of
  // kernels/device.
  absl::Status Reserve(int64_t num_bytes);

  // Host memory for `num_bytes` of data, aligned to 4096, while nobody uses the place.  Errors:
  // INTERNAL where the place was made for less.
  absl::StatusOr<std::byte*> Data(int64_t num_bytes);

  // Describes `copies`, whose sources are in the first `num_bytes` bytes of Data() or elsewhere on
  // the device, for its kernel.  False where there is not room for it besides: describe fewer, or
  // halves of one (HalvesOf).  Errors: those of MixedBatch::Make.
  absl::StatusOr<bool> Describe(int64_t num_bytes, absl::Span<const BoxCopy> copies);

  // Copies what Describe described to the device, the data too unless it is there, and runs its
  // kernels.  The first on `copy`, a stream of the device, the second on `compute`.
  absl::Status CopyToDevice(cudaStream_t copy, bool with_data) const;
  absl::Status Launch(cudaStream_t compute) const;

  // Marked when the host's memory, and the device's, may be written again.
  const Event& copied() const { return copied_; }
  const Event& used() const { return used_; }

  int64_t device_bytes() const { return memory_.device_bytes(); }

 private:
  StagingPlace(int device, Event copied, Event used)
      : device_(device), copied_(std::move(copied)), used_(std::move(used)) {}
  MixedBox Placed(const BoxCopy& copy);
  const std::byte* PlaceMore(const char* bytes, int64_t num_bytes);

  int device_;
  Event copied_, used_;
  StagingMemory memory_;
  int64_t data_bytes_ = 0;
  int64_t num_bytes_ = 0;  // to copy, the data included; may be more than there is room for
  int64_t descriptors_at_ = 0;
  std::vector<MixedBox> boxes_;
  std::optional<MixedBatch> batch_;
};

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_CUDA_STAGING_PLACE_H_
