#ifndef ZEROCAST_KERNELS_COMM_NCCL_H_
#define ZEROCAST_KERNELS_COMM_NCCL_H_

#include <cuda_runtime_api.h>

#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kernels/comm/communicator.h"

namespace zerocast {

struct NcclOptions {
  // The GPU of this participant, by its number in this process (CUDA_VISIBLE_DEVICES applies).  Two
  // participants of one load never share a GPU: NCCL refuses that.
  int device = 0;

  // Own participant number, and how many there are: 0 <= rank < size.  Every GPU of a load is a
  // participant; several may live in one process, each used by a thread of its own.
  int rank = 0;
  int size = 1;

  // Scoped to this epoch, kept as long as the communicator lives: participants tell each other by
  // it why they left, which NCCL does not.  Not needed when size == 1.  Keys: "nccl/here/N",
  // "nccl/id", "nccl/end/N".
  std::shared_ptr<Rendezvous> rendezvous;

  // For everything until all GPUs are connected, waiting for the slowest participant included.
  absl::Duration connect_timeout = absl::Seconds(60);

  // When set, asked about every 50 ms while connecting, in the calling thread; true ends the call
  // with CANCELLED.
  std::function<bool()> cancelled;
};

// OK when NCCL can be used here, else FAILED_PRECONDITION with the reason: libnccl.so.2 cannot be
// opened, or is older than this build needs.  NCCL is opened when it is first asked for, so that a
// program that was built with it starts on machines without it.
absl::Status FindNccl();

// A Communicator between GPUs.  Memory of messages and broadcasts is device memory of `device`, or
// pinned host memory; pageable memory is refused by NCCL or read as garbage.
//
// Transfers run in stream(), in the order of the calls.  A call orders nothing before itself: who
// writes what is sent, or still reads what is about to be overwritten, by work in another stream,
// lets stream() wait for that work first (cudaStreamWaitEvent(communicator->stream(), event, 0)).
// When Exchange or Broadcast returns OK, its bytes are there for every stream and for the host.
// After an error NCCL has left the caller's memory, too, unless the message says that the device
// still uses it.  Freeing device or pinned memory waits for transfers in progress of all devices of
// the process, and so for their peers: a load frees nothing between its first and its last call,
// and who gives up calls Abort before it frees.
//
// Beyond the contract of Communicator:
// - DATA_LOSS never comes: NCCL has no checksums.
// - Sizes that differ between the two ends are not found; such a call ends by its deadline or with
//   bytes that are not defined.
// - UNAVAILABLE comes at once when a peer ended its communicator (an error, Abort, its
// destruction).
//   When a peer's process died it comes where NCCL sees that (network transports); over NVLink and
//   shared memory NCCL waits on, and the call ends by its deadline, or by Abort.
// - DEADLINE_EXCEEDED may come half a second late: the time to learn which peers are late, too, and
// which
//   are missing.
// - A broadcast counts as a ring's: what this participant got, and what it passed on.
class NcclCommunicator : public Communicator {
 public:
  // Connects this participant's GPU to all others'.  With size == 1 NCCL is not used.  Errors:
  //   INVALID_ARGUMENT     the options are wrong, or there is no such device.
  //   FAILED_PRECONDITION  no NCCL, no GPU, two participants on one GPU, or NCCL of different
  //                        releases (names the participants).
  //   DEADLINE_EXCEEDED    not connected within connect_timeout; names the participants that are
  //                        missing.
  //   UNAVAILABLE          a participant left meanwhile (names it), NCCL cannot use the network, or
  //                        the rendezvous is unavailable.
  //   CANCELLED            by `cancelled`, or by the rendezvous.
  // On an error nothing stays open, and a retry needs a new epoch.
  static absl::StatusOr<std::unique_ptr<NcclCommunicator>> Create(const NcclOptions& options);

  // Where all transfers run: a stream of `device`, never the default one, of use as long as the
  // communicator.
  virtual cudaStream_t stream() const = 0;
  virtual int device() const = 0;
};

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_COMM_NCCL_H_
