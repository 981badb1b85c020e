#include "client/agent/cuda/shard_memory.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <optional>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
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

class CudaMemory : public DeviceMemory {
 public:
  CudaMemory(const DeviceInfo& info, Memory memory, int64_t num_bytes,
             std::shared_ptr<const DeviceTrial> trial, std::string because)
      : number_(info.number),
        uuid_(info.uuid),
        memory_(std::move(memory)),
        num_bytes_(num_bytes),
        trial_(std::move(trial)),
        because_(std::move(because)) {}

  char* data() const override { return reinterpret_cast<char*>(memory_.data()); }
  int64_t num_bytes() const override { return num_bytes_; }
  const DeviceTicket& ticket() const override { return memory_.ticket; }
  const DeviceTrial& trial() const override { return *trial_; }
  std::string because() const override { return because_; }
  std::string device_uuid() const override { return uuid_; }

  absl::Status CopyToHost(int64_t offset, absl::Span<char> to) const override {
    return zerocast::CopyToHost(number_, memory_.data() + offset, to, kCopyTimeout);
  }

 private:
  const int number_;
  const std::string uuid_;
  const Memory memory_;
  const int64_t num_bytes_;
  const std::shared_ptr<const DeviceTrial> trial_;
  const std::string because_;
};

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

absl::StatusOr<std::shared_ptr<const DeviceTrial>> ShardMemoryMaker::TrialOf(
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

absl::StatusOr<std::unique_ptr<DeviceMemory>> ShardMemoryMaker::MakeOf(const std::string& way,
                                                                       int64_t num_bytes,
                                                                       const std::string& because) {
  ZC_ASSIGN_OR_RETURN(std::shared_ptr<const DeviceTrial> trial, TrialOf(way));
  // Of a model without parameters there is still something to hand over.
  const int64_t allocated = std::max<int64_t>(1, num_bytes);
  ZC_ASSIGN_OR_RETURN(Memory memory, Allocate(way, info_.number, allocated));
  ZC_RETURN_IF_ERROR(RunAndWait(
      info_.number,
      [&memory, allocated](cudaStream_t stream) {
        return ToStatus(cudaMemsetAsync(memory.data(), 0, static_cast<size_t>(allocated), stream),
                        "clear a shard's memory");
      },
      kCopyTimeout));
  return std::make_unique<CudaMemory>(info_, std::move(memory), num_bytes, std::move(trial),
                                      because);
}

absl::StatusOr<std::unique_ptr<DeviceMemory>> ShardMemoryMaker::Make(int64_t num_bytes) {
  std::string because;
  absl::Status status;
  for (const char* const way : kWays) {
    absl::StatusOr<std::unique_ptr<DeviceMemory>> memory = MakeOf(way, num_bytes, because);
    if (memory.ok()) return memory;
    status = memory.status();
    if (!IsReasonForAnotherWay(status)) break;
    absl::StrAppend(&because, because.empty() ? "" : "; ", "not ", way, ": ", status.message());
  }
  return status;
}

}  // namespace zerocast
