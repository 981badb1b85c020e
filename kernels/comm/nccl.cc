#include "kernels/comm/nccl.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/mutex.h"
#include "kernels/base/status_macros.h"
#include "kernels/comm/checks.h"
#include "kernels/comm/deadline.h"
#include "kernels/comm/nccl_api.h"
#include "kernels/comm/nccl_connect.h"
#include "kernels/comm/nccl_ends.h"
#include "kernels/device/device_scope.h"
#include "kernels/device/event.h"
#include "kernels/device/stream.h"
#include "spdlog/spdlog.h"

namespace zerocast {
namespace {

using Clock = std::chrono::steady_clock;

// How often a call that waits looks for what its peers said of their ends.
constexpr absl::Duration kLookAtPeers = absl::Milliseconds(20);
// How long peers are given to say that they are late, too, or that they have lost somebody, too.
constexpr absl::Duration kHearLate = absl::Milliseconds(500);
constexpr absl::Duration kHearLost = absl::Seconds(1);
// A peer that gave this call up is not waited for longer than this.
constexpr absl::Duration kAfterLatePeer = absl::Seconds(1);
// How long an abort may take until the device has left the caller's memory.
constexpr absl::Duration kDrain = absl::Seconds(10);
// How long the end of a communicator waits for what it sent to arrive.
constexpr absl::Duration kFlush = absl::Seconds(5);

// Sleeps a small part of the time waited so far: short work is seen at once, long work costs no
// core.
class Nap {
 public:
  void Sleep() {
    std::this_thread::sleep_for(std::clamp<Clock::duration>(
        (Clock::now() - begin_) / 16, std::chrono::microseconds(5), std::chrono::milliseconds(1)));
  }

 private:
  const Clock::time_point begin_ = Clock::now();
};

// One Exchange or Broadcast.
struct Call {
  uint64_t number = 0;  // from 1
  std::string what;     // "call 3 of participant 0 of 2"
  std::vector<int> peers;
  absl::Duration timeout;
  Deadline deadline;
  // Gives NCCL the work, between the start and the end of a group.
  std::function<ncclResult_t(ncclComm_t)> post;
};

class Impl : public NcclCommunicator {
 public:
  Impl(const NcclApi* api, const NcclOptions& options, ncclComm_t comm,
       std::shared_ptr<NcclEnds> ends, Stream stream, Event event)
      : api_(api),
        rank_(options.rank),
        size_(options.size),
        ends_(std::move(ends)),
        stream_(std::move(stream)),
        event_(std::move(event)),
        comm_(comm) {}
  ~Impl() override;

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  absl::string_view transport() const override { return "nccl"; }
  cudaStream_t stream() const override { return stream_.get(); }
  int device() const override { return stream_.device(); }
  int64_t bytes_sent() const override { return bytes_sent_; }
  int64_t bytes_received() const override { return bytes_received_; }

  absl::Status Exchange(absl::Span<const Message> sends, absl::Span<const Message> receives,
                        absl::Duration timeout) override;
  absl::Status Broadcast(void* data, int64_t num_bytes, int root, absl::Duration timeout) override;
  void Abort(absl::string_view reason) override;

 private:
  // Checks the state and the arguments, runs the call, and closes after an error.
  absl::Status Run(const absl::Status& arguments, std::vector<int> peers, absl::Duration timeout,
                   std::function<ncclResult_t(ncclComm_t)> post);
  absl::Status Transfer(const Call& call);
  absl::Status Post(const Call& call, ncclComm_t comm);
  absl::Status WaitForEnd(const Call& call, ncclComm_t comm);
  absl::Status CheckNccl(const Call& call, ncclComm_t comm, bool* in_progress);
  absl::Status CheckPeers(const Call& call, Clock::time_point* late_since);
  absl::Status LateError(const Call& call);
  absl::Status LostError(const Call& call, const absl::Status& status);
  NcclPeers HearPeers(const Call& call, absl::Span<const int> peers, absl::Duration at_most);
  absl::Status Close(absl::Status status) ABSL_LOCKS_EXCLUDED(mutex_);
  bool Drain();
  void Finish(ncclComm_t comm);
  void AbortNccl(ncclComm_t comm);

