#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/agent/cuda/cuda_copier.h"
#include "client/agent/cuda/shard_memory.h"
#include "client/agent/devices.h"
#include "client/agent/numa.h"
#include "kernels/base/status_macros.h"
#include "kernels/comm/nccl.h"
#include "kernels/device/buffer.h"
#include "kernels/device/devices.h"
#include "server/base/errors.h"

namespace zerocast {
namespace {

class LockedRange : public LockedMemory {
 public:
  LockedRange(PinnedRange range, std::byte* on_device)
      : range_(std::move(range)), on_device_(on_device) {}
  char* on_device() const override { return reinterpret_cast<char*>(on_device_); }

 private:
  const PinnedRange range_;
  std::byte* const on_device_;
};

class CudaDevices : public Devices {
 public:
  explicit CudaDevices(std::vector<DeviceInfo> infos) : infos_(std::move(infos)) {
    for (const DeviceInfo& info : infos_)
      makers_.push_back(std::make_unique<ShardMemoryMaker>(info));
  }

  int count() const override { return static_cast<int>(infos_.size()); }

  std::vector<DeviceSummary> List() const override {
    std::vector<DeviceSummary> list;
    for (const DeviceInfo& info : infos_) list.push_back({info.uuid, info.name, info.total_bytes});
    return list;
  }

  std::string Describe(int device) const override {
    const DeviceInfo& info = infos_[static_cast<size_t>(device)];
    return absl::StrCat(info.uuid, " (", info.name, ")");
  }

  cpu_set_t NearProcessors(int device) const override {
    return ProcessorsNear(infos_[static_cast<size_t>(device)].numa_node);
  }

  absl::StatusOr<std::unique_ptr<DeviceMemory>> Allocate(int device, int64_t num_bytes) override {
    return makers_[static_cast<size_t>(device)]->Make(num_bytes);
  }

  absl::StatusOr<std::unique_ptr<LockedMemory>> Lock(int device, char* memory,
                                                     int64_t num_bytes) override {
    const int number = infos_[static_cast<size_t>(device)].number;
    ZC_ASSIGN_OR_RETURN(PinnedRange range, PinnedRange::Create(number, memory, num_bytes));
    ZC_ASSIGN_OR_RETURN(std::byte* const on_device, range.AddressOn(number));
    return std::make_unique<LockedRange>(std::move(range), on_device);
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
  std::vector<std::unique_ptr<ShardMemoryMaker>> makers_;  // by device
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
