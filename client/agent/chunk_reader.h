#ifndef ZEROCAST_CLIENT_AGENT_CHUNK_READER_H_
#define ZEROCAST_CLIENT_AGENT_CHUNK_READER_H_

// One thread of a RoundReader: reads chunks, and brings what they hold to its place.

#include <sys/uio.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "client/agent/buffer.h"
#include "client/agent/chunks.h"
#include "client/agent/file_work.h"
#include "client/agent/io_choice.h"
#include "client/agent/read_queue.h"
#include "client/agent/reader.h"
#include "client/agent/round_reader.h"
#include "server/plan/node_memory.h"

namespace zerocast {

// What the threads of one RoundReader share.  Thread-safe.
struct Reading {
  Reading(RoundReaderOptions o, absl::Duration timeout)
      : options(std::move(o)), call_timeout(timeout), io(options.io) {}

  const RoundReaderOptions options;
  const absl::Duration call_timeout;
  std::atomic<bool> stop{false};  // whoever waits for the rate waits no more
  IoChoice io;
  RateWaits rate_waits;
  std::atomic<int64_t> bytes_read{0}, read_ns{0}, copy_ns{0}, bytes_copied{0};
  std::atomic<bool> uses_preadv{false};  // some thread has, or is left with, no io_uring
};

std::string PathOfFile(const RoundReaderOptions& options, int32_t file);

// A part of a round.
struct Chunk {
  const RoundMoves* moves = nullptr;
  const char* scales = nullptr;  // the bytes of moves->scales(), one behind the other
  int64_t round = 0;
  Extent extent;
};

// Thread-compatible.
class ChunkReader {
 public:
  // `number`: of the thread.  `about_to` hears of each call to a file system before it is made.
  // `reading` must outlive it.
  ChunkReader(size_t number, FileObserver about_to, Reading* reading);

  size_t number() const { return number_; }

  // Takes `chunk`, under a number in [0, kChunksUnderWay) that no other one under way has; what it
  // points to must stay until Finish.  The system reads it meanwhile, unless IsReadInFinish.  Once
  // it has failed nothing more is asked of this.
  absl::Status Start(int number, const Chunk& chunk);
  // It needs no time of the disk's: it is read when it is copied, into the caches.
  bool IsReadInFinish(int number) const { return chunks_[number].way == IoWay::kCached; }
  // Returns when the bytes of the chunk are where they belong; on a device, when they are on their
  // way.  Errors: those of ReadableFile; ABORTED for a file that changed since IdentifyFiles.
  absl::Status Finish(int number);

  // Reads `extent` now.
  absl::Status Read(const Extent& extent, absl::Span<const struct iovec> pieces);

 private:
  struct ChunkRead {
    Chunk chunk;
    std::shared_ptr<ReadableFile> file;
    IoWay way = IoWay::kCached;
    ChunkWork work;
    Buffer buffer;
    ReadRequest request;
    absl::Duration start;
  };

  // The staging place of a device for chunk `number`.
  size_t PlaceOf(int number) const {
    return number_ * kChunksUnderWay + static_cast<size_t>(number);
  }
  absl::Status PlaceRequest(IoWay way, int number);
  absl::StatusOr<char*> BufferOf(int number);
  absl::Status Wait(int number);
  absl::Status Copy(int number);
  void NoteCalls();
  absl::StatusOr<std::shared_ptr<ReadableFile>> OpenFile(int32_t file);
  // What is said of a call that reads it.
  std::string ReadCall(const Extent& extent) const;

  const size_t number_;
  const FileObserver about_to_;
  Reading& reading_;
  std::map<int32_t, std::shared_ptr<ReadableFile>> files_;
  ChunkRead chunks_[kChunksUnderWay];
  // Behind what it reads into: it ends first.
  const std::unique_ptr<ReadQueue> queue_;
};

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_CHUNK_READER_H_