  // Takes NCCL's communicator out of use; null when it is already.
  ncclComm_t TakeComm() ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(&mutex_);
    return std::exchange(comm_, nullptr);
  }
  absl::Status CheckOpen() ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(&mutex_);
    return closed_.empty() ? absl::OkStatus() : ClosedError(rank_, size_, closed_);
  }

  const NcclApi* const api_;  // null when size_ == 1
  const int rank_;
  const int size_;
  const std::shared_ptr<NcclEnds> ends_;
  const Stream stream_;
  const Event event_;
  std::atomic<uint64_t> completed_{0};  // calls that ended well
  std::atomic<bool> abort_wanted_{false};
  std::atomic<int64_t> bytes_sent_{0};
  std::atomic<int64_t> bytes_received_{0};

  Mutex mutex_;
  ncclComm_t comm_ ABSL_GUARDED_BY(mutex_);
  bool in_call_ ABSL_GUARDED_BY(mutex_) = false;
  // Why it is closed; empty while it is open.
  std::string closed_ ABSL_GUARDED_BY(mutex_);
  bool aborted_ ABSL_GUARDED_BY(mutex_) = false;
};

Impl::~Impl() {
  const ncclComm_t comm = TakeComm();
  if (comm == nullptr) return;
  ends_->Say({NcclEnd::kLeft, completed_, "its communicator was destroyed"});
  Finish(comm);
}

// Ends a communicator on which nothing failed: what it sent still arrives.
void Impl::Finish(ncclComm_t comm) {
  const Deadline deadline(kFlush);
  Nap nap;
  ncclResult_t result = api_->comm_finalize(comm);
  while (result == ncclInProgress && !deadline.Passed()) {
    nap.Sleep();
    const ncclResult_t asked = api_->comm_get_async_error(comm, &result);
    if (asked != ncclSuccess) result = asked;
  }
  if (result == ncclSuccess) {
    result = api_->comm_destroy(comm);
    if (result == ncclSuccess || result == ncclInProgress) return;
  }
  // Peers that are gone, too, need nothing any more.
  AbortNccl(comm);
}

absl::Status Impl::Exchange(absl::Span<const Message> sends, absl::Span<const Message> receives,
                            absl::Duration timeout) {
  std::vector<int> peers;
  int64_t sent = 0;
  int64_t received = 0;
  for (const Message& send : sends) {
    if (send.num_bytes > 0) peers.push_back(send.peer);
    sent += send.num_bytes;
  }
  for (const Message& receive : receives) {
    if (receive.num_bytes > 0) peers.push_back(receive.peer);
    received += receive.num_bytes;
  }
  const auto post = [&](ncclComm_t comm) {
    for (const Message& send : sends) {
      if (send.num_bytes == 0) continue;
      const ncclResult_t result =
          api_->send(send.data, send.num_bytes, ncclUint8, send.peer, comm, stream());
      if (result != ncclSuccess && result != ncclInProgress) return result;
    }
    for (const Message& receive : receives) {
      if (receive.num_bytes == 0) continue;
      const ncclResult_t result =
          api_->recv(receive.data, receive.num_bytes, ncclUint8, receive.peer, comm, stream());
      if (result != ncclSuccess && result != ncclInProgress) return result;
    }
    return ncclSuccess;
  };
  ZC_RETURN_IF_ERROR(
      Run(CheckExchange(rank_, size_, sends, receives), std::move(peers), timeout, post));
  bytes_sent_ += sent;
  bytes_received_ += received;
  return absl::OkStatus();
}

absl::Status Impl::Broadcast(void* data, int64_t num_bytes, int root, absl::Duration timeout) {
  std::vector<int> peers;
  for (int peer = 0; num_bytes > 0 && peer < size_; ++peer) {
    if (peer != rank_) peers.push_back(peer);
  }
  ZC_RETURN_IF_ERROR(Run(CheckBroadcast(rank_, size_, data, num_bytes, root), std::move(peers),
                         timeout, [&](ncclComm_t comm) {
                           return api_->broadcast(data, data, num_bytes, ncclUint8, root, comm,
                                                  stream());
                         }));
  if (rank_ != root) bytes_received_ += num_bytes;
  if ((rank_ + 1) % size_ != root) bytes_sent_ += num_bytes;
  return absl::OkStatus();
}

