#ifndef ZEROCAST_CLIENT_AGENT_EXECUTOR_H_
#define ZEROCAST_CLIENT_AGENT_EXECUTOR_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "client/agent/arena.h"
#include "client/agent/device_copier.h"
#include "client/agent/file_work.h"
#include "client/agent/rate_limit.h"
#include "client/agent/read_queue.h"
#include "client/agent/reader.h"
#include "client/agent/round_reader.h"
#include "kernels/comm/communicator.h"
#include "server/base/clock.h"
#include "server/plan/plan.h"
#include "server/plan/schedule.h"

namespace zerocast {

// How far one node's part of a load is.
struct ExecutorProgress {
  int64_t round = 0;  // rounds done
  int64_t num_rounds = 0;
  int64_t bytes_read = 0;
  int64_t bytes_to_read = 0;
  int64_t bytes_sent = 0;
  int64_t bytes_received = 0;
  int64_t bytes_copied = 0;  // to their places, from what was read or came
  // Where the time went.  Reading and copying are those of an average reading thread, and unpacking
  // what came; exchanging runs beside them.
  absl::Duration read;
  absl::Duration copy;
  absl::Duration exchange;
  IoReport io;
};

// Places where a test can change bytes on their way, and how they come.
struct ExecutorHooks {
  std::function<std::unique_ptr<ReadQueue>(int depth)> make_queue = ReadQueue::Create;
  // What was read in a round, before it is used; on the reading thread.
  std::function<void(int64_t round, absl::Span<char> data)> after_read;
  // A message, or a broadcast, that came from `reader`, before it is unpacked.
  std::function<void(int64_t round, int32_t reader, absl::Span<char> message)> before_unpack;
};

struct ExecutorOptions {
  std::shared_ptr<const Plan> plan;
  std::shared_ptr<const Schedule> schedule;  // of `plan`
  int32_t node = 0;
  std::string checkpoint_path;
  std::shared_ptr<FileReader> reader;
  // Whose threads read; null: of this call alone.
  std::shared_ptr<FileWork> file_work;
  std::vector<FileIdentity> identities;  // from IdentifyFiles, when the plan was prepared
  // One participant a node, numbered as the nodes.  May be null where nothing is exchanged: one
  // node, or ReadMode::kLocal.
  Communicator* communicator = nullptr;
  // Of the node's ranks in ascending order, plan->arena_bytes each, all zero.  Shared with the
  // threads that read: one that is left behind in a read keeps them.  When the load went well none
  // is, and they are the caller's alone.
  ArenaMemory arenas;
  // Null: the arenas are host memory.  Else the addresses are those by which its device finds them,
  // in its own memory or page-locked host memory, and the communicator exchanges memory of the
  // device.  It has places for num_threads; threads that are left behind keep it, too.
  std::shared_ptr<DeviceCopier> device;
  // Threads that read and copy; 0: one for each processor, at most 16.
  int num_threads = 0;
  int64_t chunk_bytes = 0;  // read at once by a thread; 0: ChunkBytes' of the default memory
  IoMode io = IoMode::kAuto;
  // How fast it may read and send, together with others; null: as fast as it goes.
  std::shared_ptr<RateLimit> read_limit, send_limit;
  std::vector<std::string> node_names;  // for messages; may be empty
  // The longest that any single wait may last: for a round's reads, for an exchange, for a call to
  // the file system at the end.
  absl::Duration stage_timeout = absl::Seconds(60);
  // Looked at in every round; may be null.  To end a wait at once, abort the communicator too.
  const std::atomic<bool>* cancelled = nullptr;
  // Called after every round, and while it waits for one, on the calling thread; may be null.
  std::function<void(const ExecutorProgress&)> on_progress;
  const Clock* clock = Clock::Real();
  ExecutorHooks hooks;
};

// Runs one node's part of a plan: reads its extents round by round, what its own ranks own straight
// into their arenas, what one other node needs into a message and what all need into a broadcast,
// exchanges, and unpacks what came; the next round is read and the last one unpacked meanwhile.
// Casts happen on the way into the arena.  All nodes of the load must run at once.
//
// Blocks until the end.  After an error the arenas hold anything, and the communicator is aborted,
// so that the other nodes do not wait.  Errors:
//   CANCELLED          the flag was set; reason CANCELLED.
//   DEADLINE_EXCEEDED  a read or exchange took longer than stage_timeout; names the file or nodes.
//   UNAVAILABLE        reading failed (IO_ERROR), or a node is gone (EXCHANGE_FAILED).
//   DATA_LOSS          a file is shorter than its header says; names file and offset.
//   ABORTED            a file changed since it was identified; reason CHECKPOINT_CHANGED.
// `progress`, when not null, gets the final figures in any case.
absl::Status ExecuteLoad(const ExecutorOptions& options, ExecutorProgress* progress);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_EXECUTOR_H_
