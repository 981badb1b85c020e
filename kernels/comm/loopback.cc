#include "kernels/comm/loopback.h"

#include <atomic>
#include <cstddef>
#include <cstring>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/mutex.h"
#include "kernels/base/status_macros.h"
#include "kernels/comm/checks.h"
#include "kernels/comm/deadline.h"

namespace zerocast {
namespace {

// What one participant has on offer for one other.  The sender posts and, in the end, clears; the
// receiver copies.  While kCopying the sender's buffer is in use by the receiver's thread.
struct Offer {
  enum State { kNone, kPosted, kCopying, kTaken, kRefused };
  State state = kNone;
  uint64_t call = 0;
  const void* data = nullptr;
  int64_t num_bytes = 0;
};

// What the communicators of a group share.
class Group {
 public:
  explicit Group(int size) : size_(size), offers_(size * size), closed_(size), aborted_(size) {}

  int size() const { return size_; }

  // Moves the messages of call number `call` of participant `rank`; closes it on error.
  absl::Status Transfer(int rank, uint64_t call, absl::Span<const Message> sends,
                        absl::Span<const Message> receives, absl::Duration timeout)
      ABSL_LOCKS_EXCLUDED(mutex_);

  // Takes participant `rank` out of the group; the first reason stays.
  void Close(int rank, absl::string_view reason) ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(&mutex_);
    CloseLocked(rank, reason);
  }

  // As Close, but the first abort's reason is told even when an error came before it.
  void Abort(int rank, absl::string_view reason) ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(&mutex_);
    if (aborted_[rank]) return;
    aborted_[rank] = true;
    const std::string aborted = absl::StrCat("aborted: ", reason);
    if (closed_[rank].empty()) {
      CloseLocked(rank, aborted);
    } else {
      absl::StrAppend(&closed_[rank], "; ", aborted);
    }
  }

  // FAILED_PRECONDITION once `rank` is closed.
  absl::Status CheckOpen(int rank) ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(&mutex_);
    return CheckOpenLocked(rank);
  }

 private:
  struct Work {
    std::vector<Message> sends;
    std::vector<Message> receives;
  };

  Offer& OfferLocked(int from, int to) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return offers_[from * size_ + to];
  }
  absl::Status CheckOpenLocked(int rank) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CloseLocked(int rank, absl::string_view reason) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status RunLocked(int rank, uint64_t call, Work& work, const Deadline& deadline,
                         absl::Duration timeout) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status TakeOffersLocked(int rank, uint64_t call, Work& work)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status ClearTakenLocked(int rank, uint64_t call, Work& work)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckPeersLocked(int rank, uint64_t call, const Work& work)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status GoneErrorLocked(int rank, uint64_t call, int peer) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void WithdrawLocked(int rank) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const int size_;
  Mutex mutex_;
  CondVar changed_;
  std::vector<Offer> offers_ ABSL_GUARDED_BY(mutex_);
  // Why a participant is closed; empty while it is open.
  std::vector<std::string> closed_ ABSL_GUARDED_BY(mutex_);
  std::vector<bool> aborted_ ABSL_GUARDED_BY(mutex_);
};

std::vector<Message> NotEmpty(absl::Span<const Message> messages) {
  std::vector<Message> result;
  for (const Message& message : messages) {
    if (message.num_bytes > 0) result.push_back(message);
  }
  return result;
}

absl::Status ScheduleError(int rank, uint64_t call, int peer, absl::string_view what) {
  return absl::InternalError(absl::StrCat("call ", call, " of participant ", rank,
                                          " with participant ", peer, ": ", what,
                                          "; their schedules differ"));
}

absl::Status Group::CheckOpenLocked(int rank) {
  return closed_[rank].empty() ? absl::OkStatus() : ClosedError(rank, size_, closed_[rank]);
}

void Group::CloseLocked(int rank, absl::string_view reason) {
  if (closed_[rank].empty()) {
    closed_[rank] = reason.empty() ? "no reason given" : std::string(reason);
  }
  changed_.SignalAll();
}

