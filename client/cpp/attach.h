#ifndef ZEROCAST_CLIENT_CPP_ATTACH_H_
#define ZEROCAST_CLIENT_CPP_ATTACH_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "client/cpp/device_shard.h"
#include "kernels/copy/dtype.h"

namespace zerocast {

// One partition, or one whole buffer, in the arena of a rank.
struct ShardTensor {
  std::string name;
  std::vector<int64_t> shape;  // of the whole target
  DType dtype = DType::kInvalid;
  bool is_buffer = false;
  // A state of the optimizer: "optimizer/STATE/NAME", or "optimizer/STATE/GROUP" under ZeRO stages
  // 1 and 2, whose aliases are its members (server/plan/README.md, optimizer states).
  bool is_state = false;
  bool partitioned = false;
  int64_t offset = 0;        // bytes into the arena
  int64_t elements = 0;      // in this rank's part, padding included
  int64_t num_elements = 0;  // of the whole target
  // The rank's secondary partition (server/plan/README.md, hierarchical partitions): as elements
  // and offset; no elements: it has none.
  int64_t secondary_elements = 0;
  int64_t secondary_offset = 0;
  // False: the checkpoint has nothing for it, which the job allowed (missing or of another shape);
  // its bytes are zero and are no weight.
  bool is_filled = false;
  std::vector<std::string> aliases;
};

// The shard of a rank, mapped into this process.  The mapping lives as long as this object.
class AttachedShard {
 public:
  AttachedShard(AttachedShard&& other) noexcept;
  AttachedShard& operator=(AttachedShard&&) = delete;
  ~AttachedShard();

  const std::vector<ShardTensor>& tensors() const { return tensors_; }
  const std::string& plan_digest() const { return plan_digest_; }
  int32_t world_size() const { return world_size_; }
  // Neighbouring ranks that hold all parameters together in their secondary partitions; 0: none.
  int32_t secondary_group_size() const { return secondary_group_size_; }
  // Start of the arena; null when it has no bytes.  With a device_uuid an address of that device.
  char* data() const { return data_; }
  int64_t num_bytes() const { return num_bytes_; }
  // "GPU-..." of the device that the shard lies on; empty: in host memory.
  const std::string& device_uuid() const { return device_uuid_; }
  // By which way it came ("memfd", "cuda_vmm", "cuda_ipc", "host_copy": client/agent/HANDOVER.md),
  // and why by no better one; empty where it was the best.
  const std::string& way() const { return way_; }
  const std::string& because() const { return because_; }
  // Copies bytes [offset, offset + to.size()) of the arena, wherever it lies, and waits for that.
  // Errors: those of DeviceShard::CopyToHost.
  absl::Status CopyToHost(int64_t offset, absl::Span<char> to) const;
  // Moves a shard that lies on a device into host memory of this process; the device's is given
  // back, and data() is host memory.  On an error it stays where it is.  RESOURCE_EXHAUSTED without
  // room; those of CopyToHost and DeviceShard::Close.
  absl::Status MoveToHost();
  // Moves a shard that lies in host memory ("host_copy", say) into new memory of the device of that
  // UUID; "": of the one that the agent made it for, else of device 0.  The host's is given back,
  // and data() is an address of the device.  Nothing where it lies on a device.  On an error it
  // stays where it is.  Errors: those of CopyShardToDevice.
  absl::Status MoveToDevice(const std::string& device_uuid = "");

 private:
  friend absl::StatusOr<AttachedShard> Attach(const struct AttachOptions& options);
  AttachedShard() = default;
  // The agent's first answer; checks all of it.
  absl::Status ReadIndex(const std::string& text);
  absl::Status CheckWay();
  // Whether this process gets at memory of that device by that way; `fd` came with the answer.
  absl::Status Try(int fd) const;
  // `handle` came with the last answer, on `connection`.
  absl::Status Map(int fd, bool shared, const std::string& handle,
                   std::shared_ptr<const void> connection);
  std::vector<ShardTensor> tensors_;
  std::string plan_digest_;
  int32_t world_size_ = 0;
  int32_t secondary_group_size_ = 0;
  std::string way_, because_, device_uuid_;
  std::string made_for_uuid_;               // "host_copy": where the agent would have made it
  std::string trial_handle_, trial_bytes_;  // of the memory for trial; no bytes: there is none
  bool shared_ = false;
  std::unique_ptr<DeviceShard> device_;
  char* data_ = nullptr;
  int64_t num_bytes_ = 0;
};

struct AttachOptions {
  std::string socket_path;  // of the node's agent
  std::string load;         // "loads/ID"
  int32_t rank = 0;
  std::string token;  // CreateJobResponse::attach_token
  // Shared: this process becomes the owner, the agent forgets the shard.  Private: the agent keeps
  // it, writes stay in this process (copy on write); not possible where the shard lies on a device.
  bool shared = false;
  absl::Duration timeout = absl::Seconds(30);
};

// Takes the shard of a rank from its node's agent: client/agent/HANDOVER.md has the protocol.
// Errors:
//   NOT_FOUND, UNAVAILABLE  no agent behind the socket, or it did not answer.
//   PERMISSION_DENIED       wrong user or token.
//   FAILED_PRECONDITION     the load is not ready, or the shard was handed over before.
//   INTERNAL                the agent's answer is damaged.
//   DEADLINE_EXCEEDED       no answer within the timeout.
// An index that this client does not understand is refused before the shard is acknowledged and
// stays with the agent.  A shared shard whose descriptor gets lost after that must be loaded again.
absl::StatusOr<AttachedShard> Attach(const AttachOptions& options);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_CPP_ATTACH_H_