absl::Status Impl::Run(const absl::Status& arguments, std::vector<int> peers,
                       absl::Duration timeout, std::function<ncclResult_t(ncclComm_t)> post) {
  {
    MutexLock lock(&mutex_);
    if (!closed_.empty()) return ClosedError(rank_, size_, closed_);
    in_call_ = true;
  }
  absl::Status status = arguments;
  if (status.ok()) {
    std::sort(peers.begin(), peers.end());
    peers.erase(std::unique(peers.begin(), peers.end()), peers.end());
    const uint64_t number = completed_ + 1;
    status =
        Transfer({number, absl::StrCat("call ", number, " of participant ", rank_, " of ", size_),
                  std::move(peers), timeout, Deadline(timeout), std::move(post)});
  }
  if (!status.ok()) return Close(std::move(status));
  ++completed_;
  ncclComm_t comm = nullptr;
  {
    MutexLock lock(&mutex_);
    in_call_ = false;
    // An Abort that came too late for this call left NCCL to it.
    if (aborted_) comm = std::exchange(comm_, nullptr);
  }
  AbortNccl(comm);
  return absl::OkStatus();
}

void Impl::AbortNccl(ncclComm_t comm) {
  if (comm == nullptr) return;
  const absl::Status status =
      NcclStatus(*api_, api_->comm_abort(comm),
                 absl::StrCat("abort NCCL at participant ", rank_, " of ", size_));
  if (!status.ok()) spdlog::error("{}", std::string(status.message()));
}

absl::Status Impl::Transfer(const Call& call) {
  if (call.peers.empty()) return absl::OkStatus();
  ncclComm_t comm = nullptr;
  {
    MutexLock lock(&mutex_);
    comm = comm_;
  }
  ZC_ASSIGN_OR_RETURN(const DeviceScope scope, DeviceScope::Enter(device()));
  absl::Status status = Post(call, comm);
  if (status.ok()) status = event_.Record(stream());
  if (status.ok()) status = WaitForEnd(call, comm);
  return status;
}

absl::Status Impl::Post(const Call& call, ncclComm_t comm) {
  ZC_RETURN_IF_ERROR(
      NcclStatus(*api_, api_->group_start(), absl::StrCat(call.what, ": start a group")));
  const ncclResult_t posted = call.post(comm);
  absl::Status status = NcclStatus(*api_, posted, absl::StrCat(call.what, ": post its messages"));
  // Always: a group that is not ended would swallow the thread's next calls.
  const absl::Status ended =
      NcclStatus(*api_, api_->group_end(), absl::StrCat(call.what, ": start its messages"));
  if (status.ok()) status = ended;
  if (!status.ok()) return LostError(call, status);
  // NCCL may connect to peers of whom it has had no need so far, in a thread of its own.
  Nap nap;
  Clock::time_point late_since{};
  for (;;) {
    bool in_progress = false;
    ZC_RETURN_IF_ERROR(CheckNccl(call, comm, &in_progress));
    if (!in_progress) return absl::OkStatus();
    ZC_RETURN_IF_ERROR(CheckPeers(call, &late_since));
    nap.Sleep();
  }
}

absl::Status Impl::WaitForEnd(const Call& call, ncclComm_t comm) {
  Nap nap;
  Clock::time_point look = Clock::now();
  Clock::time_point late_since{};
  for (;;) {
    ZC_ASSIGN_OR_RETURN(const bool is_done, event_.IsDone());
    bool in_progress = false;
    // After the question: NCCL ends its work in error, too.
    ZC_RETURN_IF_ERROR(CheckNccl(call, comm, &in_progress));
    if (is_done) return absl::OkStatus();
    if (abort_wanted_ || call.deadline.Passed() || Clock::now() >= look) {
      look = Clock::now() + absl::ToChronoNanoseconds(kLookAtPeers);
      ZC_RETURN_IF_ERROR(CheckPeers(call, &late_since));
    }
    nap.Sleep();
  }
}

