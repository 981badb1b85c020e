#ifndef ZEROCAST_CLIENT_AGENT_CUDA_CUDA_COPIER_H_
#define ZEROCAST_CLIENT_AGENT_CUDA_CUDA_COPIER_H_

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "client/agent/cuda/staging_place.h"
#include "client/agent/device_copier.h"
#include "client/agent/memory_needs.h"
#include "kernels/base/mutex.h"
#include "kernels/device/buffer.h"
#include "kernels/device/event.h"
#include "kernels/device/stream.h"

namespace zerocast {

// Every wait that orders the work of a load on a device.  Without any one of them bytes are lost.
enum class CudaWait {
  kStagingCopied,   // host: a place's memory is written after the device has it
  kStagingUsed,     // copy stream: a place on the device is written after the kernel has read it
  kStagingArrived,  // compute stream: the kernel reads after its bytes have come
  kExchange,        // exchange stream: messages are sent, or written anew, after the kernels before
  kFinish,          // host: the arenas are used after the last kernel
};
inline constexpr CudaWait kCudaWaits[] = {CudaWait::kStagingCopied, CudaWait::kStagingUsed,
                                          CudaWait::kStagingArrived, CudaWait::kExchange,
                                          CudaWait::kFinish};

struct CudaCopierOptions {
  int device = 0;
  int num_threads = 1;  // that read
  // StagingBytes(): for what each reading thread reads at once.
  int64_t staging_bytes = 0;
  // Of the communicator, on the same device; null where nothing is exchanged.  Not owned.
  cudaStream_t exchange_stream = nullptr;
  // For tests: a wait that is left out.
  std::function<bool(CudaWait)> leaves_out;
};

// A DeviceCopier on one CUDA device.  Bytes go to it on a stream of copies, and kernels bring them
// to their places on another one; events alone order the two, the exchange, and the use of a place
// again.  Its memory, on the host and the device, is that of its places and messages, made before
// anything else.  None of it ever grows: what a place has not room for goes part by part, a large
// box as smaller ones; and none is freed before the end, for that waits for all work of the device,
// and so for what other participants have yet to send.
class CudaCopier : public DeviceCopier {
 public:
  // Without memory, until Reserve.  Errors: those of kernels/device.
  static absl::StatusOr<std::unique_ptr<CudaCopier>> Create(const CudaCopierOptions& options);
  // Makes the staging places; once, before anything else.  After an error the copier is of no use,
  // and its end frees memory: whoever waits for this participant must have been told before.
  // Errors: those of kernels/device.
  absl::Status Reserve();
  // Waits until the device is done with all that was started, at most a minute.
  ~CudaCopier() override;

  absl::StatusOr<char*> Acquire(size_t place, int64_t num_bytes, absl::Duration timeout) override;
  absl::Status Start(size_t place, int64_t num_bytes, absl::Span<const BoxCopy> copies,
                     absl::Duration timeout) override;
  absl::StatusOr<char*> ReserveMessages(size_t which, int64_t num_bytes) override;
  absl::Status OrderExchange() override;
  absl::Status Finish(absl::Duration timeout) override;

  // Bytes on the device beyond the arenas, at this moment.
  int64_t device_bytes() const;

 private:
  CudaCopier(const CudaCopierOptions& options, Stream copy, Stream compute, Event started);
  // Start()s as many launches as it takes.  The data is copied with the first of them.
  absl::Status StartParts(StagingPlace* staging, int64_t num_bytes,
                          absl::Span<const BoxCopy> copies, absl::Duration timeout,
                          bool* is_data_there);
  absl::Status StartDescribed(const StagingPlace& staging, bool with_data);
  bool Waits(CudaWait wait) const {
    return options_.leaves_out == nullptr || !options_.leaves_out(wait);
  }

  const CudaCopierOptions options_;
  const Stream copy_stream_, compute_stream_;
  const Event started_;  // all that was given to the compute stream, when somebody asks
  std::vector<StagingPlace> places_;
  mutable Mutex mutex_;
  std::vector<std::optional<DeviceBuffer>> messages_ ABSL_GUARDED_BY(mutex_);  // by number
};

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_CUDA_CUDA_COPIER_H_
