#ifndef ZEROCAST_TESTS_CLIENT_AGENT_HELD_FILE_H_
#define ZEROCAST_TESTS_CLIENT_AGENT_HELD_FILE_H_

#include <fcntl.h>
#include <poll.h>
#include <sys/fanotify.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string>

#include "client/agent/unique_fd.h"

namespace zerocast {

// Makes the kernel hold the calls on a file, as a dead network file system does: this process is
// the permission listener of the file (fanotify(7)) and never answers.  Destroying it lets them go.
class HeldFile {
 public:
  // `calls`: FAN_OPEN_PERM, FAN_ACCESS_PERM (reads).
  HeldFile(const std::string& path, uint64_t calls)
      : fd_(::fanotify_init(FAN_CLASS_CONTENT | FAN_CLOEXEC | FAN_NONBLOCK, O_RDONLY)) {
    if (!fd_.valid()) {
      why_not_ = std::string("fanotify_init: ") + std::strerror(errno);
    } else if (::fanotify_mark(fd_.get(), FAN_MARK_ADD, calls, AT_FDCWD, path.c_str()) != 0) {
      why_not_ = std::string("fanotify_mark: ") + std::strerror(errno);
    }
  }

  // Empty when it works; it needs CAP_SYS_ADMIN and a kernel with permission events.
  const std::string& why_not() const { return why_not_; }

  // Waits until a call hangs; false where none does within 20 s.
  bool WaitForCall() const {
    struct pollfd poll_fd = {fd_.get(), POLLIN, 0};
    return ::poll(&poll_fd, 1, 20'000) == 1;
  }

 private:
  UniqueFd fd_;
  std::string why_not_;
};

}  // namespace zerocast

#endif  // ZEROCAST_TESTS_CLIENT_AGENT_HELD_FILE_H_
