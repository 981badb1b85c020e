#ifndef ZEROCAST_CLIENT_AGENT_INCOMING_H_
#define ZEROCAST_CLIENT_AGENT_INCOMING_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "client/agent/copy_pool.h"
#include "client/agent/device_copier.h"
#include "client/agent/fresh_memory.h"
#include "client/agent/placement.h"
#include "server/plan/plan.h"
#include "server/plan/schedule.h"

namespace zerocast {

// Where what is received goes.  Nothing is owned.
struct Destination {
  const Plan* plan = nullptr;
  NodeArenas arenas;
  // Processors unpack: the pages of the arenas, and the threads.
  FreshMemory* fresh = nullptr;
  CopyPool* pool = nullptr;
  // Or the device that unpacks, in its staging places from `first_place` on.
  DeviceCopier* device = nullptr;
  size_t first_place = 0;
  absl::Duration timeout;  // to wait for a place
};

// A message, or a broadcast, from its announcement until it is unpacked; then it can be used again.
// Thread-compatible.
class Incoming {
 public:
  // Waits for the threads that unpack what came before.  Empty then; the caller adds the pieces
  // that will come.  Errors: those of Wait.
  absl::StatusOr<std::vector<Piece>*> Reset(const Destination& destination);

  // Bytes of the pieces: 0 when nothing comes.
  int64_t Expect(const Destination& destination);
  // Where they will come; not owned, kept until the next Reset.
  void Place(char* memory) { memory_ = memory; }
  absl::Span<char> data() const { return absl::MakeSpan(memory_, static_cast<size_t>(num_bytes_)); }

  // Starts to bring what has come to its places, as number `number` of all messages that are
  // unpacked.  `destination` must outlive that.  Errors: those of DeviceCopier.
  absl::Status StartUnpack(const Destination& destination, int64_t number);

  // Waits for the threads that unpack; on a device nobody has to.  Errors: those of
  // FreshMemory::Run.
  absl::Status Wait(const Destination& destination);

 private:
  absl::Status StartOnDevice(const Destination& destination, int64_t number);

  std::vector<Piece> pieces_;
  int64_t num_bytes_ = 0;
  char* memory_ = nullptr;
  std::vector<MessagePart> parts_;
  CopyPool::Batch unpacking_;
};

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_INCOMING_H_
