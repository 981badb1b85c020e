#ifndef ZEROCAST_CLIENT_AGENT_PIECE_CURSOR_H_
#define ZEROCAST_CLIENT_AGENT_PIECE_CURSOR_H_

#include <limits.h>
#include <sys/uio.h>

#include <algorithm>
#include <cstddef>
#include <vector>

#include "absl/types/span.h"

namespace zerocast {

// Pieces of memory that one system call fills.
inline constexpr size_t kMaxPieces = 256;
static_assert(kMaxPieces <= IOV_MAX);

// How far pieces of memory have been filled by system calls that each may fill less than asked.
class PieceCursor {
 public:
  PieceCursor() = default;
  // `pieces` must outlive it.
  explicit PieceCursor(absl::Span<const struct iovec> pieces) : rest_(pieces) { DropFilled(); }

  bool at_end() const { return rest_.empty(); }

  // What the next system call fills; stays where it is until the next call of this.  Requires
  // !at_end().
  absl::Span<const struct iovec> Next() {
    const size_t count = std::min(rest_.size(), kMaxPieces);
    call_.assign(rest_.begin(), rest_.begin() + static_cast<std::ptrdiff_t>(count));
    call_[0].iov_base = static_cast<char*>(call_[0].iov_base) + filled_;
    call_[0].iov_len -= filled_;
    return call_;
  }

  void Advance(size_t num_bytes) {
    filled_ += num_bytes;
    DropFilled();
  }

  size_t BytesLeft() const {
    size_t total = 0;
    for (const struct iovec& piece : rest_) total += piece.iov_len;
    return total - filled_;
  }

 private:
  void DropFilled() {
    while (!rest_.empty() && filled_ >= rest_.front().iov_len) {
      filled_ -= rest_.front().iov_len;
      rest_.remove_prefix(1);
    }
  }

  absl::Span<const struct iovec> rest_;
  size_t filled_ = 0;  // bytes of rest_.front()
  std::vector<struct iovec> call_;
};

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_PIECE_CURSOR_H_
