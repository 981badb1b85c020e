#include "client/agent/read_queue.h"

#include <liburing.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/agent/piece_cursor.h"
#include "kernels/base/mutex.h"

namespace zerocast {
namespace {

// A request and what of it is done.
class Progress {
 public:
  void Begin(const ReadRequest& request) {
    request_ = &request;
    cursor_ = PieceCursor(request.pieces);
    done_ = 0;
    is_done_ = false;
    status_ = absl::OkStatus();
    if (request.needed == 0) Finish(absl::OkStatus());
    if (!request.direct) {
      fd_ = request.file->fd();
      return;
    }
    const absl::StatusOr<int> fd = request.file->DirectFd();
    if (fd.ok()) {
      fd_ = *fd;
    } else {
      Finish(fd.status());
    }
  }

  bool is_done() const { return is_done_; }
  const absl::Status& status() const { return status_; }
  int fd() const { return fd_; }
  int64_t offset() const { return request_->offset + done_; }

  // The pieces of the next system call; they stay where they are until Advance.
  absl::Span<const struct iovec> Next() { return cursor_.Next(); }

  // What the system call returned: bytes, or a negative error number.
  void Advance(int64_t result) {
    if (result == -EINTR || result == -EAGAIN) return;
    if (result < 0) {
      Finish(request_->direct && result == -EINVAL
                 ? absl::UnimplementedError(absl::StrCat("read ", request_->file->path(),
                                                         " past the page cache: EINVAL"))
                 : request_->file->ReadError(static_cast<int>(-result), offset()));
      return;
    }
    // Behind the end of the file, or, for a direct read, in its last block: there is no more.
    const int64_t missing = request_->needed - done_ - result;
    if (missing > 0 && (result == 0 || (request_->direct && result % kDirectAlignment != 0))) {
      Finish(request_->file->TooShort(offset() + result, missing));
      return;
    }
    request_->file->CountRead(std::min(result, request_->needed - done_));
    done_ += result;
    cursor_.Advance(static_cast<size_t>(result));
    if (done_ >= request_->needed) Finish(absl::OkStatus());
  }

  void Finish(absl::Status status) {
    status_ = std::move(status);
    is_done_ = true;
  }

 private:
  const ReadRequest* request_ = nullptr;
  PieceCursor cursor_;
  int fd_ = -1;
  int64_t done_ = 0;
  bool is_done_ = true;
  absl::Status status_;
};

class WaitingQueue : public ReadQueue {
 public:
  explicit WaitingQueue(int depth) : requests_(static_cast<size_t>(depth)) {}

  absl::string_view name() const override { return "preadv"; }
  void Start(int number, const ReadRequest& request) override {
    requests_[static_cast<size_t>(number)].Begin(request);
  }
  absl::Status Wait(int number) override {
    Progress& request = requests_[static_cast<size_t>(number)];
    while (!request.is_done()) {
      const absl::Span<const struct iovec> pieces = request.Next();
      const ssize_t got =
          ::preadv(request.fd(), pieces.data(), static_cast<int>(pieces.size()), request.offset());
      request.Advance(got < 0 ? -errno : got);
    }
    return request.status();
  }

 private:
  std::vector<Progress> requests_;  // by number
};

// Held while a ring is made or unmade.  The memory of one may be the next one's, which
// ThreadSanitizer sees only by this order: liburing maps it without the C library.
Mutex* RingMutex() {
  static auto* const mutex = new Mutex;
  return mutex;
}

class UringQueue : public ReadQueue {
 public:
  // Takes `ring` over.
  UringQueue(int depth, const struct io_uring& ring)
      : ring_(ring), requests_(static_cast<size_t>(depth)) {}
  ~UringQueue() override {
    for (const Progress& request : requests_) {
      while (!request.is_done()) Reap();
    }
    MutexLock lock(RingMutex());
    ::io_uring_queue_exit(&ring_);
  }

  absl::string_view name() const override { return "io_uring"; }
  void Start(int number, const ReadRequest& request) override {
    Progress& progress = requests_[static_cast<size_t>(number)];
    progress.Begin(request);
    if (!progress.is_done()) Submit(&progress);
  }
  absl::Status Wait(int number) override {
    const Progress& request = requests_[static_cast<size_t>(number)];
    while (!request.is_done()) Reap();
    return request.status();
  }

 private:
  void Submit(Progress* request) {
    const absl::Span<const struct iovec> pieces = request->Next();
    // There are as many entries as requests.
    struct io_uring_sqe* const entry = ::io_uring_get_sqe(&ring_);
    ::io_uring_prep_readv(entry, request->fd(), pieces.data(), static_cast<unsigned>(pieces.size()),
                          static_cast<uint64_t>(request->offset()));
    ::io_uring_sqe_set_data(entry, request);
    int result;
    do {
      result = ::io_uring_submit(&ring_);
    } while (result == -EINTR || result == -EAGAIN);
    if (result < 0) request->Advance(result);
  }

  // Waits for one system call of any request, and makes the request's next one.
  void Reap() {
    struct io_uring_cqe* completion = nullptr;
    if (::io_uring_wait_cqe(&ring_, &completion) != 0) return;  // interrupted
    auto* const request = static_cast<Progress*>(::io_uring_cqe_get_data(completion));
    const int64_t result = completion->res;
    ::io_uring_cqe_seen(&ring_, completion);
    request->Advance(result);
    if (!request->is_done()) Submit(request);
  }

  struct io_uring ring_;
  std::vector<Progress> requests_;  // by number
};

}  // namespace

std::unique_ptr<ReadQueue> MakeWaitingQueue(int depth) {
  return std::make_unique<WaitingQueue>(depth);
}

std::unique_ptr<ReadQueue> ReadQueue::Create(int depth) {
  struct io_uring ring;
  // Refused by old kernels, by kernel.io_uring_disabled and by the seccomp profiles of containers.
  {
    MutexLock lock(RingMutex());
    if (::io_uring_queue_init(static_cast<unsigned>(depth), &ring, 0) != 0) {
      return MakeWaitingQueue(depth);
    }
  }
  return std::make_unique<UringQueue>(depth, ring);
}

}  // namespace zerocast
