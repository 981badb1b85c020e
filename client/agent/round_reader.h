#ifndef ZEROCAST_CLIENT_AGENT_ROUND_READER_H_
#define ZEROCAST_CLIENT_AGENT_ROUND_READER_H_

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
#include "client/agent/fresh_memory.h"
#include "client/agent/identify_files.h"
#include "client/agent/placement.h"
#include "client/agent/rate_limit.h"
#include "client/agent/read_queue.h"
#include "client/agent/reader.h"
#include "server/plan/plan.h"
#include "server/plan/schedule.h"

namespace zerocast {

struct RoundReaderOptions {
  std::shared_ptr<const Plan> plan;
  std::shared_ptr<const Schedule> schedule;
  int32_t node = 0;
  std::string checkpoint_path;
  std::shared_ptr<FileReader> reader;
  std::shared_ptr<FileWork> file_work;
  std::vector<FileIdentity> identities;  // from IdentifyFiles
  ArenaMemory arenas;                    // of the node's ranks
  // Processors copy: the pages of the arenas.  Or the device that copies.
  std::shared_ptr<FreshMemory> fresh;
  std::shared_ptr<DeviceCopier> device;
  bool sends = false;  // what other nodes need is packed into messages
  int num_threads = 1;
  int64_t chunk_bytes = 0;  // read at once (ChunkBytes)
  IoMode io = IoMode::kAuto;
  std::shared_ptr<RateLimit> read_limit;  // may be null
  // Of each thread, for so many reads at once.  A test may want one of the two.
  std::function<std::unique_ptr<ReadQueue>(int depth)> make_queue = ReadQueue::Create;
  // For tests: may change what was read, before anybody sees it.  Called on a reading thread for
  // each piece of memory that was filled.
  std::function<void(int64_t round, absl::Span<char> data)> after_read;
};

// What one node has for another one, or for all others, in one round.
struct OutgoingMessage {
  int32_t node = 0;  // -1: all others
  char* data = nullptr;
  int64_t num_bytes = 0;
};

// What the threads of a reader did, all of them together.
struct RoundReaderTimes {
  absl::Duration read;
  absl::Duration copy;
  int64_t bytes_copied = 0;  // to their places
};

// How a reader reads.
struct IoReport {
  std::string calls;         // "io_uring" or "preadv"
  int64_t direct_bytes = 0;  // that were read past the page cache
  std::string refusal;       // why there were no direct reads where they were wanted
};

// Reads one node's extents, round by round, and brings what they hold to its place: into the arenas
// of the node's ranks and into the messages for other nodes.  Some threads, one round ahead of its
// user.  Thread-compatible.
//
// A call that never returns (a dead network file system) cannot be ended: once it has lasted
// `call_timeout` the thread is left behind, with what it reads into, and counts in `file_work`.
class RoundReader {
 public:
  // Starts to read round 0.  No call, and no wait for a device, lasts longer than `call_timeout`.
  // Errors: those of FileWork::Start.
  static absl::StatusOr<std::unique_ptr<RoundReader>> Start(RoundReaderOptions options,
                                                            absl::Duration call_timeout);
  ~RoundReader();
  RoundReader(const RoundReader&) = delete;
  RoundReader& operator=(const RoundReader&) = delete;

  // Waits until the next round is where it belongs; the messages it has for other nodes, by node,
  // and the one for all of them behind, are valid until the next call.  Rounds come in order.
  // Errors: DEADLINE_EXCEEDED after `timeout`, beginning with the call that is in progress;
  // CANCELLED when `go_on`, which is asked again and again meanwhile, says false; otherwise those
  // of ReadableFile, and ABORTED for a file that changed since IdentifyFiles.
  absl::StatusOr<absl::Span<const OutgoingMessage>> Next(absl::Duration timeout,
                                                         const std::function<bool()>& go_on);

  // After the last round: ABORTED, reason CHECKPOINT_CHANGED, when a file that was read is not the
  // one, or not in the state, that IdentifyFiles saw.  DEADLINE_EXCEEDED and CANCELLED as
  // FileWork::Call.
  absl::Status CheckUnchanged(const std::atomic<bool>* cancelled) const;

  // So far; any thread.
  int64_t bytes_read() const;
  RoundReaderTimes times() const;
  IoReport io() const;

 private:
  struct State;
  RoundReader(std::shared_ptr<State> state, absl::Duration call_timeout);

  const std::shared_ptr<State> state_;
  const absl::Duration call_timeout_;
  std::vector<std::unique_ptr<FileWork::Task>> tasks_;  // the threads
  bool given_up_ = false;                               // a round did not come in time
  absl::Duration end_timeout_;                          // for the threads to end
  int64_t num_taken_ = 0;
};

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_ROUND_READER_H_