absl::Status Group::Transfer(int rank, uint64_t call, absl::Span<const Message> sends,
                             absl::Span<const Message> receives, absl::Duration timeout) {
  const Deadline deadline(timeout);
  Work work{NotEmpty(sends), NotEmpty(receives)};
  MutexLock lock(&mutex_);
  ZC_RETURN_IF_ERROR(CheckOpenLocked(rank));
  for (const Message& send : work.sends) {
    OfferLocked(rank, send.peer) = {Offer::kPosted, call, send.data, send.num_bytes};
  }
  changed_.SignalAll();
  absl::Status status = RunLocked(rank, call, work, deadline, timeout);
  if (!status.ok()) {
    WithdrawLocked(rank);
    CloseLocked(rank, status.message());
  }
  return status;
}

absl::Status Group::RunLocked(int rank, uint64_t call, Work& work, const Deadline& deadline,
                              absl::Duration timeout) {
  for (;;) {
    ZC_RETURN_IF_ERROR(TakeOffersLocked(rank, call, work));
    ZC_RETURN_IF_ERROR(ClearTakenLocked(rank, call, work));
    ZC_RETURN_IF_ERROR(CheckOpenLocked(rank));
    if (work.sends.empty() && work.receives.empty()) return absl::OkStatus();
    ZC_RETURN_IF_ERROR(CheckPeersLocked(rank, call, work));
    if (deadline.Passed()) {
      std::vector<int> peers;
      for (const Message& send : work.sends) peers.push_back(send.peer);
      for (const Message& receive : work.receives) peers.push_back(receive.peer);
      return absl::DeadlineExceededError(absl::StrCat(
          "call ", call, " of participant ", rank, " of ", size_, ": still waiting for ",
          NamePeers(std::move(peers)), " after ", absl::FormatDuration(timeout)));
    }
    changed_.WaitWithTimeout(&mutex_, deadline.Remaining());
  }
}

// Copies what is on offer for this participant; the lock is released during each copy.
absl::Status Group::TakeOffersLocked(int rank, uint64_t call, Work& work) {
  for (size_t i = 0; i < work.receives.size();) {
    const Message receive = work.receives[i];
    Offer& offer = OfferLocked(receive.peer, rank);
    if (offer.state != Offer::kPosted) {
      ++i;
      continue;
    }
    if (offer.call != call || offer.num_bytes != receive.num_bytes) {
      offer.state = Offer::kRefused;
      changed_.SignalAll();
      return ScheduleError(rank, call, receive.peer,
                           absl::StrCat("wants ", receive.num_bytes, " bytes, was sent ",
                                        offer.num_bytes, " in its call ", offer.call));
    }
    offer.state = Offer::kCopying;
    const void* const from = offer.data;
    mutex_.Unlock();
    std::memcpy(receive.data, from, receive.num_bytes);
    mutex_.Lock();
    offer.state = Offer::kTaken;
    changed_.SignalAll();
    work.receives.erase(work.receives.begin() + static_cast<std::ptrdiff_t>(i));
    // Who posted during the copy signalled when nobody waited.
    i = 0;
  }
  return absl::OkStatus();
}

absl::Status Group::ClearTakenLocked(int rank, uint64_t call, Work& work) {
  for (size_t i = 0; i < work.sends.size();) {
    Offer& offer = OfferLocked(rank, work.sends[i].peer);
    if (offer.state == Offer::kRefused) {
      return ScheduleError(rank, call, work.sends[i].peer,
                           absl::StrCat("refused ", offer.num_bytes, " bytes"));
    }
    if (offer.state == Offer::kTaken) {
      offer = Offer();
      work.sends.erase(work.sends.begin() + static_cast<std::ptrdiff_t>(i));
    } else {
      ++i;
    }
  }
  return absl::OkStatus();
}

