#include "client/agent/handover_lobby.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/agent/handover_protocol.h"
#include "server/base/errors.h"

namespace zerocast {
namespace {

// When more than this many read why they were refused, the oldest ones are not waited for.
constexpr int kMaxRefused = 256;
// The buffer of a new socket is empty: writing does not wait.
constexpr absl::Duration kWriteTimeout = absl::Milliseconds(10);

}  // namespace

int UserQuota::of(uid_t uid) const {
  const auto found = by_uid_.find(uid);
  return found == by_uid_.end() ? 0 : found->second;
}

bool UserQuota::Enter(uid_t uid) {
  if (total_ >= max_ || of(uid) >= std::max(1, max_ / 2)) return false;
  ++total_;
  ++by_uid_[uid];
  return true;
}

void UserQuota::Leave(uid_t uid) {
  --total_;
  if (--by_uid_[uid] == 0) by_uid_.erase(uid);
}

std::list<HandOverLobby::Entry>::iterator HandOverLobby::Remove(std::list<Entry>::iterator entry) {
  if (entry->refused) {
    --num_refused_;
  } else {
    waiting_.Leave(entry->guest.uid);
  }
  return entries_.erase(entry);
}

void HandOverLobby::Receive(Guest guest) {
  if (!waiting_.Enter(guest.uid)) {
    Refuse(
        std::move(guest.socket),
        WithReason(absl::ResourceExhaustedError(absl::StrCat(
                       "attach: ", waiting_.total(),
                       " connections wait that have not asked for anything, ",
                       waiting_.of(guest.uid), " of them of user ", guest.uid,
                       "; close them, or try again in ", absl::FormatDuration(options_.timeout))),
                   "RESOURCE_EXHAUSTED"));
    return;
  }
  entries_.push_back({std::move(guest), Deadline(options_.timeout), /*refused=*/false});
}

void HandOverLobby::Refuse(UniqueFd socket, const absl::Status& why) {
  // The client may be gone, or not listen: then there is nobody to tell.
  WriteFrame(socket.get(), /*wake_fd=*/-1, ErrorAnswer(why), -1, kWriteTimeout).IgnoreError();
  ::shutdown(socket.get(), SHUT_WR);
  if (num_refused_ >= kMaxRefused) {
    Remove(std::find_if(entries_.begin(), entries_.end(),
                        [](const Entry& entry) { return entry.refused; }));
  }
  ++num_refused_;
  entries_.push_back({{std::move(socket), 0}, Deadline(kLinger), /*refused=*/true});
}

void HandOverLobby::AddTo(std::vector<pollfd>* fds) const {
  for (const Entry& entry : entries_) fds->push_back({entry.guest.socket.get(), POLLIN, 0});
}

int HandOverLobby::TimeoutMillis() const {
  int millis = -1;
  for (const Entry& entry : entries_) {
    const int left = static_cast<int>(entry.deadline.RemainingMillis().count());
    if (millis < 0 || left < millis) millis = left;
  }
  return millis;
}

std::vector<HandOverLobby::Guest> HandOverLobby::Leave(const pollfd* fds) {
  std::vector<Guest> speaking;
  std::vector<UniqueFd> silent;
  // Refusing appends: only those that `fds` knows.
  const size_t num_known = entries_.size();
  auto entry = entries_.begin();
  for (size_t k = 0; k < num_known; ++k) {
    bool gone = false;
    if (fds[k].revents != 0) {
      char bytes[4096];
      // What a refused client says is read and dropped, what the others say is left for who serves
      // them.
      const ssize_t got = ::recv(entry->guest.socket.get(), bytes, sizeof(bytes),
                                 MSG_DONTWAIT | (entry->refused ? 0 : MSG_PEEK));
      gone = got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR);
      if (got > 0 && !entry->refused) {
        speaking.push_back(std::move(entry->guest));
        entry = Remove(entry);
        continue;
      }
    }
    if (gone || (entry->refused && entry->deadline.Passed())) {
      entry = Remove(entry);
    } else if (!entry->refused && entry->deadline.Passed()) {
      silent.push_back(std::move(entry->guest.socket));
      entry = Remove(entry);
    } else {
      ++entry;
    }
  }
  for (UniqueFd& socket : silent) {
    Refuse(std::move(socket), WithReason(absl::DeadlineExceededError(
                                             absl::StrCat("attach: the connection was silent for ",
                                                          absl::FormatDuration(options_.timeout))),
                                         "DEADLINE_EXCEEDED"));
  }
  return speaking;
}

}  // namespace zerocast
