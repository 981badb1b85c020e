#ifndef ZEROCAST_KERNELS_COMM_GLOO_TRANSFER_H_
#define ZEROCAST_KERNELS_COMM_GLOO_TRANSFER_H_

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"
#include "kernels/base/mutex.h"
#include "kernels/comm/communicator.h"
#include "kernels/comm/deadline.h"
#include "kernels/comm/gloo_link.h"

// Moving the messages of one call.  Internal to the Gloo transport.

namespace zerocast {

// What the event thread and Abort tell the thread that waits in a call.  Thread-safe.
//
// Needed because Gloo, when a link breaks, tells only the operations that have not begun: one that
// is half way through would wait until its timeout.
class LinkWatch {
 public:
  struct Closure {
    Deadline::Clock::time_point at;
    std::string detail;
  };

  // The first closure of a peer stays.  Wakes the waiting thread.
  void OnClosed(int peer, const std::string& detail) ABSL_LOCKS_EXCLUDED(mutex_);
  // The first reason stays.  Wakes the waiting thread.  False when it was aborted before.
  bool Abort(absl::string_view reason) ABSL_LOCKS_EXCLUDED(mutex_);

  // `wake` is called, under this object's lock, at each of the events above; nullptr ends that.
  void SetWaker(std::function<void()> wake) ABSL_LOCKS_EXCLUDED(mutex_);

  // Why it was aborted; empty when it was not.
  std::string abort_reason() const ABSL_LOCKS_EXCLUDED(mutex_);
  std::map<int, Closure> closures() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  mutable Mutex mutex_;
  std::function<void()> wake_ ABSL_GUARDED_BY(mutex_);
  std::string abort_reason_ ABSL_GUARDED_BY(mutex_);
  std::map<int, Closure> closures_ ABSL_GUARDED_BY(mutex_);
};

// One call: posts everything, waits for everything, checks every digest.
class GlooTransfer {
 public:
  using Digest = std::array<unsigned char, 8>;

  // For messages whose bytes many participants get, each from another one: all that are sent hold
  // the same bytes, of which there is one digest on all links, computed once.
  struct Passing {
    absl::optional<Digest> sent;      // when not set: is computed, and set
    absl::optional<Digest> received;  // of the one message received; set once it has been checked
  };

  // `call` counts the calls of this communicator; equal on all participants.
  GlooTransfer(GuardedContext* links, LinkWatch* watch, uint64_t nonce, uint64_t call,
               absl::Duration timeout);
  ~GlooTransfer();
  GlooTransfer(const GlooTransfer&) = delete;
  GlooTransfer& operator=(const GlooTransfer&) = delete;

  // Call once, with messages that CheckExchange accepts.  Afterwards no other thread uses their
  // memory.  Errors as Communicator::Exchange.
  // `passing`, where not null, says that the messages are passed on.
  absl::Status Run(absl::Span<const Message> sends, absl::Span<const Message> receives,
                   Passing* passing = nullptr);

 private:
  // The digest that travels behind a message.  A deque of these never moves them.
  struct Trailer {
    Message message;
    Digest digest;
  };

  // One Gloo operation: a part of a message, or a trailer.
  struct Operation {
    int peer = 0;
    bool is_send = false;
    uint64_t slot = 0;
    std::unique_ptr<gloo::transport::UnboundBuffer> buffer;
    Trailer* trailer = nullptr;  // when this operation moves it
    bool done = false;
  };
  enum class WaitResult { kDone, kWoken, kFailed };

  void AddMessage(const Message& message, bool is_send);
  void AddOperation(Operation operation, void* data, size_t num_bytes);
  uint64_t Slot(const Message& message, bool is_send, uint64_t part) const;
  Digest ComputeDigest(const Message& message, bool is_send) const;
  Digest DigestToSend(const Message& message);

  absl::Status PostAll();
  absl::Status Post(Operation& operation);
  absl::Status WaitAll();
  absl::Status WaitFor(Operation& operation);
  WaitResult WaitOnce(Operation& operation, std::chrono::milliseconds timeout, std::string* error);
  bool IsDone(Operation& operation);

  absl::Status CheckTrailer(const Trailer& trailer);
  absl::Status CheckLinks();
  absl::Status FailureOf(const Operation& operation, const std::string& error);
  absl::Status DeadlineError();
  absl::Status GoneError(int peer, absl::string_view detail) const;

  GuardedContext* const links_;
  LinkWatch* const watch_;
  const uint64_t nonce_;
  const uint64_t call_;
  const absl::Duration timeout_;
  const Deadline deadline_;
  const std::string what_;
  Passing* passing_ = nullptr;
  std::deque<Trailer> trailers_;
  std::vector<Operation> operations_;
};

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_COMM_GLOO_TRANSFER_H_
