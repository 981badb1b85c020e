#ifndef ZEROCAST_KERNELS_DEVICE_EXPORTABLE_BUFFER_H_
#define ZEROCAST_KERNELS_DEVICE_EXPORTABLE_BUFFER_H_

#include <cuda.h>

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/device/unique_handle.h"

namespace zerocast {

struct DescriptorTraits {
  using Handle = int;
  static constexpr Handle kNull = -1;
  static void Destroy(Handle handle) noexcept;
};
// Owns a file descriptor.
using Descriptor = UniqueHandle<DescriptorTraits>;

// OK when memory of `device` can be given to other processes as a file descriptor; else
// UNIMPLEMENTED with what the device or its driver lacks, or errors as DeviceScope::Enter.
absl::Status CanExport(int device);

// Owns memory of one device that a file descriptor can stand for (CUDA's virtual memory
// management), or memory that another process gave by one.  Aligned to at least 2 MiB, with
// undefined contents when new.  Only its own device may use it, unless peers are let in. Move-only;
// moved from, it is empty.  Host code must not follow data().
//
// The memory lives as long as any process has it mapped or holds a descriptor of it.  The end of a
// buffer waits for all work of the device: unmapping does.
class ExportableBuffer {
 public:
  // The device gives whole granules: mapped_bytes() says what that takes.  INVALID_ARGUMENT when
  // num_bytes < 1, RESOURCE_EXHAUSTED when the device has no such room, UNIMPLEMENTED as CanExport;
  // else errors as DeviceScope::Enter.
  static absl::StatusOr<ExportableBuffer> Create(int device, int64_t num_bytes);

  // Maps what another process made by Create(device, num_bytes) of the same GPU, whose number may
  // be another one there, and exported; the descriptor is the caller's and may be closed
  // afterwards. Errors: INTERNAL when the descriptor is of something else or of less memory; else
  // as Create.
  static absl::StatusOr<ExportableBuffer> Import(int device, int descriptor, int64_t num_bytes);

  // A new descriptor of the memory, to be passed to another process (SCM_RIGHTS).
  absl::StatusOr<Descriptor> Export() const;

  std::byte* data() const { return reinterpret_cast<std::byte*>(mapping_.get().address); }
  int64_t num_bytes() const { return mapping_.empty() ? 0 : num_bytes_; }
  // What it takes of the device's memory: num_bytes() rounded up to whole granules.
  int64_t mapped_bytes() const { return static_cast<int64_t>(mapping_.get().num_bytes); }
  int device() const { return device_; }

 private:
  struct Range {
    CUdeviceptr address;
    size_t num_bytes;
    bool operator==(const Range& other) const { return address == other.address; }
  };
  struct AllocationTraits {
    using Handle = CUmemGenericAllocationHandle;
    static constexpr Handle kNull = 0;
    static void Destroy(Handle handle) noexcept;
  };
  struct ReservationTraits {
    using Handle = Range;
    static constexpr Handle kNull = {0, 0};
    static void Destroy(Handle handle) noexcept;
  };
  struct MappingTraits {
    using Handle = Range;
    static constexpr Handle kNull = {0, 0};
    static void Destroy(Handle handle) noexcept;
  };
  using Allocation = UniqueHandle<AllocationTraits>;

  static absl::StatusOr<ExportableBuffer> Map(Allocation allocation, int device, int64_t num_bytes,
                                              size_t mapped_bytes);

  ExportableBuffer(int device, int64_t num_bytes) : device_(device), num_bytes_(num_bytes) {}

  int device_;
  int64_t num_bytes_;
  // Ends in the opposite order: unmapped, addresses given back, memory given back.
  Allocation allocation_;
  UniqueHandle<ReservationTraits> reservation_;
  UniqueHandle<MappingTraits> mapping_;
};

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_DEVICE_EXPORTABLE_BUFFER_H_
