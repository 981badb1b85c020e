#ifndef ZEROCAST_KERNELS_COMM_COMMUNICATOR_H_
#define ZEROCAST_KERNELS_COMM_COMMUNICATOR_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"

namespace zerocast {

// Bytes to send to, or to receive from, one peer.  The memory is the caller's and must live until
// the call that uses it returns.  Both sides know the size: it is part of the schedule.
struct Message {
  int peer = 0;  // participant number, 0 <= peer < size(), not self
  void* data = nullptr;
  int64_t num_bytes = 0;
};

// Moves bytes among the participants (one a node) of one load.  One thread at a time calls
// Exchange and Broadcast; Abort and the counters may be called from any thread at any time.
//
// All participants make the same calls in the same order.  After an error, or Abort, on any
// participant the communicator is of no more use: every later call is FAILED_PRECONDITION, and a
// retry is a new communicator under a new epoch.
class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;  // own participant number
  virtual int size() const = 0;
  // "loopback", "gloo" or "nccl": for reports and metrics.
  virtual absl::string_view transport() const = 0;

  // Posts all sends and receives of a round together and waits once.  At most one message a peer in
  // each direction; messages of 0 bytes are skipped on both sides.  Errors:
  //   INVALID_ARGUMENT     a peer out of range, repeated, or self; a negative size.
  //   DEADLINE_EXCEEDED    not finished within `timeout`; names the peers still waited for.
  //   UNAVAILABLE          a peer is gone or its connection broke; names the peer.
  //   DATA_LOSS            bytes arrived damaged, or from another epoch; names the peer.
  //   FAILED_PRECONDITION  after Abort or an earlier error.
  virtual absl::Status Exchange(absl::Span<const Message> sends, absl::Span<const Message> receives,
                                absl::Duration timeout) = 0;

  // Copies `num_bytes` at `data` of participant `root` to `data` of all others.  Errors as
  // Exchange.
  virtual absl::Status Broadcast(void* data, int64_t num_bytes, int root,
                                 absl::Duration timeout) = 0;

  // Ends a call in progress, here and (by closing the connections) on the peers, and makes every
  // later one FAILED_PRECONDITION with `reason` in its message.  Idempotent; never blocks on peers.
  virtual void Abort(absl::string_view reason) = 0;

  // Payload bytes since creation; a broadcast counts what this participant itself sent or received.
  virtual int64_t bytes_sent() const = 0;
  virtual int64_t bytes_received() const = 0;
};

// How participants find each other before they can talk: a small map that all of them see, scoped
// to one epoch of one load.  Implementations are thread-safe.
class Rendezvous {
 public:
  virtual ~Rendezvous() = default;

  // Publishes `value` under `key`.  Errors: UNAVAILABLE, CANCELLED.
  virtual absl::Status Put(absl::string_view key, absl::string_view value) = 0;

  // Waits until somebody has put `key`.  Errors: DEADLINE_EXCEEDED naming the key, UNAVAILABLE,
  // CANCELLED.
  virtual absl::StatusOr<std::string> Get(absl::string_view key, absl::Duration timeout) = 0;
};

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_COMM_COMMUNICATOR_H_
