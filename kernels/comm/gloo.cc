#include "kernels/comm/gloo.h"

#include <algorithm>
#include <atomic>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/mutex.h"
#include "kernels/base/status_macros.h"
#include "kernels/comm/checks.h"
#include "kernels/comm/gloo_mesh.h"
#include "kernels/comm/gloo_transfer.h"

namespace zerocast {
namespace {

// A broadcast of that many bytes goes down a chain of segments, a smaller one down a tree
// (tests/bench/comm_bench).
constexpr int64_t kLeastChainBytes = int64_t{16} << 20;
constexpr int64_t kSegmentBytes = int64_t{4} << 20;

class GlooCommunicator : public Communicator {
 public:
  // `links` is null when size is 1.
  GlooCommunicator(const GlooOptions& options, std::shared_ptr<LinkWatch> watch,
                   std::shared_ptr<GuardedContext> links)
      : rank_(options.rank),
        size_(options.size),
        nonce_(options.nonce),
        watch_(std::move(watch)),
        links_(std::move(links)) {}

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  absl::string_view transport() const override { return "gloo"; }

  absl::Status Exchange(absl::Span<const Message> sends, absl::Span<const Message> receives,
                        absl::Duration timeout) override {
    ZC_RETURN_IF_ERROR(CheckOpen());
    ++calls_;
    absl::Status status = CheckExchange(rank_, size_, sends, receives);
    if (status.ok()) status = Transfer(sends, receives, timeout);
    return CloseUnlessOk(std::move(status));
  }

  absl::Status Broadcast(void* data, int64_t num_bytes, int root, absl::Duration timeout) override {
    ZC_RETURN_IF_ERROR(CheckOpen());
    ++calls_;
    absl::Status status = CheckBroadcast(rank_, size_, data, num_bytes, root);
    if (status.ok() && links_ != nullptr) {
      status = num_bytes >= kLeastChainBytes && size_ > 2
                   ? BroadcastChain(static_cast<char*>(data), num_bytes, root, timeout)
                   : BroadcastTree(data, num_bytes, root, timeout);
    }
    return CloseUnlessOk(std::move(status));
  }

  void Abort(absl::string_view reason) override {
    if (!watch_->Abort(reason)) return;
    if (links_ != nullptr) links_->FailAll(absl::StrCat("aborted: ", reason));
  }

  int64_t bytes_sent() const override { return bytes_sent_; }
  int64_t bytes_received() const override { return bytes_received_; }

 private:
  absl::Status CheckOpen() {
    const std::string abort_reason = watch_->abort_reason();
    std::string reason;
    {
      MutexLock lock(&mutex_);
      reason = error_;
    }
    if (reason.empty() && abort_reason.empty()) return absl::OkStatus();
    absl::StrAppend(&reason, reason.empty() || abort_reason.empty() ? "" : "; ", abort_reason);
    return ClosedError(rank_, size_, reason);
  }

  // Closes the links as well: peers must not wait for a participant that has given up.
  absl::Status CloseUnlessOk(absl::Status status) {
    if (status.ok()) return status;
    {
      MutexLock lock(&mutex_);
      error_ = std::string(status.message());
    }
    if (links_ != nullptr) links_->FailAll("this participant gave up");
    return status;
  }

  absl::Status Transfer(absl::Span<const Message> sends, absl::Span<const Message> receives,
                        absl::Duration timeout, GlooTransfer::Passing* passing = nullptr) {
    if (links_ == nullptr) return absl::OkStatus();
    ZC_RETURN_IF_ERROR(GlooTransfer(links_.get(), watch_.get(), nonce_, calls_, timeout)
                           .Run(sends, receives, passing));
    for (const Message& send : sends) bytes_sent_ += send.num_bytes;
    for (const Message& receive : receives) bytes_received_ += receive.num_bytes;
    return absl::OkStatus();
  }

  // Down a binomial tree: a participant's place is its distance from the root; its parent is the
  // place with the lowest set bit cleared, and it passes on to the places with a lower bit set.
  absl::Status BroadcastTree(void* data, int64_t num_bytes, int root, absl::Duration timeout) {
    const Deadline deadline(timeout);
    const int place = (rank_ - root + size_) % size_;
    const auto peer_at = [&](int peer_place) { return (peer_place + root) % size_; };
    std::vector<Message> receives;
    std::vector<Message> sends;
    int bit = 1;
    for (; bit < size_ && (place & bit) == 0; bit <<= 1) {
      if (place + bit < size_) sends.push_back({peer_at(place + bit), data, num_bytes});
    }
    if (place != 0) receives.push_back({peer_at(place - bit), data, num_bytes});
    GlooTransfer::Passing passing;
    ZC_RETURN_IF_ERROR(Transfer({}, receives, deadline.Remaining(), &passing));
    passing.sent = passing.received;
    return Transfer(sends, {}, deadline.Remaining(), &passing);
  }

  // From place to place, a segment at a time: each link carries the bytes once, however many
  // participants there are, and all links are at work at once.  Segments of one size have one slot:
  // a link keeps their order.
  absl::Status BroadcastChain(char* data, int64_t num_bytes, int root, absl::Duration timeout) {
    const Deadline deadline(timeout);
    const int place = (rank_ - root + size_) % size_;
    const auto segment = [&](int peer, int64_t number) {
      const int64_t begin = number * kSegmentBytes;
      return Message{peer, data + begin, std::min(kSegmentBytes, num_bytes - begin)};
    };
    const int64_t num_segments = (num_bytes + kSegmentBytes - 1) / kSegmentBytes;
    std::vector<Message> sends, receives;
    GlooTransfer::Passing passing;
    for (int64_t step = 0; step <= num_segments; ++step) {
      passing.sent = std::exchange(passing.received, absl::nullopt);
      sends.clear();
      receives.clear();
      if (place > 0 && step < num_segments) {
        receives.push_back(segment((rank_ - 1 + size_) % size_, step));
      }
      if (place + 1 < size_ && step > 0) sends.push_back(segment((rank_ + 1) % size_, step - 1));
      ZC_RETURN_IF_ERROR(Transfer(sends, receives, deadline.Remaining(), &passing));
    }
    return absl::OkStatus();
  }

  const int rank_;
  const int size_;
  const uint64_t nonce_;
  const std::shared_ptr<LinkWatch> watch_;
  const std::shared_ptr<GuardedContext> links_;
  uint64_t calls_ = 0;
  std::atomic<int64_t> bytes_sent_{0};
  std::atomic<int64_t> bytes_received_{0};
  Mutex mutex_;
  std::string error_ ABSL_GUARDED_BY(mutex_);
};

absl::Status CheckOptions(const GlooOptions& options) {
  if (options.size < 1 || options.rank < 0 || options.rank >= options.size) {
    return absl::InvalidArgumentError(absl::StrCat("connect participant ", options.rank, " of ",
                                                   options.size, ": no such participant"));
  }
  if (options.size > 1 && options.rendezvous == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("connect participant ", options.rank, " of ",
                                                   options.size, ": rendezvous is not set"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Communicator>> MakeGlooCommunicator(const GlooOptions& options) {
  ZC_RETURN_IF_ERROR(CheckOptions(options));
  auto watch = std::make_shared<LinkWatch>();
  std::shared_ptr<GuardedContext> links;
  if (options.size > 1) {
    ZC_ASSIGN_OR_RETURN(links,
                        ConnectGlooMesh(options, [watch](int peer, const std::string& detail) {
                          watch->OnClosed(peer, detail);
                        }));
  }
  return std::make_unique<GlooCommunicator>(options, std::move(watch), std::move(links));
}

}  // namespace zerocast
