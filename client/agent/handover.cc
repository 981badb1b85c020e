#include "client/agent/handover.h"

#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/agent/handover_lobby.h"
#include "client/agent/handover_protocol.h"
#include "client/agent/log.h"
#include "client/agent/threads.h"
#include "client/agent/unique_fd.h"
#include "kernels/base/mutex.h"
#include "kernels/base/status_macros.h"
#include "kernels/comm/deadline.h"
#include "server/base/errors.h"
#include "server/base/missing_folder.h"
#include "server/base/utf8.h"

namespace zerocast {
namespace {

constexpr int kBacklog = 128;

absl::StatusOr<sockaddr_un> Address(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) {
    return InvalidFields({{"socket", absl::StrCat("path '", path, "' must have 1 to ",
                                                  sizeof(address.sun_path) - 1, " bytes")}});
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

const sockaddr* Generic(const sockaddr_un* address) {
  return reinterpret_cast<const sockaddr*>(address);
}

// Removes a socket that a dead agent left; refuses one that somebody listens on.
absl::Status RemoveStale(const std::string& path, const sockaddr_un& address) {
  struct stat info;
  if (::lstat(path.c_str(), &info) != 0) {
    if (errno == ENOENT) return absl::OkStatus();
    return ErrnoStatus(errno, absl::StrCat("look at socket ", path));
  }
  if (!S_ISSOCK(info.st_mode)) {
    return InvalidFields({{"socket", absl::StrCat(path, " exists and is not a socket")}});
  }
  const UniqueFd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!probe.valid()) return ErrnoStatus(errno, "create socket");
  // EAGAIN: its queue is full, so somebody listens.
  if (::connect(probe.get(), Generic(&address), sizeof(address)) == 0 || errno == EAGAIN) {
    return WithReason(
        absl::AlreadyExistsError(absl::StrCat("listen on ", path,
                                              ": another process does; stop it, or use another "
                                              "--socket")),
        "ALREADY_EXISTS");
  }
  if (errno != ECONNREFUSED) return ErrnoStatus(errno, absl::StrCat("probe socket ", path));
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) {
    return ErrnoStatus(errno, absl::StrCat("remove stale socket ", path));
  }
  return absl::OkStatus();
}

// Makes an eventfd readable, for good.
void Raise(const UniqueFd& event) {
  const uint64_t one = 1;
  // Cannot fail: the counter is far from its end.
  if (::write(event.get(), &one, sizeof(one)) < 0) std::abort();
}

absl::StatusOr<UniqueFd> Listen(const std::string& path, mode_t mode) {
  ZC_ASSIGN_OR_RETURN(const sockaddr_un address, Address(path));
  ZC_RETURN_IF_ERROR(RemoveStale(path, address));
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket.valid()) return ErrnoStatus(errno, "create socket");
  // Linux gives the file in the file system the mode of the socket, less the umask: it is never
  // wider than wanted, not even for a moment.
  ::fchmod(socket.get(), mode);
  if (::bind(socket.get(), Generic(&address), sizeof(address)) != 0) {
    const std::string what = absl::StrCat("listen on ", path);
    if (errno == ENOENT) return WithReason(MissingFolder(what, path, "--socket"), "IO_ERROR");
    return ErrnoStatus(errno, what);
  }
  if (::chmod(path.c_str(), mode) != 0 || ::listen(socket.get(), kBacklog) != 0) {
    return ErrnoStatus(errno, absl::StrCat("listen on ", path));
  }
  return socket;
}

}  // namespace

// Shared with the connections' threads.
struct HandOverServer::State {
  explicit State(HandOverOptions o) : options(std::move(o)), served(options.max_connections) {}

  const HandOverOptions options;
  UniqueFd listener;
  UniqueFd wake;    // readable once it serves no more
  UniqueFd recall;  // readable once processes lose memory of this one that they use
  struct stat socket_info = {};
  std::thread accepter;

  Mutex mutex;
  CondVar changed;
  UserQuota served ABSL_GUARDED_BY(mutex);
  // Of those served: whose processes use memory of this one.
  int lending ABSL_GUARDED_BY(mutex) = 0;

