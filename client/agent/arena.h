#ifndef ZEROCAST_CLIENT_AGENT_ARENA_H_
#define ZEROCAST_CLIENT_AGENT_ARENA_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/agent/device_memory.h"

namespace zerocast {

// The memory that holds the shard of one rank: an anonymous file (memfd) that is mapped here, or
// memory of a device; either way its descriptor can be given to a training process.  Fresh memory
// is zero.  Owns descriptor and memory; move-only, a moved-from arena is empty.  Thread-compatible.
class Arena {
 public:
  // `name` shows in /proc/PID/maps.  `num_bytes` may be 0.  Errors: INVALID_ARGUMENT (negative),
  // RESOURCE_EXHAUSTED (no memory or descriptor).
  static absl::StatusOr<Arena> Create(const std::string& name, int64_t num_bytes);

  // Takes memory of a device, which is all zero.
  static Arena OnDevice(std::unique_ptr<DeviceMemory> memory);

  Arena() = default;
  Arena(Arena&& other) noexcept;
  Arena& operator=(Arena&& other) noexcept;
  ~Arena();

  // Null when num_bytes() == 0.  On a device, an address of the device.
  char* data() const { return data_; }
  int64_t num_bytes() const { return num_bytes_; }
  // -1 when empty, and on a device whose memory no descriptor stands for.
  int fd() const { return fd_; }

  // Null: host memory.
  const DeviceMemory* device() const { return device_.get(); }

  // Fixes the size for every holder of the descriptor.  Call once the load is done.
  absl::Status Seal();
  // Besides, nobody but this process's own mapping can write from now on: new shared writable
  // mappings and write() fail with EPERM, private mappings still work.  Errors: UNIMPLEMENTED on a
  // kernel without F_SEAL_FUTURE_WRITE (before Linux 5.1), and on a device.  Idempotent.
  absl::Status SealForSharing();

  // Bytes of all arenas of this process.
  static int64_t TotalBytes();

 private:
  void Reset();
  absl::Status AddSeals(int seals, const char* what);

  int fd_ = -1;
  char* data_ = nullptr;
  int64_t num_bytes_ = 0;
  std::unique_ptr<DeviceMemory> device_;  // whose descriptor and address the others are
};

// Where the bytes of some arenas begin, of whatever kind they are, and who keeps them.
struct ArenaMemory {
  std::vector<char*> data;
  std::shared_ptr<const void> owner;
  // Of each, or -1: on a device.  Empty: nothing may be written through descriptors.
  std::vector<int> fds = {};
};
ArenaMemory MemoryOf(std::shared_ptr<const std::vector<Arena>> arenas);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_ARENA_H_
