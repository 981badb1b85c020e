#ifndef ZEROCAST_CLIENT_AGENT_DEVICES_H_
#define ZEROCAST_CLIENT_AGENT_DEVICES_H_

#include <sched.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "client/agent/communicators.h"
#include "client/agent/device_copier.h"
#include "client/agent/device_memory.h"
#include "kernels/base/mutex.h"
#include "kernels/comm/communicator.h"

namespace zerocast {

struct DeviceSummary {
  std::string uuid;  // "GPU-...", the same in every process
  std::string name;  // "NVIDIA H100 80GB HBM3"
  int64_t memory_bytes = 0;
};

// Host memory that is page-locked for a device as long as this lives.
class LockedMemory {
 public:
  virtual ~LockedMemory() = default;
  // Where the device finds it: host code must not follow it.
  virtual char* on_device() const = 0;
};

// The devices of an agent, by their numbers from 0 on.  Thread-safe.
class Devices {
 public:
  virtual ~Devices() = default;

  virtual int count() const = 0;
  virtual std::vector<DeviceSummary> List() const = 0;
  // "GPU-..." and what it is, for people.
  virtual std::string Describe(int device) const = 0;
  // The processors near it, of those that the calling thread may run on: those of the NUMA node
  // that it is attached to.  None where the system does not say.
  virtual cpu_set_t NearProcessors(int device) const = 0;

  // Memory for a shard, all zero.  Errors: those of kernels/device.
  virtual absl::StatusOr<std::unique_ptr<DeviceMemory>> Allocate(int device, int64_t num_bytes) = 0;

  // Page-locks host memory of a shard, so that device `device` can write into it.  The memory stays
  // the caller's, who keeps it longer than what comes back.  The end of that waits for all work of
  // the devices.  Errors: RESOURCE_EXHAUSTED when the system locks no more; those of
  // kernels/device.
  virtual absl::StatusOr<std::unique_ptr<LockedMemory>> Lock(int device, char* memory,
                                                             int64_t num_bytes) = 0;

  // Connects the devices of a load: a participant of its exchange is a device.  As
  // CommunicatorFactory.
  virtual absl::StatusOr<std::unique_ptr<Communicator>> Connect(
      int device, const CommunicatorRequest& request) = 0;

  // Who copies for `num_threads` reading threads, which read `staging_bytes` at once.
  // `communicator` is one of Connect for the same device, or null, and outlives it; after an error
  // that came with memory in use it is aborted.
  virtual absl::StatusOr<std::shared_ptr<DeviceCopier>> MakeCopier(int device, int num_threads,
                                                                   int64_t staging_bytes,
                                                                   Communicator* communicator) = 0;
};

// Finds the devices when they are first wanted: to look for them starts a driver.  Thread-safe.
class DeviceFinder {
 public:
  using Find = std::function<absl::StatusOr<std::shared_ptr<Devices>>()>;
  explicit DeviceFinder(Find find) : find_(std::move(find)) {}

  // What `find` brings, which is asked again after it failed.
  absl::StatusOr<std::shared_ptr<Devices>> Get();

 private:
  const Find find_;
  Mutex mutex_;
  std::shared_ptr<Devices> found_ ABSL_GUARDED_BY(mutex_);
};

// The CUDA devices that this process sees, or, for several agents in one process, part `part` of
// `num_parts` of them, numbered anew from 0.  FAILED_PRECONDITION, reason UNSUPPORTED, saying why
// where there is none, or this build has no CUDA.
absl::StatusOr<std::shared_ptr<Devices>> FindCudaDevices(int part = 0, int num_parts = 1);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_DEVICES_H_
