#include <algorithm>
#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/agent/cuda/cuda_copier.h"
#include "client/agent/devices.h"
#include "kernels/base/status_macros.h"
#include "kernels/comm/nccl.h"
#include "kernels/device/copy_to_host.h"
#include "kernels/device/cuda_status.h"
#include "kernels/device/devices.h"
#include "kernels/device/exportable_buffer.h"
#include "server/base/errors.h"

namespace zerocast {
namespace {

// The longest that a copy out of a device, or the clearing of its memory, may take.
constexpr absl::Duration kCopyTimeout = absl::Minutes(1);
class CudaMemory : public DeviceMemory {
 public:
  static absl::StatusOr<std::unique_ptr<CudaMemory>> Create(const DeviceInfo& info,
                                                            int64_t num_bytes) {
    // Of a model without parameters there is still something to hand over.
    ZC_ASSIGN_OR_RETURN(ExportableBuffer buffer,
                        ExportableBuffer::Create(info.number, std::max<int64_t>(1, num_bytes)));
    ZC_ASSIGN_OR_RETURN(Descriptor descriptor, buffer.Export());
    ZC_RETURN_IF_ERROR(RunAndWait(
        info.number,
        [&buffer](cudaStream_t stream) {
          return ToStatus(
              cudaMemsetAsync(buffer.data(), 0, static_cast<size_t>(buffer.num_bytes()), stream),
              "clear a shard's memory");
        },
        kCopyTimeout));
    return std::unique_ptr<CudaMemory>(
        new CudaMemory(std::move(buffer), std::move(descriptor), num_bytes, info.uuid));
  }

  char* data() const override { return reinterpret_cast<char*>(buffer_.data()); }
  int64_t num_bytes() const override { return num_bytes_; }
  std::string way() const override { return "cuda_vmm"; }
  int fd() const override { return descriptor_.get(); }
  int64_t allocation_bytes() const override { return buffer_.mapped_bytes(); }
  std::string device_uuid() const override { return uuid_; }

  absl::Status CopyToHost(int64_t offset, absl::Span<char> to) const override {
    return zerocast::CopyToHost(buffer_.device(), buffer_.data() + offset, to, kCopyTimeout);
  }

 private:
  CudaMemory(ExportableBuffer buffer, Descriptor descriptor, int64_t num_bytes, std::string uuid)
      : buffer_(std::move(buffer)),
        descriptor_(std::move(descriptor)),
        num_bytes_(num_bytes),
        uuid_(std::move(uuid)) {}

  const ExportableBuffer buffer_;
  const Descriptor descriptor_;
  const int64_t num_bytes_;
  const std::string uuid_;
};

class CudaDevices : public Devices {
 public:
  explicit CudaDevices(std::vector<DeviceInfo> infos) : infos_(std::move(infos)) {}

  int count() const override { return static_cast<int>(infos_.size()); }

  std::string Describe(int device) const override {
    const DeviceInfo& info = infos_[static_cast<size_t>(device)];
    return absl::StrCat(info.uuid, " (", info.name, ")");
  }

  absl::StatusOr<std::unique_ptr<DeviceMemory>> Allocate(int device, int64_t num_bytes) override {
    ZC_ASSIGN_OR_RETURN(std::unique_ptr<CudaMemory> memory,
                        CudaMemory::Create(infos_[static_cast<size_t>(device)], num_bytes));
    return memory;
  }

  absl::StatusOr<std::unique_ptr<Communicator>> Connect(
      int device, const CommunicatorRequest& request) override {
    NcclOptions options;
    options.device = infos_[static_cast<size_t>(device)].number;
    options.rank = request.node;
    options.size = request.num_nodes;
    options.rendezvous = request.rendezvous;
    options.connect_timeout = request.timeout;
    options.cancelled = request.cancelled;
    ZC_ASSIGN_OR_RETURN(std::unique_ptr<NcclCommunicator> communicator,
                        NcclCommunicator::Create(options));
    return communicator;
  }

  absl::StatusOr<std::shared_ptr<DeviceCopier>> MakeCopier(int device, int num_threads,
                                                           int64_t staging_bytes,
                                                           Communicator* communicator) override {
    CudaCopierOptions options;
    options.device = infos_[static_cast<size_t>(device)].number;
    options.num_threads = num_threads;
    options.staging_bytes = staging_bytes;
    // All that Connect makes are of this kind.
    if (communicator != nullptr) {
      options.exchange_stream = static_cast<NcclCommunicator*>(communicator)->stream();
    }
    ZC_ASSIGN_OR_RETURN(std::unique_ptr<CudaCopier> copier, CudaCopier::Create(options));
    const absl::Status status = copier->Reserve();
    if (!status.ok() && communicator != nullptr) communicator->Abort(status.message());
    ZC_RETURN_IF_ERROR(status);
    return std::shared_ptr<DeviceCopier>(std::move(copier));
  }

 private:
  const std::vector<DeviceInfo> infos_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<Devices>> FindCudaDevices(int part, int num_parts) {
  absl::StatusOr<std::vector<DeviceInfo>> infos = ListDevices();
  if (!infos.ok()) return WithReason(infos.status(), "UNSUPPORTED");
  const auto count = static_cast<std::ptrdiff_t>(infos->size());
  infos->erase(infos->begin() + count * (part + 1) / num_parts, infos->end());
  infos->erase(infos->begin(), infos->begin() + count * part / num_parts);
  return std::make_shared<CudaDevices>(*std::move(infos));
}

}  // namespace zerocast
