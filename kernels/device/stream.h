#ifndef ZEROCAST_KERNELS_DEVICE_STREAM_H_
#define ZEROCAST_KERNELS_DEVICE_STREAM_H_

#include <cuda_runtime_api.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/device/unique_handle.h"

namespace zerocast {

// Owns a CUDA stream of one device; functions that only use it take the view, a cudaStream_t.
// Move-only; moved from, get() is null, which is not to be used: null names the default stream.
//
// Its methods may be called by several threads at once.
class Stream {
 public:
  // A stream that does not wait for the default stream.  Errors as DeviceScope::Enter.
  static absl::StatusOr<Stream> Create(int device);

  cudaStream_t get() const { return handle_.get(); }
  int device() const { return device_; }

  // Work that is given to this stream later starts after the work before `event`'s last record.
  // Does not block.
  absl::Status WaitFor(cudaEvent_t event) const;

 private:
  struct Traits {
    using Handle = cudaStream_t;
    static constexpr Handle kNull = nullptr;
    // Returns at once; the work that is in the stream still runs to its end.
    static void Destroy(Handle handle) noexcept;
  };
  Stream(cudaStream_t handle, int device) : handle_(handle), device_(device) {}

  UniqueHandle<Traits> handle_;
  int device_;
};

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_DEVICE_STREAM_H_
