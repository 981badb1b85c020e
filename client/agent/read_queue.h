#ifndef ZEROCAST_CLIENT_AGENT_READ_QUEUE_H_
#define ZEROCAST_CLIENT_AGENT_READ_QUEUE_H_

#include <sys/uio.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "client/agent/posix_file.h"

struct io_uring;

namespace zerocast {

// What one thread reads, some of it while it does other things.
struct ReadRequest {
  PosixFile* file = nullptr;  // not owned
  // Past the page cache: offset, and place and length of the only piece, are multiples of
  // kDirectAlignment.
  bool direct = false;
  int64_t offset = 0;
  std::vector<struct iovec> pieces;  // filled one after the other
  // Bytes that must be there; a direct read may end behind the file's end.
  int64_t needed = 0;
};

// Reads under way.  Of one thread.
class ReadQueue {
 public:
  // With io_uring, where the system lets us have it, up to `depth` reads are on their way at once;
  // otherwise each is made when it is waited for.
  static std::unique_ptr<ReadQueue> Create(int depth);
  // Reads that nobody waited for are waited for here: their memory is not written to afterwards.
  virtual ~ReadQueue() = default;

  // "io_uring" or "preadv": how it reads from now on.  A ring that the kernel does not serve any
  // more is given up; what it has taken is still read by it, the rest by preadv.
  virtual absl::string_view name() const = 0;

  // Takes a request, which must stay as it is until Wait, under a number of the caller's, in
  // [0, depth), that no other request under way has.
  virtual void Start(int number, const ReadRequest& request) = 0;

  // Waits for the request of that number; short reads are continued.  Errors: those of
  // ReadableFile::ReadAt; for a direct request also UNIMPLEMENTED, where the file system refuses
  // such reads (EINVAL): then the memory holds anything.
  virtual absl::Status Wait(int number) = 0;
};

// The queue that reads in Wait.
std::unique_ptr<ReadQueue> MakeWaitingQueue(int depth);

// The one with io_uring; null where the system does not let us have it.  A test puts `submit` in
// the place of io_uring_submit(3).
std::unique_ptr<ReadQueue> MakeUringQueue(int depth,
                                          std::function<int(struct io_uring*)> submit = nullptr);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_READ_QUEUE_H_