  void Accept(const std::shared_ptr<State>& self);
  void AcceptOne(HandOverLobby* lobby);
  // Gives the guest a thread, or refuses it.
  void Admit(const std::shared_ptr<State>& self, HandOverLobby::Guest guest, HandOverLobby* lobby);
  absl::Status CountIn(uid_t uid);
  void CountOut(uid_t uid);
  void Serve(int socket);
  absl::StatusOr<uid_t> CheckPeer(int socket) const;
  // Sends what the shard holds, and waits for the acknowledgement.
  absl::Status Announce(int socket, ShardOffer* offer);
  // After the process could not take it by the way that `offer` says.
  absl::Status TakeAnotherWay(const std::string& why, ShardOffer* offer);
  // Until the process, which uses memory of this one, is gone or has closed the connection.
  void WaitUntilReturned(int socket, const ShardOffer& offer);
  void CountLending(int change);
  bool stops() const;
  absl::Status Attach(int socket);
};

void HandOverServer::State::Accept(const std::shared_ptr<State>& self) {
  HandOverLobby lobby({options.request_timeout, options.max_waiting});
  std::vector<pollfd> fds;
  while (true) {
    fds = {{wake.get(), POLLIN, 0}, {listener.get(), POLLIN, 0}};
    lobby.AddTo(&fds);
    // Without anybody in the lobby without a timeout: it ends by `wake`.
    if (::poll(fds.data(), fds.size(), lobby.TimeoutMillis()) < 0) {
      if (errno == EINTR) continue;
      spdlog::error("hand-over: poll: {}", std::strerror(errno));
      return;
    }
    if (fds[0].revents != 0) return;
    for (HandOverLobby::Guest& guest : lobby.Leave(fds.data() + 2)) {
      Admit(self, std::move(guest), &lobby);
    }
    if (fds[1].revents != 0) AcceptOne(&lobby);
  }
}

void HandOverServer::State::AcceptOne(HandOverLobby* lobby) {
  UniqueFd socket(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!socket.valid()) {
    if (errno == EMFILE || errno == ENFILE || errno == ENOMEM) {
      spdlog::error("hand-over: accept: {}", std::strerror(errno));
      pollfd until_stop = {wake.get(), POLLIN, 0};
      ::poll(&until_stop, 1, 100);  // not again at once: nothing is free yet
    }
    return;
  }
  const absl::StatusOr<uid_t> uid = CheckPeer(socket.get());
  if (uid.ok()) return lobby->Receive({std::move(socket), *uid});
  spdlog::warn("hand-over: {}", ForLog(uid.status()));
  lobby->Refuse(std::move(socket), uid.status());
}

void HandOverServer::State::Admit(const std::shared_ptr<State>& self, HandOverLobby::Guest guest,
                                  HandOverLobby* lobby) {
  const absl::Status counted = CountIn(guest.uid);
  if (!counted.ok()) {
    spdlog::warn("hand-over: {}", ForLog(counted));
    return lobby->Refuse(std::move(guest.socket), counted);
  }
  auto socket = std::make_shared<UniqueFd>(std::move(guest.socket));
  absl::StatusOr<std::thread> thread = StartThread([self, socket, uid = guest.uid]() mutable {
    self->Serve(socket->get());
    // First, so that a client that sees the end of its connection may come again at once.
    self->CountOut(uid);
    socket.reset();
  });
  if (thread.ok()) return thread->detach();
  spdlog::error("hand-over: {}", ForLog(thread.status()));
  CountOut(guest.uid);
  lobby->Refuse(std::move(*socket), Annotate(thread.status(), "attach"));
}

absl::Status HandOverServer::State::CountIn(uid_t uid) {
  MutexLock lock(&mutex);
  if (served.Enter(uid)) return absl::OkStatus();
  return WithReason(absl::ResourceExhaustedError(absl::StrCat(
                        "attach: ", served.total(), " processes are being served, ", served.of(uid),
                        " of them of user ", uid, "; try again in a moment")),
                    "RESOURCE_EXHAUSTED");
}

