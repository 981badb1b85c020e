#include "client/agent/read_queue.h"

#include <liburing.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/agent/piece_cursor.h"
#include "kernels/base/mutex.h"
#include "server/base/errors.h"

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
  absl::Span<const struct iovec> Next() { return call_ = cursor_.Next(); }

  // What the system call that Next is for has returned, bytes or a negative error number.
  int64_t ResultOf(bool uring, int64_t result) const {
    return request_->file->ResultOf(uring, request_->direct, offset(), call_, result);
  }

  // Goes on by a result.
  void Advance(int64_t result) {
    if (result == -EINTR) return;
    if (result < 0) {
      Finish(request_->direct && result == -EINVAL
                 ? absl::UnimplementedError(absl::StrCat("read ", request_->file->path(),
                                                         " past the page cache: EINVAL"))
                 : request_->file->ReadError(static_cast<int>(-result), offset()));
      return;
    }
    const int64_t missing = request_->needed - done_ - result;
    if (missing > 0 && result == 0) return Finish(request_->file->TooShort(offset(), missing));
    if (missing > 0 && request_->direct && result % kDirectAlignment != 0) {
      if (result < kDirectAlignment) return Finish(EndOfDirect(result, missing));
      // The next read begins with a whole block again; at the end of the file it gets less than
      // one.
      result -= result % kDirectAlignment;
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
  // Why a direct read got less than a block.
  absl::Status EndOfDirect(int64_t num_bytes, int64_t missing) const {
    const absl::StatusOr<FileIdentity> file = request_->file->Identity();
    if (!file.ok()) return file.status();
    if (file->num_bytes <= offset() + num_bytes) {
      return request_->file->TooShort(offset() + num_bytes, missing);
    }
    return absl::UnimplementedError(absl::StrCat("read ", request_->file->path(),
                                                 " past the page cache: only ", num_bytes,
                                                 " bytes at offset ", offset()));
  }

  const ReadRequest* request_ = nullptr;
  PieceCursor cursor_;
  absl::Span<const struct iovec> call_;
  int fd_ = -1;
  int64_t done_ = 0;
  bool is_done_ = true;
  absl::Status status_;
};

// Reads what a request still needs, on this thread.
void ReadNow(Progress* request) {
  while (!request->is_done()) {
    const absl::Span<const struct iovec> pieces = request->Next();
    const ssize_t got =
        ::preadv(request->fd(), pieces.data(), static_cast<int>(pieces.size()), request->offset());
    request->Advance(request->ResultOf(false, got < 0 ? -errno : got));
  }
}

class WaitingQueue : public ReadQueue {
 public:
  explicit WaitingQueue(int depth) : requests_(static_cast<size_t>(depth)) {}

  absl::string_view name() const override { return "preadv"; }
  void Start(int number, const ReadRequest& request) override {
    requests_[static_cast<size_t>(number)].Begin(request);
  }
  absl::Status Wait(int number) override {
    Progress& request = requests_[static_cast<size_t>(number)];
    ReadNow(&request);
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
  UringQueue(int depth, const struct io_uring& ring, std::function<int(struct io_uring*)> submit)
      : submit_(std::move(submit)), ring_(ring), requests_(static_cast<size_t>(depth)) {}
  ~UringQueue() override {
    while (num_in_kernel_ > 0) Reap();
    MutexLock lock(RingMutex());
    ::io_uring_queue_exit(&ring_);
  }

  absl::string_view name() const override { return given_up_ ? "preadv" : "io_uring"; }
  void Start(int number, const ReadRequest& request) override {
    RingRequest& started = requests_[static_cast<size_t>(number)];
    started.progress.Begin(request);
    if (!started.progress.is_done()) Submit(&started);
  }
  absl::Status Wait(int number) override {
    RingRequest& request = requests_[static_cast<size_t>(number)];
    while (request.in_kernel) Reap();
    // What the ring did not take, or did not do.
    ReadNow(&request.progress);
    return request.progress.status();
  }

 private:
  struct RingRequest {
    Progress progress;
    bool in_kernel = false;  // the kernel may write to its memory
  };

  // Gives the next system call of a request to the kernel.  Where that does not take it, Wait
  // reads. Its entry stays in the ring, and would go along with the next one, when its memory may
  // be another's: so the next one is prepared in its place.
  void Submit(RingRequest* request) {
    if (given_up_) return;
    const absl::Span<const struct iovec> pieces = request->progress.Next();
    // There are as many entries as requests.
    struct io_uring_sqe* const entry =
        spare_ != nullptr ? std::exchange(spare_, nullptr) : ::io_uring_get_sqe(&ring_);
    ::io_uring_prep_readv(entry, request->progress.fd(), pieces.data(),
                          static_cast<unsigned>(pieces.size()),
                          static_cast<uint64_t>(request->progress.offset()));
    ::io_uring_sqe_set_data(entry, request);
    request->in_kernel = SubmitEntry();
    if (request->in_kernel) {
      ++num_in_kernel_;
    } else {
      spare_ = entry;
    }
  }

  // False where the kernel does not take the only entry that is prepared.
  bool SubmitEntry() {
    int result;
    do {
      result = submit_(&ring_);
      // Whatever it returned; the kernel looks at entries during this call only.
      if (::io_uring_sq_ready(&ring_) == 0) return true;
    } while (result == -EINTR);
    // For want of memory, or of room for completions, it takes none now; the next one maybe.
    if (result >= 0 || result == -EAGAIN || result == -EBUSY || result == -ENOMEM) return false;
    given_up_ = true;
    spdlog::warn("{}; reading with preadv from now on",
                 std::string(ErrnoStatus(-result, "submit a read to io_uring").message()));
    return false;
  }

  // Waits for one system call of any request, and makes the request's next one.
  void Reap() {
    struct io_uring_cqe* completion = nullptr;
    if (::io_uring_wait_cqe(&ring_, &completion) != 0) return;  // interrupted
    auto* const request = static_cast<RingRequest*>(::io_uring_cqe_get_data(completion));
    const int64_t result = request->progress.ResultOf(true, completion->res);
    ::io_uring_cqe_seen(&ring_, completion);
    request->in_kernel = false;
    --num_in_kernel_;
    // It would block, and the ring was not allowed to wait: a thread is.
    if (result == -EAGAIN) return;
    request->progress.Advance(result);
    if (!request->progress.is_done()) Submit(request);
  }

  const std::function<int(struct io_uring*)> submit_;
  struct io_uring ring_;
  std::vector<RingRequest> requests_;  // by number
  int num_in_kernel_ = 0;
  struct io_uring_sqe* spare_ = nullptr;  // prepared, but not taken
  bool given_up_ = false;
};

}  // namespace

std::unique_ptr<ReadQueue> MakeWaitingQueue(int depth) {
  return std::make_unique<WaitingQueue>(depth);
}

std::unique_ptr<ReadQueue> MakeUringQueue(int depth, std::function<int(struct io_uring*)> submit) {
  if (submit == nullptr) submit = ::io_uring_submit;
  struct io_uring ring;
  // Refused by old kernels, by kernel.io_uring_disabled and by the seccomp profiles of containers.
  {
    MutexLock lock(RingMutex());
    if (::io_uring_queue_init(static_cast<unsigned>(depth), &ring, 0) != 0) return nullptr;
  }
  return std::make_unique<UringQueue>(depth, ring, std::move(submit));
}

std::unique_ptr<ReadQueue> ReadQueue::Create(int depth) {
  std::unique_ptr<ReadQueue> queue = MakeUringQueue(depth);
  return queue != nullptr ? std::move(queue) : MakeWaitingQueue(depth);
}

}  // namespace zerocast
