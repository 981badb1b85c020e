#include "client/agent/cuda/shard_memory.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <functional>
#include <map>
#include <optional>
#include <random>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "kernels/base/mutex.h"
#include "kernels/base/status_macros.h"
#include "kernels/device/buffer.h"
#include "kernels/device/copy_to_host.h"
#include "kernels/device/cuda_status.h"
#include "kernels/device/exportable_buffer.h"
#include "kernels/device/ipc_buffer.h"

namespace zerocast {
namespace {

// The longest that a copy out of a device, or the clearing of its memory, may take.
constexpr absl::Duration kCopyTimeout = absl::Minutes(1);
constexpr int64_t kTrialBytes = 16;
constexpr int64_t kBlockBytes = int64_t{2} << 20;
// From the best on.
constexpr const char* kWays[] = {"cuda_vmm", "cuda_ipc", "host_copy"};

// Memory of a device with its ticket.  Move-only.
struct Memory {
  std::optional<ExportableBuffer> exportable;
  Descriptor descriptor;
  std::optional<DeviceBuffer> plain;
  DeviceTicket ticket;

  std::byte* data() const { return exportable.has_value() ? exportable->data() : plain->data(); }
};

absl::StatusOr<Memory> Allocate(const std::string& way, int device, int64_t num_bytes) {
  Memory memory;
  memory.ticket.way = way;
  if (way == "cuda_vmm") {
    ZC_ASSIGN_OR_RETURN(memory.exportable, ExportableBuffer::Create(device, num_bytes));
    ZC_ASSIGN_OR_RETURN(memory.descriptor, memory.exportable->Export());
    memory.ticket.fd = memory.descriptor.get();
    memory.ticket.allocation_bytes = memory.exportable->mapped_bytes();
    return memory;
  }
  // Who opens a handle gets at all of the driver's block: nothing else is to lie in it.
  const int64_t whole_blocks = (num_bytes + kBlockBytes - 1) / kBlockBytes * kBlockBytes;
  ZC_ASSIGN_OR_RETURN(memory.plain, DeviceBuffer::Create(device, whole_blocks));
  if (way == "cuda_ipc") {
    ZC_ASSIGN_OR_RETURN(memory.ticket.handle, ExportIpc(*memory.plain));
  }
  memory.ticket.allocation_bytes = whole_blocks;
  return memory;
}

// False for what another kind of memory would meet, too.
bool IsReasonForAnotherWay(const absl::Status& status) {
  return !absl::IsResourceExhausted(status) && !absl::IsFailedPrecondition(status) &&
         !absl::IsInvalidArgument(status) && !absl::IsUnavailable(status);
}

// A trial that owns its memory.
struct OwnedTrial {
  DeviceTrial trial;
  Memory memory;
};

std::string RandomBytes(int64_t num_bytes) {
  std::random_device random;
  std::string bytes;
  for (int64_t k = 0; k < num_bytes; ++k) bytes.push_back(static_cast<char>(random()));
  return bytes;
}

}  // namespace

// Makes memory of one device by a given way.
class ShardMemoryMaker::OneDevice : public std::enable_shared_from_this<OneDevice> {
 public:
  // Starts to write what new memory is to hold.
  using Fill = std::function<absl::Status(std::byte* memory, cudaStream_t stream)>;

  explicit OneDevice(DeviceInfo info) : info_(std::move(info)) {}

  absl::StatusOr<std::unique_ptr<DeviceMemory>> Make(const std::string& way, int64_t num_bytes,
                                                     const std::string& because, const Fill& fill);

 private:
  class Shard;

  // Made with the first memory of that way, and kept: it is small.
  absl::StatusOr<std::shared_ptr<const DeviceTrial>> TrialOf(const std::string& way);

  const DeviceInfo info_;
  Mutex mutex_;
  std::map<std::string, std::shared_ptr<const DeviceTrial>> trials_ ABSL_GUARDED_BY(mutex_);
};

class ShardMemoryMaker::OneDevice::Shard : public DeviceMemory {
 public:
  Shard(std::shared_ptr<OneDevice> device, Memory memory, int64_t num_bytes,
        std::shared_ptr<const DeviceTrial> trial, std::string because)
      : device_(std::move(device)),
        memory_(std::move(memory)),
        num_bytes_(num_bytes),
        trial_(std::move(trial)),
        because_(std::move(because)) {}