void HandOverServer::State::CountOut(uid_t uid) {
  MutexLock lock(&mutex);
  served.Leave(uid);
  changed.SignalAll();
}

void HandOverServer::State::Serve(int socket) {
  const absl::Status status = Attach(socket);
  if (status.ok()) return;
  spdlog::warn("hand-over: {}", ForLog(status));
  // The client may be gone, or not listen: then there is nobody to tell.
  WriteFrame(socket, wake.get(), ErrorAnswer(status), -1, options.frame_timeout).IgnoreError();
  // What it still says is read, or it would meet a broken connection instead of the answer.
  ::shutdown(socket, SHUT_WR);
  ReadFrame(socket, wake.get(), kMaxRequestBytes, std::min(options.frame_timeout, kLinger))
      .IgnoreError();
}

absl::StatusOr<uid_t> HandOverServer::State::CheckPeer(int socket) const {
  ucred peer = {};
  socklen_t length = sizeof(peer);
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) {
    return ErrnoStatus(errno, "ask who the client is");
  }
  const auto& allowed = options.allowed_uids;
  if (peer.uid == 0 || peer.uid == ::geteuid() ||
      std::find(allowed.begin(), allowed.end(), peer.uid) != allowed.end()) {
    return peer.uid;
  }
  return WithReason(absl::PermissionDeniedError(absl::StrCat(
                        "attach: user ", peer.uid, " (process ", peer.pid,
                        ") may not; start the agent with --allow-uid ", peer.uid, " to let it")),
                    "PERMISSION_DENIED");
}

absl::Status HandOverServer::State::Announce(int socket, ShardOffer* offer) {
  while (true) {
    ZC_RETURN_IF_ERROR(WriteFrame(socket, wake.get(), AttachAnswer(*offer), offer->trial_fd.get(),
                                  options.frame_timeout));
    ZC_ASSIGN_OR_RETURN(const std::string answer,
                        ReadFrame(socket, wake.get(), kMaxRequestBytes, options.frame_timeout));
    if (IsAck(answer)) return absl::OkStatus();
    const std::optional<std::string> why = WhyItCannot(answer);
    if (!why.has_value()) {
      return InvalidFields({{"op", "must be \"ack\", or \"cannot\" with a why, after an attach"}});
    }
    ZC_RETURN_IF_ERROR(TakeAnotherWay(*why, offer));
  }
}

absl::Status HandOverServer::State::TakeAnotherWay(const std::string& why, ShardOffer* offer) {
  const std::string what = absl::StrCat("hand rank ", offer->rank, " of ", offer->index->load,
                                        " over by ", offer->way, ": the process cannot: ", why);
  // The last of all ways: there is none behind it.
  if (offer->way == "host_copy" || offer->device_uuid.empty() || options.offer_copy == nullptr) {
    return WithReason(absl::FailedPreconditionError(
                          absl::StrCat(what, "; there is no other way, and the agent keeps it")),
                      "UNSUPPORTED");
  }
  spdlog::warn("hand-over: {}; it is copied", EscapeControls(what));
  ZC_ASSIGN_OR_RETURN(*offer, options.offer_copy(*offer, why, [this] { return stops(); }));
  spdlog::info("hand-over: the copy of rank {} of {} goes over by {}", offer->rank,
               offer->index->load, offer->way);
  return absl::OkStatus();
}

bool HandOverServer::State::stops() const {
  pollfd until_stop = {wake.get(), POLLIN, 0};
  return ::poll(&until_stop, 1, 0) > 0;
}

void HandOverServer::State::CountLending(int change) {
  MutexLock lock(&mutex);
  lending += change;
  changed.SignalAll();
}

void HandOverServer::State::WaitUntilReturned(int socket, const ShardOffer& offer) {
  char ignored[64];
  while (true) {
    // Without a timeout: it lasts as long as the memory is used.
    pollfd fds[2] = {{socket, POLLIN, 0}, {recall.get(), POLLIN, 0}};
    if (::poll(fds, 2, -1) < 0 && errno != EINTR) return;
    if (fds[1].revents != 0) {
      spdlog::warn(
          "hand-over of rank {} of {}: the agent stops while the process uses its memory "
          "by a legacy handle, which ends with the agent",
          offer.rank, offer.index->load);
      return;
    }
    if (fds[0].revents == 0) continue;
    const ssize_t got = ::recv(socket, ignored, sizeof(ignored), MSG_DONTWAIT);
    if (got == 0 || (got < 0 && errno != EINTR && errno != EAGAIN)) return;
  }
}

