#include "kernels/comm/gloo_link.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace zerocast {
namespace {

using ::gloo::transport::tcp::Context;
using ::gloo::transport::tcp::Device;
using ::gloo::transport::tcp::Pair;

// Connections held open at once without a greeting, per link; beyond that the oldest goes.  A real
// peer greets in its first packet, so it is never the oldest for long.
constexpr size_t kMaxCandidates = 64;
constexpr int kListenBacklog = 64;
constexpr int kMaxListenTries = 16;
constexpr char kMagic[] = "ZCLINK1";  // and the kind: 8 bytes

// Gloo's messages begin with "[file:line] " of its own source.
std::string WithoutSource(const std::string& message) {
  const size_t end = message.find("] ");
  return message.rfind('[', 0) == 0 && end != std::string::npos ? message.substr(end + 2) : message;
}

void PutLittleEndian(uint64_t value, int num_bytes, unsigned char* to) {
  for (int i = 0; i < num_bytes; ++i) to[i] = static_cast<unsigned char>(value >> (8 * i));
}

bool WouldBlock(int error) { return error == EAGAIN || error == EWOULDBLOCK || error == EINTR; }

}  // namespace

SigpipeBlocker::SigpipeBlocker() {
  sigset_t pending;
  sigset_t sigpipe;
  sigemptyset(&sigpipe);
  sigaddset(&sigpipe, SIGPIPE);
  sigpending(&pending);
  was_pending_ = sigismember(&pending, SIGPIPE) == 1;
  pthread_sigmask(SIG_BLOCK, &sigpipe, &before_);
}

SigpipeBlocker::~SigpipeBlocker() {
  if (!was_pending_) {
    sigset_t sigpipe;
    sigemptyset(&sigpipe);
    sigaddset(&sigpipe, SIGPIPE);
    const struct timespec now = {0, 0};
    while (sigtimedwait(&sigpipe, nullptr, &now) == -1 && errno == EINTR) {
    }
  }
  pthread_sigmask(SIG_SETMASK, &before_, nullptr);
}

// An accepted connection that has yet to send its greeting.  Closes itself only in its own event,
// or off the event thread: epoll may still hold an event for it in the batch at hand.
class GuardedPair::Candidate : public gloo::transport::tcp::Handler {
 public:
  Candidate(GuardedPair* pair, int fd) : pair_(pair), fd_(fd) {
    pair_->device_->registerDescriptor(fd_, EPOLLIN, this);
  }
  ~Candidate() override {
    if (open()) Close();
  }

  bool open() const { return fd_ >= 0; }

  // Makes its next event close it.
  void Shutdown() {
    if (open()) ::shutdown(fd_, SHUT_RDWR);
  }

  void handleEvents(int) override {
    std::unique_lock<std::mutex> lock(pair_->m_, std::try_to_lock);
    if (!lock || !open()) return;
    try {
      ReadLocked();
    } catch (const std::exception& error) {
      pair_->FailLocked(error.what());
    }
  }

