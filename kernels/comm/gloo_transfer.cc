#include "kernels/comm/gloo_transfer.h"

#include <gloo/transport/unbound_buffer.h>

#include <algorithm>
#include <exception>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/base/xxh3.h"
#include "kernels/comm/checks.h"

namespace zerocast {
namespace {

// Linux moves at most 2 GiB - 4 KiB a system call; parts of a long message stay well below.
constexpr int64_t kMaxPartBytes = int64_t{1} << 30;
constexpr uint64_t kTrailerPart = ~uint64_t{0};

}  // namespace

void LinkWatch::OnClosed(int peer, const std::string& detail) {
  MutexLock lock(&mutex_);
  closures_.insert({peer, {Deadline::Clock::now(), detail}});
  if (wake_) wake_();
}

bool LinkWatch::Abort(absl::string_view reason) {
  MutexLock lock(&mutex_);
  if (!abort_reason_.empty()) return false;
  abort_reason_ = absl::StrCat("aborted: ", reason);
  if (wake_) wake_();
  return true;
}

void LinkWatch::SetWaker(std::function<void()> wake) {
  MutexLock lock(&mutex_);
  wake_ = std::move(wake);
}

std::string LinkWatch::abort_reason() const {
  MutexLock lock(&mutex_);
  return abort_reason_;
}

std::map<int, LinkWatch::Closure> LinkWatch::closures() const {
  MutexLock lock(&mutex_);
  return closures_;
}

GlooTransfer::GlooTransfer(GuardedContext* links, LinkWatch* watch, uint64_t nonce, uint64_t call,
                           absl::Duration timeout)
    : links_(links),
      watch_(watch),
      nonce_(nonce),
      call_(call),
      timeout_(timeout),
      deadline_(timeout),
      what_(absl::StrCat("call ", call, " of participant ", links->rank, " of ", links->size)) {}

// Here, where the type of the buffers is complete.
GlooTransfer::~GlooTransfer() = default;

absl::Status GlooTransfer::Run(absl::Span<const Message> sends, absl::Span<const Message> receives,
                               Passing* passing) {
  passing_ = passing;
  for (const Message& message : receives) AddMessage(message, /*is_send=*/false);
  for (const Message& message : sends) AddMessage(message, /*is_send=*/true);
  watch_->SetWaker([this] {
    for (const Operation& operation : operations_) {
      if (operation.is_send) {
        operation.buffer->abortWaitSend();
      } else {
        operation.buffer->abortWaitRecv();
      }
    }
  });
  absl::Status status = PostAll();
  if (status.ok()) status = WaitAll();
  watch_->SetWaker(nullptr);
  // A buffer's destructor waits for the event thread to let go of it.
  operations_.clear();
  return status;
}

void GlooTransfer::AddMessage(const Message& message, bool is_send) {
  if (message.num_bytes == 0) return;
  Operation operation;
  operation.peer = message.peer;
  operation.is_send = is_send;
  for (int64_t begin = 0; begin < message.num_bytes; begin += kMaxPartBytes) {
    Operation part;
    part.peer = message.peer;
    part.is_send = is_send;
    part.slot = Slot(message, is_send, begin / kMaxPartBytes);
    AddOperation(std::move(part), static_cast<char*>(message.data) + begin,
                 std::min(kMaxPartBytes, message.num_bytes - begin));
  }
  trailers_.push_back({message, {}});
  operation.slot = Slot(message, is_send, kTrailerPart);
  operation.trailer = &trailers_.back();
  Digest& digest = trailers_.back().digest;
  AddOperation(std::move(operation), digest.data(), digest.size());
}

void GlooTransfer::AddOperation(Operation operation, void* data, size_t num_bytes) {
  operation.buffer = links_->createUnboundBuffer(data, num_bytes);
  operations_.push_back(std::move(operation));
}

// What the two ends call a message.  Derived from all that they must agree on, so that a
// disagreement (another epoch, call or size) never meets: Gloo, given a longer message than it
// expects, would throw in its event thread.
uint64_t GlooTransfer::Slot(const Message& message, bool is_send, uint64_t part) const {
  const int peer = message.peer;
  const uint64_t name[] = {call_, static_cast<uint64_t>(is_send ? links_->rank : peer),
                           static_cast<uint64_t>(is_send ? peer : links_->rank),
                           static_cast<uint64_t>(message.num_bytes), part};
  return XXH3_64bits_withSeed(name, sizeof(name), nonce_);
}

GlooTransfer::Digest GlooTransfer::ComputeDigest(const Message& message, bool is_send) const {
  uint64_t seed = 0;
  if (passing_ == nullptr) {
    seed = Slot(message, is_send, kTrailerPart);
  } else {
    const uint64_t name[] = {call_, static_cast<uint64_t>(message.num_bytes)};
    seed = XXH3_64bits_withSeed(name, sizeof(name), nonce_);
  }
  const uint64_t digest =
      XXH3_64bits_withSeed(message.data, static_cast<size_t>(message.num_bytes), seed);
  Digest bytes;
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<unsigned char>(digest >> 8 * i);
  return bytes;
}

GlooTransfer::Digest GlooTransfer::DigestToSend(const Message& message) {
  if (passing_ != nullptr && passing_->sent.has_value()) return *passing_->sent;
  const Digest digest = ComputeDigest(message, /*is_send=*/true);
  if (passing_ != nullptr) passing_->sent = digest;
  return digest;
}

absl::Status GlooTransfer::PostAll() {
  ZC_RETURN_IF_ERROR(CheckLinks());
  const SigpipeBlocker no_sigpipe;
  for (Operation& operation : operations_) {
    if (!operation.is_send || operation.trailer == nullptr) ZC_RETURN_IF_ERROR(Post(operation));
  }
  // Last, so that the hashing runs while the event thread sends.
  for (Operation& operation : operations_) {
    if (!operation.is_send || operation.trailer == nullptr) continue;
    operation.trailer->digest = DigestToSend(operation.trailer->message);
    ZC_RETURN_IF_ERROR(Post(operation));
  }
  return absl::OkStatus();
}

absl::Status GlooTransfer::Post(Operation& operation) {
  try {
    if (operation.is_send) {
      operation.buffer->send(operation.peer, operation.slot);
    } else {
      operation.buffer->recv(operation.peer, operation.slot);
    }
    return absl::OkStatus();
  } catch (const std::exception& error) {
    return FailureOf(operation, error.what());
  }
}

absl::Status GlooTransfer::WaitAll() {
  for (Operation& operation : operations_) {
    ZC_RETURN_IF_ERROR(WaitFor(operation));
    if (operation.trailer != nullptr && !operation.is_send) {
      ZC_RETURN_IF_ERROR(CheckTrailer(*operation.trailer));
    }
  }
  // All has arrived; but an abort that came first is the answer.
  const std::string abort_reason = watch_->abort_reason();
  return abort_reason.empty() ? absl::OkStatus()
                              : ClosedError(links_->rank, links_->size, abort_reason);
}

absl::Status GlooTransfer::WaitFor(Operation& operation) {
  while (!operation.done) {
    std::string error;
    switch (WaitOnce(operation, deadline_.RemainingMillis(), &error)) {
      case WaitResult::kDone:
        operation.done = true;
        break;
      case WaitResult::kWoken:
        ZC_RETURN_IF_ERROR(CheckLinks());
        break;
      case WaitResult::kFailed:
        return FailureOf(operation, error);
    }
  }
  return absl::OkStatus();
}

GlooTransfer::WaitResult GlooTransfer::WaitOnce(Operation& operation,
                                                std::chrono::milliseconds timeout,
                                                std::string* error) {
  try {
    const bool done = operation.is_send ? operation.buffer->waitSend(timeout)
                                        : operation.buffer->waitRecv(timeout);
    return done ? WaitResult::kDone : WaitResult::kWoken;
  } catch (const std::exception& exception) {
    *error = exception.what();
    return WaitResult::kFailed;
  }
}

// Only for when the call has failed, or the operation's link is closed: a wait that times out, be
// it of 0 ms, closes all links.
bool GlooTransfer::IsDone(Operation& operation) {
  if (operation.done) return true;
  std::string error;
  WaitResult result = WaitResult::kWoken;
  while (result == WaitResult::kWoken) {
    result = WaitOnce(operation, std::chrono::milliseconds(0), &error);
  }
  operation.done = result == WaitResult::kDone;
  return operation.done;
}

absl::Status GlooTransfer::CheckTrailer(const Trailer& trailer) {
  if (trailer.digest == ComputeDigest(trailer.message, /*is_send=*/false)) {
    if (passing_ != nullptr) passing_->received = trailer.digest;
    return absl::OkStatus();
  }
  return absl::DataLossError(absl::StrCat(what_, ": receive ", trailer.message.num_bytes,
                                          " bytes from participant ", trailer.message.peer,
                                          ": they do not match the digest sent with them"));
}

// An error when the call was aborted or a link that it still needs is closed.
absl::Status GlooTransfer::CheckLinks() {
  const std::string abort_reason = watch_->abort_reason();
  if (!abort_reason.empty()) return ClosedError(links_->rank, links_->size, abort_reason);
  const auto closures = watch_->closures();
  if (closures.empty()) return absl::OkStatus();
  for (Operation& operation : operations_) {
    const auto closure = closures.find(operation.peer);
    if (closure != closures.end() && !IsDone(operation)) {
      return GoneError(operation.peer, closure->second.detail);
    }
  }
  return absl::OkStatus();
}

// The reason why Gloo threw `error` at `operation`.
absl::Status GlooTransfer::FailureOf(const Operation& operation, const std::string& error) {
  const std::string abort_reason = watch_->abort_reason();
  if (!abort_reason.empty()) return ClosedError(links_->rank, links_->size, abort_reason);
  const auto closures = watch_->closures();
  const auto closure = closures.find(operation.peer);
  // A wait that times out closes all links itself: a closure after the deadline explains nothing.
  const bool closed_before = closure != closures.end() && closure->second.at < deadline_.at();
  if (deadline_.Passed() && !closed_before) return DeadlineError();
  return GoneError(operation.peer, closed_before ? closure->second.detail : error);
}

absl::Status GlooTransfer::DeadlineError() {
  std::vector<int> peers;
  for (Operation& operation : operations_) {
    if (!IsDone(operation)) peers.push_back(operation.peer);
  }
  return absl::DeadlineExceededError(absl::StrCat(what_, ": still waiting for ",
                                                  NamePeers(std::move(peers)), " after ",
                                                  absl::FormatDuration(timeout_)));
}

absl::Status GlooTransfer::GoneError(int peer, absl::string_view detail) const {
  return absl::UnavailableError(
      absl::StrCat(what_, ": lost the link to participant ", peer, ": ", detail));
}

}  // namespace zerocast