absl::Status HandOverServer::State::Attach(int socket) {
  ZC_ASSIGN_OR_RETURN(const std::string text,
                      ReadFrame(socket, wake.get(), kMaxRequestBytes, options.request_timeout));
  ZC_ASSIGN_OR_RETURN(const AttachRequest request, ParseAttachRequest(text));
  ZC_ASSIGN_OR_RETURN(ShardOffer offer, options.offer(request.load, request.rank, request.token,
                                                      request.mode, [this] { return stops(); }));
  const absl::Status acknowledged = Announce(socket, &offer);
  // The books come before the descriptor: who has it may write to the arena and keep it without a
  // word, so from then on this agent must not count a shared shard as its own.
  const absl::Status settled = options.settle(offer, acknowledged.ok());
  ZC_RETURN_IF_ERROR(acknowledged);
  ZC_RETURN_IF_ERROR(settled);
  const absl::Status given =
      WriteFrame(socket, wake.get(), OkAnswer(offer.handle), offer.fd.get(), options.frame_timeout);
  if (given.ok() && offer.way == "cuda_ipc") {
    CountLending(1);
    WaitUntilReturned(socket, offer);
    CountLending(-1);
  }
  if (!given.ok()) {
    spdlog::warn("hand-over of rank {} of {}: the client acknowledged and then broke off{}: {}",
                 offer.rank, offer.index->load,
                 offer.mode == AttachMode::kShared ? "; the shard is lost, load it again" : "",
                 ForLog(given));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<HandOverServer>> HandOverServer::Start(HandOverOptions options) {
  auto state = std::make_shared<State>(std::move(options));
  const std::string& path = state->options.socket_path;
  ZC_ASSIGN_OR_RETURN(state->listener, Listen(path, state->options.mode));
  for (UniqueFd* const event : {&state->wake, &state->recall}) {
    *event = UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!event->valid()) return ErrnoStatus(errno, "create eventfd");
  }
  if (::lstat(path.c_str(), &state->socket_info) != 0) {
    return ErrnoStatus(errno, absl::StrCat("look at socket ", path));
  }
  ZC_ASSIGN_OR_RETURN(state->accepter, StartThread([state] { state->Accept(state); }));
  return std::unique_ptr<HandOverServer>(new HandOverServer(std::move(state)));
}

HandOverServer::HandOverServer(std::shared_ptr<State> state) : state_(std::move(state)) {}

void HandOverServer::StopServing() {
  if (!state_->accepter.joinable()) return;
  Raise(state_->wake);
  state_->accepter.join();
  // Only the socket that this server made: another agent may have taken the path over.
  struct stat info;
  const std::string& path = state_->options.socket_path;
  if (::lstat(path.c_str(), &info) == 0 && info.st_ino == state_->socket_info.st_ino &&
      info.st_dev == state_->socket_info.st_dev) {
    ::unlink(path.c_str());
  }
  state_->listener.Reset();
  // Every other wait of a connection ends at once by `wake`.
  MutexLock lock(&state_->mutex);
  while (state_->served.total() > state_->lending) {
    state_->changed.WaitWithTimeout(&state_->mutex, absl::Seconds(1));
  }
}

bool HandOverServer::WaitUntilReturned(absl::Duration timeout) {
  const Deadline deadline(timeout);
  MutexLock lock(&state_->mutex);
  while (state_->served.total() > 0 && !deadline.Passed()) {
    state_->changed.WaitWithTimeout(&state_->mutex, deadline.Remaining());
  }
  return state_->served.total() == 0;
}

HandOverServer::~HandOverServer() {
  StopServing();
  Raise(state_->recall);
  while (!WaitUntilReturned(absl::Seconds(1))) {
  }
}

}  // namespace zerocast