 private:
  void ReadLocked() {
    if (pair_->state_ != LISTENING) return Close();
    const ssize_t got =
        ::recv(fd_, hello_.data() + num_read_, hello_.size() - num_read_, MSG_DONTWAIT);
    if (got < 0 && WouldBlock(errno)) return;
    if (got <= 0) return Close();
    num_read_ += static_cast<int>(got);
    if (num_read_ < kHelloBytes) return;

    const LinkId& id = pair_->id_;
    const bool accepted = hello_ == MakeHello(HelloKind::kAsk, id.peer, id.self, id.nonce);
    if (!accepted && !IsHello(hello_, HelloKind::kAsk)) return Close();
    // A refusal carries no tag of ours: nobody learns from it how to greet.
    const Hello answer = accepted ? MakeHello(HelloKind::kAccept, id.self, id.peer, id.nonce)
                                  : MakeHello(HelloKind::kRefuse, id.self, id.peer, 0);
    const ssize_t sent = ::send(fd_, answer.data(), answer.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (!accepted) {
      ++pair_->num_refused_;
      return Close();
    }
    if (sent != kHelloBytes) return Close();
    pair_->AdoptLocked(std::exchange(fd_, -1));
  }

  void Close() {
    pair_->device_->unregisterDescriptor(fd_, this);
    ::close(std::exchange(fd_, -1));
  }

  GuardedPair* const pair_;
  int fd_;
  Hello hello_;
  int num_read_ = 0;
};

GuardedPair::GuardedPair(Context* context, Device* device, LinkId id, LinkClosed on_closed)
    : Pair(context, device, id.peer, gloo::kNoTimeout), id_(id), on_closed_(std::move(on_closed)) {
  std::lock_guard<std::mutex> lock(m_);
  if (state_ == LISTENING) {
    ::fcntl(fd_, F_SETFL, ::fcntl(fd_, F_GETFL) | O_NONBLOCK);
    // Gloo asks for a backlog of 1, which one stranger fills.
    ::listen(fd_, kListenBacklog);
  }
}

GuardedPair::~GuardedPair() {
  std::lock_guard<std::mutex> lock(m_);
  if (state_ != CLOSED) Pair::changeState(CLOSED);
  candidates_.clear();
}

GuardedPair::Hello GuardedPair::MakeHello(HelloKind kind, int from, int to, uint64_t nonce) {
  Hello hello;
  std::memcpy(hello.data(), kMagic, 7);
  hello[7] = static_cast<unsigned char>(kind);
  PutLittleEndian(from, 4, hello.data() + 8);
  PutLittleEndian(to, 4, hello.data() + 12);
  // Not the nonce itself: what one end sends is of no use for the other direction or another link.
  PutLittleEndian(XXH3_64bits_withSeed(hello.data(), 16, nonce), 8, hello.data() + 16);
  return hello;
}

bool GuardedPair::IsHello(const Hello& hello, HelloKind kind) {
  return std::memcmp(hello.data(), kMagic, 7) == 0 && hello[7] == static_cast<unsigned char>(kind);
}

bool GuardedPair::Listening() {
  std::lock_guard<std::mutex> lock(m_);
  return state_ == LISTENING;
}

GuardedPair::Report GuardedPair::Wait(std::chrono::milliseconds timeout) {
  std::unique_lock<std::mutex> lock(m_);
  cv_.wait_until(lock, std::chrono::steady_clock::now() + timeout,
                 [this] { return state_ >= CONNECTED; });
  Report report;
  report.progress = connected_         ? Progress::kConnected
                    : state_ == CLOSED ? Progress::kClosed
                                       : Progress::kWaiting;
  report.detail = detail_;
  report.refused = refused_;
  report.num_refused = num_refused_;
  return report;
}

void GuardedPair::Fail(const std::string& detail) {
  std::lock_guard<std::mutex> lock(m_);
  FailLocked(detail);
}

void GuardedPair::FailLocked(const std::string& detail) {
  if (state_ == CLOSED || ex_ != nullptr) return;
  signalException(detail);
}

void GuardedPair::changeState(state next) noexcept {
  const bool closes = next == CLOSED && state_ != CLOSED;
  if (next == CONNECTED) connected_ = true;
  Pair::changeState(next);
  if (!closes) return;
  detail_ = "closed";
  try {
    if (ex_ != nullptr) std::rethrow_exception(ex_);
  } catch (const std::exception& error) {
    detail_ = WithoutSource(error.what());
  }
  on_closed_(id_.peer, detail_);
}

// As Pair::handleEvents, but no exception gets out, and connections are greeted first.
void GuardedPair::handleEvents(int events) {
  // Never blocks on the lock: whoever holds it may be waiting for this thread's next round.
  std::unique_lock<std::mutex> lock(m_, std::try_to_lock);
  if (!lock) return;
  try {
    if (state_ == CONNECTED) {
      handleReadWrite(events);
    } else if (state_ == LISTENING) {
      AcceptLocked();
    } else if (state_ == CONNECTING) {
      GreetLocked();
    }
  } catch (const std::exception& error) {
    FailLocked(error.what());
  }
}

void GuardedPair::AcceptLocked() {
  const int fd = ::accept4(fd_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd < 0) return;
  candidates_.erase(std::remove_if(candidates_.begin(), candidates_.end(),
                                   [](const auto& candidate) { return !candidate->open(); }),
                    candidates_.end());
  if (candidates_.size() >= kMaxCandidates) {
    candidates_[candidates_.size() - kMaxCandidates]->Shutdown();
  }
  candidates_.push_back(std::make_unique<Candidate>(this, fd));
}

// The calling end: greets once connected, then waits for the answer.
void GuardedPair::GreetLocked() {
  if (!greeted_) {
    int error = 0;
    socklen_t length = sizeof(error);
    ::getsockopt(fd_, SOL_SOCKET, SO_ERROR, &error, &length);
    if (error != 0) {
      return FailLocked(absl::StrCat("connect ", peer_.str(), ": ", std::strerror(error)));
    }
    const Hello hello = MakeHello(HelloKind::kAsk, id_.self, id_.peer, id_.nonce);
    if (::send(fd_, hello.data(), hello.size(), MSG_NOSIGNAL | MSG_DONTWAIT) != kHelloBytes) {
      return FailLocked(absl::StrCat("greet ", peer_.str(), ": ", std::strerror(errno)));
    }
    greeted_ = true;
    device_->registerDescriptor(fd_, EPOLLIN, this);
    return;
  }
  // Not one byte more than the answer: what follows is Gloo's.
  const ssize_t got =
      ::recv(fd_, answer_.data() + num_answered_, answer_.size() - num_answered_, MSG_DONTWAIT);
  if (got < 0 && WouldBlock(errno)) return;
  if (got <= 0) {
    return FailLocked(absl::StrCat("greet ", peer_.str(), ": ",
                                   got == 0 ? "closed without an answer" : std::strerror(errno)));
  }
  num_answered_ += static_cast<int>(got);
  if (num_answered_ < kHelloBytes) return;
  if (answer_ == MakeHello(HelloKind::kAccept, id_.peer, id_.self, id_.nonce)) {
    return handleConnected();
  }
  refused_ = IsHello(answer_, HelloKind::kRefuse) || IsHello(answer_, HelloKind::kAccept);
  FailLocked(absl::StrCat("greet ", peer_.str(), ": ",
                          refused_ ? "refused, it belongs to another epoch or participant"
                                   : "answered by something that is not zerocast"));
}

void GuardedPair::AdoptLocked(int fd) {
  device_->unregisterDescriptor(fd_, this);
  ::close(fd_);
  fd_ = fd;
  // Registers fd, which is in the event loop under its candidate, for this object.
  handleConnected();
  for (const auto& candidate : candidates_) candidate->Shutdown();
}

GuardedContext::GuardedContext(std::shared_ptr<Device> device, int rank, int size, uint64_t nonce,
                               LinkClosed on_closed)
    : Context(std::move(device), rank, size), nonce_(nonce), on_closed_(std::move(on_closed)) {
  setTimeout(gloo::kNoTimeout);
}

std::unique_ptr<gloo::transport::Pair>& GuardedContext::createPair(int peer) {
  // Pair's constructor starts to listen before GuardedPair's begins: a connection that arrives in
  // between is let in by Gloo itself.  Nobody knows the port yet, so another one is as good.
  for (int tries = 0; tries < kMaxListenTries; ++tries) {
    auto pair =
        std::make_unique<GuardedPair>(this, device_.get(), LinkId{rank, peer, nonce_}, on_closed_);
    if (pair->Listening()) {
      pairs_.at(peer) = std::move(pair);
      return pairs_[peer];
    }
  }
  GLOO_THROW_IO_EXCEPTION("strangers connected to every port before it was published");
}

void GuardedContext::FailAll(const std::string& detail) {
  for (const auto& pair : pairs_) {
    if (pair != nullptr) static_cast<GuardedPair*>(pair.get())->Fail(detail);
  }
}

}  // namespace zerocast