absl::Status Group::CheckPeersLocked(int rank, uint64_t call, const Work& work) {
  for (const Message& receive : work.receives) {
    if (!closed_[receive.peer].empty()) return GoneErrorLocked(rank, call, receive.peer);
  }
  for (const Message& send : work.sends) {
    // A peer that is aborted while it copies still finishes the copy.
    if (OfferLocked(rank, send.peer).state == Offer::kPosted && !closed_[send.peer].empty()) {
      return GoneErrorLocked(rank, call, send.peer);
    }
  }
  return absl::OkStatus();
}

absl::Status Group::GoneErrorLocked(int rank, uint64_t call, int peer) const {
  return absl::UnavailableError(absl::StrCat("call ", call, " of participant ", rank, " of ", size_,
                                             ": participant ", peer, " is gone: ", closed_[peer]));
}

// Takes back all offers of `rank`, waiting for copies in progress: afterwards no other thread uses
// its buffers.  The wait is as long as a memcpy.
void Group::WithdrawLocked(int rank) {
  for (int peer = 0; peer < size_; ++peer) {
    Offer& offer = OfferLocked(rank, peer);
    while (offer.state == Offer::kCopying) changed_.Wait(&mutex_);
    offer = Offer();
  }
}

class LoopbackCommunicator : public Communicator {
 public:
  LoopbackCommunicator(std::shared_ptr<Group> group, int rank)
      : group_(std::move(group)), rank_(rank) {}
  ~LoopbackCommunicator() override { group_->Close(rank_, "its communicator was destroyed"); }

  int rank() const override { return rank_; }
  int size() const override { return group_->size(); }
  absl::string_view transport() const override { return "loopback"; }

  absl::Status Exchange(absl::Span<const Message> sends, absl::Span<const Message> receives,
                        absl::Duration timeout) override {
    ZC_RETURN_IF_ERROR(group_->CheckOpen(rank_));
    ZC_RETURN_IF_ERROR(CloseUnlessOk(CheckExchange(rank_, size(), sends, receives)));
    ++calls_;
    ZC_RETURN_IF_ERROR(group_->Transfer(rank_, calls_, sends, receives, timeout));
    for (const Message& send : sends) bytes_sent_ += send.num_bytes;
    for (const Message& receive : receives) bytes_received_ += receive.num_bytes;
    return absl::OkStatus();
  }

  absl::Status Broadcast(void* data, int64_t num_bytes, int root, absl::Duration timeout) override {
    ZC_RETURN_IF_ERROR(group_->CheckOpen(rank_));
    ZC_RETURN_IF_ERROR(CloseUnlessOk(CheckBroadcast(rank_, size(), data, num_bytes, root)));
    if (rank_ != root) return Exchange({}, {{root, data, num_bytes}}, timeout);
    std::vector<Message> sends;
    for (int peer = 0; peer < size(); ++peer) {
      if (peer != root) sends.push_back({peer, data, num_bytes});
    }
    return Exchange(sends, {}, timeout);
  }

  void Abort(absl::string_view reason) override { group_->Abort(rank_, reason); }

  int64_t bytes_sent() const override { return bytes_sent_; }
  int64_t bytes_received() const override { return bytes_received_; }

 private:
  absl::Status CloseUnlessOk(absl::Status status) {
    if (!status.ok()) group_->Close(rank_, status.message());
    return status;
  }

  const std::shared_ptr<Group> group_;
  const int rank_;
  uint64_t calls_ = 0;
  std::atomic<int64_t> bytes_sent_{0};
  std::atomic<int64_t> bytes_received_{0};
};

}  // namespace

std::vector<std::unique_ptr<Communicator>> MakeLoopbackGroup(int size) {
  auto group = std::make_shared<Group>(size);
  std::vector<std::unique_ptr<Communicator>> result;
  for (int rank = 0; rank < size; ++rank) {
    result.push_back(std::make_unique<LoopbackCommunicator>(group, rank));
  }
  return result;
}

}  // namespace zerocast
