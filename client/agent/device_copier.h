#ifndef ZEROCAST_CLIENT_AGENT_DEVICE_COPIER_H_
#define ZEROCAST_CLIENT_AGENT_DEVICE_COPIER_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "client/agent/box_copy.h"

namespace zerocast {

// Who executes the copies of a load that a device does, into arenas in its memory or in page-locked
// host memory.  What is read goes into host memory that the device reads (a staging place), from
// there to the device, and a kernel brings it to its places in arenas and messages.  All of that is
// only started here: it is ordered on the device, and nobody waits but for a place to be free.
//
// Thread-safe; one thread at a time uses one place.
class DeviceCopier {
 public:
  virtual ~DeviceCopier() = default;

  // Host memory of at least `num_bytes`, aligned to 4096, of staging place `place`.  Waits until
  // what was copied from it last has left it.  Valid until the next call for that place.  Errors:
  // DEADLINE_EXCEEDED, those of kernels/device, an error that earlier work left behind.
  virtual absl::StatusOr<char*> Acquire(size_t place, int64_t num_bytes,
                                        absl::Duration timeout) = 0;

  // Starts `copies`.  Their sources lie in the first `num_bytes` bytes of the place's memory or in
  // memory of the device, scales in host memory, which is copied at once; their targets where the
  // device finds them.  No target of one call overlaps another.  Errors: INVALID_ARGUMENT for a box
  // that cannot be, and as Acquire.
  virtual absl::Status Start(size_t place, int64_t num_bytes, absl::Span<const BoxCopy> copies,
                             absl::Duration timeout) = 0;

  // Memory of the device for what a round sends and gets, `num_bytes` or more, aligned to 256; the
  // same in each call with that `which`.  It does not grow: ask for the most first.  Errors:
  // INTERNAL for more than that, those of kernels/device.
  virtual absl::StatusOr<char*> ReserveMessages(size_t which, int64_t num_bytes) = 0;

  // What is exchanged from now on waits, on the device, for all copies that were started.
  virtual absl::Status OrderExchange() = 0;

  // Waits until all that was started is done.  Errors as Acquire.
  virtual absl::Status Finish(absl::Duration timeout) = 0;
};

// What ReserveMessages' numbers stand for: two of each, used in turn.
inline constexpr size_t kOutgoingMessages = 0, kIncomingMessages = 2, kIncomingBroadcasts = 4;
inline constexpr size_t kMessageBuffers = 6;

// Staging places: kChunksUnderWay for each reading thread (client/agent/memory_needs.h), and behind
// them these, by turns, for what is unpacked.
inline constexpr size_t kUnpackingPlaces = 4;

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_DEVICE_COPIER_H_
