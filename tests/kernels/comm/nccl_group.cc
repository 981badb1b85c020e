// Participants of one process, each on a thread, all on one GPU of the stand-ins, or each on a GPU
// of the machine; pinned memory.

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/mutex.h"
#include "kernels/comm/map_rendezvous.h"
#include "kernels/comm/nccl.h"
#include "tests/cuda_emu/cuda_emu.h"
#include "tests/kernels/comm/group.h"
#include "tests/status_matchers.h"

namespace zerocast {

namespace {

// Pinned memory that is used again: freeing it would wait for the device, that is for the calls of
// all other participants.
class Pool {
 public:
  ~Pool() {
    for (const auto& [memory, num_bytes] : all_) static_cast<void>(cudaFreeHost(memory));
  }

  void* New(size_t num_bytes) {
    // Powers of two, so that few sizes serve all.
    size_t rounded = 256;
    while (rounded < num_bytes) rounded *= 2;
    MutexLock lock(&mutex_);
    std::vector<void*>& free = free_[rounded];
    if (!free.empty()) {
      void* const memory = free.back();
      free.pop_back();
      return memory;
    }
    void* memory = nullptr;
    if (cudaHostAlloc(&memory, rounded, cudaHostAllocPortable) != cudaSuccess) std::abort();
    all_[memory] = rounded;
    return memory;
  }

  void Delete(void* memory) {
    MutexLock lock(&mutex_);
    free_[all_.at(memory)].push_back(memory);
  }

 private:
  Mutex mutex_;
  std::map<size_t, std::vector<void*>> free_ ABSL_GUARDED_BY(mutex_);
  std::map<void*, size_t> all_ ABSL_GUARDED_BY(mutex_);
};

Pool& ThePool() {
  static Pool pool;
  return pool;
}

}  // namespace

const bool kSenderLearnsOfSizes = false;

void* NewGroupMemory(size_t num_bytes) { return ThePool().New(num_bytes); }
void DeleteGroupMemory(void* memory) { ThePool().Delete(memory); }

std::string WhyNoGroup(int size) {
  if (cudaEmu() != nullptr) return "";
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) count = 0;
  if (count >= size) return "";
  return absl::StrCat("needs ", size, " GPUs, this machine has ", count);
}

Group MakeGroup(int size) {
  const auto rendezvous = std::make_shared<MapRendezvous>();
  Group group(size);
  const auto statuses = RunAll(size, [&](int r) {
    NcclOptions options;
    options.rank = r;
    options.device = cudaEmu() != nullptr ? 0 : r;
    options.size = size;
    options.rendezvous = rendezvous;
    auto made = NcclCommunicator::Create(options);
    if (made.ok()) group[r] = *std::move(made);
    return made.status();
  });
  for (const absl::Status& status : statuses) EXPECT_THAT(status, IsOk());
  return group;
}

}  // namespace zerocast