  char* data() const override { return reinterpret_cast<char*>(memory_.data()); }
  int64_t num_bytes() const override { return num_bytes_; }
  const DeviceTicket& ticket() const override { return memory_.ticket; }
  const DeviceTrial& trial() const override { return *trial_; }
  std::string because() const override { return because_; }
  std::string device_uuid() const override { return device_->info_.uuid; }

  absl::Status CopyToHost(int64_t offset, absl::Span<char> to) const override {
    return zerocast::CopyToHost(device_->info_.number, memory_.data() + offset, to, kCopyTimeout);
  }

  absl::StatusOr<std::unique_ptr<DeviceMemory>> CopyWithHandle() const override {
    return device_->Make(
        "cuda_ipc", num_bytes_, because_, [this](std::byte* copy, cudaStream_t stream) {
          return ToStatus(cudaMemcpyAsync(copy, memory_.data(), static_cast<size_t>(num_bytes_),
                                          cudaMemcpyDeviceToDevice, stream),
                          "copy a shard within its device");
        });
  }

 private:
  const std::shared_ptr<OneDevice> device_;
  const Memory memory_;
  const int64_t num_bytes_;
  const std::shared_ptr<const DeviceTrial> trial_;
  const std::string because_;
};

absl::StatusOr<std::shared_ptr<const DeviceTrial>> ShardMemoryMaker::OneDevice::TrialOf(
    const std::string& way) {
  if (way == "host_copy") return std::make_shared<const DeviceTrial>();
  {
    MutexLock lock(&mutex_);
    const auto found = trials_.find(way);
    if (found != trials_.end()) return found->second;
  }
  auto owned = std::make_shared<OwnedTrial>();
  ZC_ASSIGN_OR_RETURN(owned->memory, Allocate(way, info_.number, kTrialBytes));
  owned->trial.ticket = owned->memory.ticket;
  owned->trial.bytes = RandomBytes(kTrialBytes);
  ZC_RETURN_IF_ERROR(RunAndWait(
      info_.number,
      [&owned](cudaStream_t stream) {
        return ToStatus(cudaMemcpyAsync(owned->memory.data(), owned->trial.bytes.data(),
                                        owned->trial.bytes.size(), cudaMemcpyHostToDevice, stream),
                        "write what processes find in memory for trial");
      },
      kCopyTimeout));
  std::shared_ptr<const DeviceTrial> trial(owned, &owned->trial);
  MutexLock lock(&mutex_);
  // Another thread may have been faster; then it is that one's.
  return trials_.emplace(way, std::move(trial)).first->second;
}

absl::StatusOr<std::unique_ptr<DeviceMemory>> ShardMemoryMaker::OneDevice::Make(
    const std::string& way, int64_t num_bytes, const std::string& because, const Fill& fill) {
  ZC_ASSIGN_OR_RETURN(std::shared_ptr<const DeviceTrial> trial, TrialOf(way));
  // Of a model without parameters there is still something to hand over.
  ZC_ASSIGN_OR_RETURN(Memory memory, Allocate(way, info_.number, std::max<int64_t>(1, num_bytes)));
  ZC_RETURN_IF_ERROR(RunAndWait(
      info_.number, [&memory, &fill](cudaStream_t stream) { return fill(memory.data(), stream); },
      kCopyTimeout));
  return std::make_unique<Shard>(shared_from_this(), std::move(memory), num_bytes, std::move(trial),
                                 because);
}

ShardMemoryMaker::ShardMemoryMaker(DeviceInfo info)
    : device_(std::make_shared<OneDevice>(std::move(info))) {}

absl::StatusOr<std::unique_ptr<DeviceMemory>> ShardMemoryMaker::Make(int64_t num_bytes) {
  const auto clear = [num_bytes](std::byte* memory, cudaStream_t stream) {
    return ToStatus(cudaMemsetAsync(memory, 0, static_cast<size_t>(num_bytes), stream),
                    "clear a shard's memory");
  };
  std::string because;
  absl::Status status;
  for (const char* const way : kWays) {
    absl::StatusOr<std::unique_ptr<DeviceMemory>> memory =
        device_->Make(way, num_bytes, because, clear);
    if (memory.ok()) return memory;
    status = memory.status();
    if (!IsReasonForAnotherWay(status)) break;
    absl::StrAppend(&because, because.empty() ? "" : "; ", "not ", way, ": ", status.message());
  }
  return status;
}

}  // namespace zerocast
