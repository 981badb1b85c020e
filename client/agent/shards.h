#ifndef ZEROCAST_CLIENT_AGENT_SHARDS_H_
#define ZEROCAST_CLIENT_AGENT_SHARDS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "client/agent/device_memory.h"
#include "client/agent/messages.h"
#include "client/agent/shard_cache.h"
#include "client/agent/unique_fd.h"
#include "kernels/base/mutex.h"
#include "kernels/copy/dtype.h"
#include "server/plan/plan.h"

namespace zerocast {

// Why a shard for a device that lies in host memory goes over by no better way than "host_copy".
inline constexpr char kNoGpuWay[] = "the agent opens no GPU (--no-gpu)";

// What a training process needs to know of a shard; the same for every rank of a load.
struct ShardIndex {
  struct Entry {
    std::string name;
    std::vector<int64_t> shape;
    DType dtype = DType::kInvalid;
    int64_t offset = 0;        // bytes from the start of the arena
    int64_t elements = 0;      // of a rank's part, padding included
    int64_t num_elements = 0;  // of the whole target
    bool partitioned = false;
    int64_t secondary_elements = 0;  // of a rank's secondary partition; 0: there is none
    int64_t secondary_offset = 0;    // as offset
    bool is_buffer = false;
    bool is_state = false;
    // False: nothing in the checkpoint fills it; its bytes are zero and are no weight.
    bool is_filled = false;
    std::vector<std::string> aliases;
  };
  std::string load;
  int32_t world_size = 0;
  std::string plan_digest;
  int32_t secondary_group_size = 0;  // plan/layout.h's SecondaryGroupSize
  // The job wants its shards in the memory of devices, wherever they are made.
  bool for_devices = false;
  std::vector<Entry> targets;
};
ShardIndex MakeShardIndex(const std::string& load, const Plan& plan);

// A shard on its way to a training process: its own descriptor of the arena, so that a load that is
// cancelled meanwhile does no harm.  The descriptor must not leave this process before the offer is
// settled as acknowledged: who has it may write, and can keep it without a word.
struct ShardOffer {
  std::shared_ptr<const ShardIndex> index;
  int32_t rank = 0;
  AttachMode mode = AttachMode::kPrivate;
  int64_t arena_bytes = 0;
  UniqueFd fd;  // of the arena, or of `copy`; none for "cuda_ipc"
  // How it is taken over: "memfd", or a way of DeviceTicket; and why that is no better one.
  std::string way = "memfd";
  std::string because;
  // Of a shard that lies on a device, with what belongs to its way.
  std::string device_uuid;
  int64_t allocation_bytes = 0;
  std::string handle;  // as fd, it must not leave before the offer is settled
  UniqueFd trial_fd;
  DeviceTrial trial;
  // Goes over in the place of a shard on a device: in host memory ("host_copy"), or on the same
  // device ("cuda_ipc"; then it must live as long as the other process uses it).
  std::shared_ptr<const Arena> copy;
  // "cuda_ipc" without a copy: the memory stays this process's, and must live as long as the other
  // one uses it.  Empty until the offer is settled.
  std::shared_ptr<ShardLease> lent;
};

// The finished shards of one load, and who owns each.  Thread-safe.
class ShardBook {
 public:
  // Element k of `shards` is of rank first_rank + k.  An empty token lets nobody attach.
  ShardBook(ShardIndex index, std::string token, int32_t first_rank,
            std::vector<ShardLease> shards);

  // The offer's mode is what the process gets: never kAuto, which is shared where that is possible
  // and else private.  Errors:
  //   PERMISSION_DENIED    another token.
  //   NOT_FOUND            no such rank on this node; reason NOT_FOUND.
  //   FAILED_PRECONDITION  it was handed over (shared), is being handed over, was freed by Expire,
  //                        or a shared one is wanted of what others hold privately or another load
  //                        uses, too; reason WRONG_STATE.
  // Where no other way leads to a shard on a device, the offer is a copy of it: RESOURCE_EXHAUSTED
  // without room for that, CANCELLED when `stopped`, which is asked now and then, says so.
  absl::StatusOr<ShardOffer> Offer(int32_t rank, absl::string_view token, AttachMode mode,
                                   const std::function<bool()>& stopped = nullptr);

  // In the place of `offer`, which is not settled, one of a copy, since the process cannot take it
  // by its way: `why`.  Behind "cuda_vmm" comes "cuda_ipc", where the device can give that and has
  // room for the copy, else "host_copy".  On an error `offer` stands.  Errors: FAILED_PRECONDITION
  // when it does not lie on a device; those of the copy to the host.
  absl::StatusOr<ShardOffer> OfferCopy(const ShardOffer& offer, const std::string& why,
                                       const std::function<bool()>& stopped);

  // The end of an offer: the process has acknowledged it, or not.  An acknowledged shared shard
  // leaves the book for good, whether its descriptor then reaches the process or not: the book's
  // mapping and descriptor are closed here.  An acknowledged private one is sealed here, before
  // anybody can have its descriptor.  Without an acknowledgement it is held as before.  Errors:
  //   UNIMPLEMENTED  the kernel cannot seal a private one; it must not be given, and is held as
  //                  before; reason UNSUPPORTED.
  // What was acknowledged shared goes to `lent`, unless that is null: then its memory ends here.
  absl::Status Settle(int32_t rank, AttachMode mode, bool acknowledged, ShardLease* lent = nullptr);

  // Frees every shard that no process has taken and none is being offered; who asks for one later
  // is told `why`.  Returns the ranks whose shards it has freed.
  std::vector<int32_t> Expire(const std::string& why);

  const std::shared_ptr<const ShardIndex>& index() const { return index_; }
  // True when every shard has left, or was freed.
  bool empty() const;
  int64_t arena_bytes() const;

 private:
  enum class State { kHeld, kOffered, kPrivate, kGone, kExpired };
  struct Slot {
    ShardLease shard;
    int64_t num_bytes = 0;
    State state = State::kHeld;
    int private_offers = 0;  // not settled yet
  };

  absl::Status WrongState(int32_t rank, absl::string_view what) const;
  // The slot of a rank that is here.
  absl::StatusOr<Slot*> FindLocked(int32_t rank) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status FillFromDevice(const DeviceMemory& device, ShardOffer* offer) const;
  absl::Status CopyToHost(const Arena& arena, const std::function<bool()>& stopped,
                          ShardOffer* offer) const;
  absl::Status CopyOnDevice(const DeviceMemory& device, ShardOffer* offer) const;
  // Makes the offer of a shard that is here; decides the mode.
  absl::Status Reserve(Slot* slot, int32_t rank, AttachMode wanted, AttachMode* mode)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::shared_ptr<const ShardIndex> index_;
  const std::string token_;
  const int32_t first_rank_;
  mutable Mutex mutex_;
  std::vector<Slot> slots_ ABSL_GUARDED_BY(mutex_);
  std::string why_expired_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_SHARDS_H_