absl::Status Impl::CheckNccl(const Call& call, ncclComm_t comm, bool* in_progress) {
  ncclResult_t result = ncclSuccess;
  const ncclResult_t asked = api_->comm_get_async_error(comm, &result);
  *in_progress = result == ncclInProgress;
  const absl::Status status = NcclStatus(*api_, asked == ncclSuccess ? result : asked,
                                         absl::StrCat(call.what, ": transfer"));
  return status.ok() ? status : LostError(call, status);
}

// Abort, the peers' ends, and the deadline.
absl::Status Impl::CheckPeers(const Call& call, Clock::time_point* late_since) {
  if (abort_wanted_) return CheckOpen();
  const NcclPeers sorted = SortPeers(ends_.get(), call.peers, call.number);
  if (!sorted.left.empty()) {
    return absl::UnavailableError(absl::StrCat(call.what, ": gone: ", sorted.Text()));
  }
  if (!sorted.failed.empty()) {
    return LostError(call, absl::UnavailableError(absl::StrCat(
                               NamePeers(sorted.failed),
                               " failed: ", sorted.reasons.at(sorted.failed.front()))));
  }
  if (call.deadline.Passed()) return LateError(call);
  if (sorted.late.empty()) return absl::OkStatus();
  if (*late_since == Clock::time_point{}) *late_since = Clock::now();
  if (Clock::now() - *late_since < absl::ToChronoNanoseconds(kAfterLatePeer)) {
    return absl::OkStatus();
  }
  return absl::UnavailableError(absl::StrCat(call.what, ": given up by ", NamePeers(sorted.late),
                                             ": ", sorted.reasons.at(sorted.late.front())));
}

