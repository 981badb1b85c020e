#ifndef ZEROCAST_CLIENT_AGENT_HANDOVER_LOBBY_H_
#define ZEROCAST_CLIENT_AGENT_HANDOVER_LOBBY_H_

#include <poll.h>
#include <sys/types.h>

#include <list>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "client/agent/unique_fd.h"
#include "kernels/comm/deadline.h"

namespace zerocast {

// How long a client that was refused is given to read why.
inline constexpr absl::Duration kLinger = absl::Seconds(1);

// Counts what is at most `max` at a time, of one user at most half of it.  Thread-compatible.
class UserQuota {
 public:
  explicit UserQuota(int max) : max_(max) {}

  // False, and nothing is counted, where there is no room.
  bool Enter(uid_t uid);
  void Leave(uid_t uid);
  int total() const { return total_; }
  int of(uid_t uid) const;

 private:
  const int max_;
  int total_ = 0;
  std::map<uid_t, int> by_uid_;
};

// The connections of the hand-over socket that need no thread: those that have not said anything
// yet, and those that were refused and get the time to read why.  However many there are, they keep
// nobody else waiting.  Thread-compatible: the accepting thread's own.
class HandOverLobby {
 public:
  struct Guest {
    UniqueFd socket;
    uid_t uid = 0;
  };
  struct Options {
    // Until a connection must have said something.
    absl::Duration timeout;
    // At most this many wait at a time; of one user at most half of them.
    int max_waiting = 0;
  };
  explicit HandOverLobby(Options options) : options_(options), waiting_(options.max_waiting) {}

  // A new connection waits here; or, when too many do, is refused with RESOURCE_EXHAUSTED.
  void Receive(Guest guest);
  // Tells the client, and gives it the time to read that: a socket that is closed with a request
  // unread, or before it comes, would show a broken connection instead.
  void Refuse(UniqueFd socket, const absl::Status& why);

  // What to wait for, appended to `fds`, and for how long; -1: for nothing.
  void AddTo(std::vector<pollfd>* fds) const;
  int TimeoutMillis() const;
  // After the wait, with AddTo's part of it: the guests that have said something.  Those that have
  // been silent for too long are refused with DEADLINE_EXCEEDED.
  std::vector<Guest> Leave(const pollfd* fds);

 private:
  struct Entry {
    Guest guest;
    Deadline deadline;
    bool refused;
  };
  std::list<Entry>::iterator Remove(std::list<Entry>::iterator entry);

  const Options options_;
  std::list<Entry> entries_;
  UserQuota waiting_;
  int num_refused_ = 0;
};

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_HANDOVER_LOBBY_H_
