#ifndef ZEROCAST_KERNELS_COMM_GLOO_LINK_H_
#define ZEROCAST_KERNELS_COMM_GLOO_LINK_H_

#include <gloo/transport/tcp/context.h>
#include <gloo/transport/tcp/device.h>
#include <gloo/transport/tcp/pair.h>
#include <signal.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

// Gloo's TCP links made safe.  Internal to the Gloo transport; the only header with Gloo types.
//
// Gloo as it is takes the first TCP connection that arrives for the peer, and an exception in its
// event thread (a damaged header is enough) ends the process.  GuardedPair lets a connection in
// only after a greeting that proves it belongs to this epoch, keeps listening until one did, and
// turns exceptions of the event thread into a closed link.

namespace zerocast {

struct LinkId {
  int self = 0;
  int peer = 0;
  uint64_t nonce = 0;
};

// Told once a link when it closes for any reason but its destruction; `detail` is for people.  Runs
// in Gloo's event thread or in the thread that closed the link, with the link's lock held: it must
// not call into links.
using LinkClosed = std::function<void(int peer, const std::string& detail)>;

// While it lives, writes of this thread to a closed socket give EPIPE without the signal: Gloo
// uses writev, which cannot ask for that.  Threads started meanwhile inherit the blocked signal.
class SigpipeBlocker {
 public:
  SigpipeBlocker();
  ~SigpipeBlocker();
  SigpipeBlocker(const SigpipeBlocker&) = delete;
  SigpipeBlocker& operator=(const SigpipeBlocker&) = delete;

 private:
  sigset_t before_;
  bool was_pending_;
};

class GuardedPair : public gloo::transport::tcp::Pair {
 public:
  enum class Progress { kWaiting, kConnected, kClosed };
  struct Report {
    // kConnected also when it closed later: a peer that is done may leave early.
    Progress progress = Progress::kWaiting;
    std::string detail;    // why it is closed
    bool refused = false;  // the peer answered that it is of another epoch
    int num_refused = 0;   // callers that this end refused because they are of another epoch
  };

  GuardedPair(gloo::transport::tcp::Context* context, gloo::transport::tcp::Device* device,
              LinkId id, LinkClosed on_closed);
  ~GuardedPair() override;

  // False when a stranger got in while the object was being constructed.
  bool Listening();

  // Waits for at most `timeout` until the link is up or closed.
  Report Wait(std::chrono::milliseconds timeout);

  // Closes the link unless it is closed.  Never waits for the peer.
  void Fail(const std::string& detail);

  void handleEvents(int events) override;

 protected:
  // connect() only starts: Wait() above waits, with a deadline that holds.
  void waitUntilConnected(std::unique_lock<std::mutex>&, bool) override {}
  void changeState(state next) noexcept override;

 private:
  class Candidate;
  static constexpr int kHelloBytes = 24;
  using Hello = std::array<unsigned char, kHelloBytes>;
  enum class HelloKind : char { kAsk = 'Q', kAccept = 'A', kRefuse = 'R' };

  static Hello MakeHello(HelloKind kind, int from, int to, uint64_t nonce);
  static bool IsHello(const Hello& hello, HelloKind kind);

  // All below: with the lock of the base class held, in the event thread.
  void AcceptLocked();
  void GreetLocked();
  void AdoptLocked(int fd);
  void FailLocked(const std::string& detail);

  const LinkId id_;
  const LinkClosed on_closed_;
  bool greeted_ = false;
  Hello answer_;
  int num_answered_ = 0;    // bytes of answer_
  bool connected_ = false;  // ever
  bool refused_ = false;
  int num_refused_ = 0;
  std::string detail_;
  // Connections that have not proved anything yet.
  std::vector<std::unique_ptr<Candidate>> candidates_;
};

// The links of one participant.
class GuardedContext : public gloo::transport::tcp::Context {
 public:
  GuardedContext(std::shared_ptr<gloo::transport::tcp::Device> device, int rank, int size,
                 uint64_t nonce, LinkClosed on_closed);

  std::unique_ptr<gloo::transport::Pair>& createPair(int peer) override;

  GuardedPair* link(int peer) { return static_cast<GuardedPair*>(pairs_.at(peer).get()); }
  void FailAll(const std::string& detail);

 private:
  const uint64_t nonce_;
  const LinkClosed on_closed_;
};

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_COMM_GLOO_LINK_H_