// Waits a little for what peers say; returns early when all have spoken.
NcclPeers Impl::HearPeers(const Call& call, absl::Span<const int> peers, absl::Duration at_most) {
  const Deadline deadline(at_most);
  for (;;) {
    NcclPeers sorted = SortPeers(ends_.get(), peers, call.number);
    if (sorted.silent.empty() || !sorted.left.empty() || deadline.Passed() || abort_wanted_) {
      return sorted;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

absl::Status Impl::LateError(const Call& call) {
  const std::string late = absl::StrCat(" after ", absl::FormatDuration(call.timeout));
  ends_->Say({NcclEnd::kLate, completed_, absl::StrCat(call.what, ": not done", late)});
  const NcclPeers sorted = HearPeers(call, call.peers, kHearLate);
  // Those that gave up at the same time were not waited for, unless there is nobody else.
  std::vector<int> missing = sorted.silent;
  missing.insert(missing.end(), sorted.left.begin(), sorted.left.end());
  return absl::DeadlineExceededError(absl::StrCat(
      call.what, ": still waiting for ", NamePeers(missing.empty() ? call.peers : missing), late));
}

// The error of a peer that is lost, which NCCL does not name: by what all peers say.
absl::Status Impl::LostError(const Call& call, const absl::Status& status) {
  if (!absl::IsUnavailable(status)) return status;
  // First of all: others that wait for this participant shall not hold it for lost.
  ends_->Say({NcclEnd::kFailed, completed_, std::string(status.message())});
  std::vector<int> others;
  for (int peer = 0; peer < size_; ++peer) {
    if (peer != rank_) others.push_back(peer);
  }
  const NcclPeers all = HearPeers(call, others, kHearLost);
  if (abort_wanted_) return CheckOpen();
  // Peers of the call first; where all of them are victims, too, whoever it was.
  NcclPeers sorted = SortPeers(ends_.get(), call.peers, call.number);
  if (sorted.failed.size() == call.peers.size()) sorted = all;
  if (!sorted.left.empty()) {
    return absl::UnavailableError(absl::StrCat(call.what, ": gone: ", sorted.Text()));
  }
  return absl::UnavailableError(
      absl::StrCat(call.what, ": lost ", NamePeers(sorted.Culprits()), ": ", status.message()));
}

// Ends everything after an error; returns it, with what the clean-up met.
absl::Status Impl::Close(absl::Status status) {
  ncclComm_t comm = nullptr;
  std::string reason;
  {
    MutexLock lock(&mutex_);
    if (closed_.empty()) closed_ = std::string(status.message());
    reason = closed_;
    in_call_ = false;
    comm = std::exchange(comm_, nullptr);
  }
  const bool by_others = absl::IsUnavailable(status);
  // Before NCCL shows it to the peers: they shall find the reason.
  ends_->Say({by_others ? NcclEnd::kFailed : NcclEnd::kLeft, completed_, reason});
  if (comm == nullptr) return status;
  AbortNccl(comm);
  if (!Drain()) {
    status = absl::Status(status.code(),
                          absl::StrCat(status.message(),
                                       "; the device still uses the memory of "
                                       "this call, ",
                                       absl::FormatDuration(kDrain), " after NCCL's abort"));
  }
  return status;
}

// Whether all that was given to the stream has ended.
bool Impl::Drain() {
  const absl::StatusOr<DeviceScope> scope = DeviceScope::Enter(device());
  if (!scope.ok() || !event_.Record(stream()).ok()) return true;  // a device in error runs nothing
  return !absl::IsDeadlineExceeded(event_.Wait(kDrain));
}

void Impl::Abort(absl::string_view reason) {
  ncclComm_t comm = nullptr;
  std::string said;
  {
    MutexLock lock(&mutex_);
    if (aborted_) return;
    aborted_ = true;
    const std::string aborted = absl::StrCat("aborted: ", reason);
    if (closed_.empty()) {
      closed_ = aborted;
    } else {
      absl::StrAppend(&closed_, "; ", aborted);
    }
    abort_wanted_ = true;
    said = closed_;
    // A call in progress does the rest.
    if (!in_call_) comm = std::exchange(comm_, nullptr);
  }
  ends_->Say({NcclEnd::kLeft, completed_, said});
  AbortNccl(comm);
}

absl::Status CheckOptions(const NcclOptions& options) {
  const std::string what =
      absl::StrCat("make participant ", options.rank, " of ", options.size, " for NCCL: ");
  if (options.size < 1 || options.rank < 0 || options.rank >= options.size) {
    return absl::InvalidArgumentError(absl::StrCat(what, "no such participant"));
  }
  if (options.size > 1 && options.rendezvous == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(what, "no rendezvous is given"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status FindNccl() { return NcclApi::Load().status(); }

absl::StatusOr<std::unique_ptr<NcclCommunicator>> NcclCommunicator::Create(
    const NcclOptions& options) {
  ZC_RETURN_IF_ERROR(CheckOptions(options));
  auto ends =
      std::make_shared<NcclEnds>(options.size > 1 ? options.rendezvous : nullptr, options.rank);
  const auto make = [&]() -> absl::StatusOr<std::unique_ptr<NcclCommunicator>> {
    ZC_ASSIGN_OR_RETURN(Stream stream, Stream::Create(options.device));
    ZC_ASSIGN_OR_RETURN(Event event, Event::Create(options.device));
    ZC_ASSIGN_OR_RETURN(const DeviceScope scope, DeviceScope::Enter(options.device));
    const NcclApi* api = nullptr;
    ncclComm_t comm = nullptr;
    if (options.size > 1) {
      ZC_ASSIGN_OR_RETURN(api, NcclApi::Load());
      ZC_ASSIGN_OR_RETURN(comm, ConnectNccl(*api, options, ends.get()));
    }
    return std::make_unique<Impl>(api, options, comm, ends, std::move(stream), std::move(event));
  };
  absl::StatusOr<std::unique_ptr<NcclCommunicator>> made = make();
  // The others shall not wait for one that has no GPU.
  if (!made.ok()) ends->Say({NcclEnd::kLeft, 0, std::string(made.status().message())});
  return made;
}

}  // namespace zerocast
