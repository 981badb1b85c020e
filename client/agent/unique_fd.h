#ifndef ZEROCAST_CLIENT_AGENT_UNIQUE_FD_H_
#define ZEROCAST_CLIENT_AGENT_UNIQUE_FD_H_

#include <unistd.h>

#include <utility>

namespace zerocast {

// Owns a file descriptor; move-only.
class UniqueFd {
 public:
  explicit UniqueFd(int fd = -1) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) {
      Reset();
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }
  ~UniqueFd() { Reset(); }

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  void Reset() {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  }

 private:
  int fd_;
};

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_UNIQUE_FD_H_
