#include "kernels/comm/checks.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/status_macros.h"

namespace zerocast {
namespace {

absl::Status CheckOneWay(int rank, int size, absl::Span<const Message> messages,
                         absl::string_view direction) {
  std::vector<bool> seen(size, false);
  for (const Message& message : messages) {
    const std::string what =
        absl::StrCat(direction, " of participant ", rank, " of ", size, " with peer ", message.peer,
                     ", ", message.num_bytes, " bytes: ");
    if (message.peer < 0 || message.peer >= size) {
      return absl::InvalidArgumentError(absl::StrCat(what, "no such participant"));
    }
    if (message.peer == rank) {
      return absl::InvalidArgumentError(absl::StrCat(what, "a participant has no link to itself"));
    }
    if (seen[message.peer]) {
      return absl::InvalidArgumentError(
          absl::StrCat(what, "a second message with the same peer in one round; join them"));
    }
    seen[message.peer] = true;
    if (message.num_bytes < 0) {
      return absl::InvalidArgumentError(absl::StrCat(what, "the size is negative"));
    }
    if (message.num_bytes > 0 && message.data == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat(what, "data is null"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckExchange(int rank, int size, absl::Span<const Message> sends,
                           absl::Span<const Message> receives) {
  ZC_RETURN_IF_ERROR(CheckOneWay(rank, size, sends, "send"));
  return CheckOneWay(rank, size, receives, "receive");
}

absl::Status CheckBroadcast(int rank, int size, const void* data, int64_t num_bytes, int root) {
  const std::string what = absl::StrCat("broadcast from root ", root, " at participant ", rank,
                                        " of ", size, ", ", num_bytes, " bytes: ");
  if (root < 0 || root >= size) {
    return absl::InvalidArgumentError(absl::StrCat(what, "no such participant"));
  }
  if (num_bytes < 0) {
    return absl::InvalidArgumentError(absl::StrCat(what, "the size is negative"));
  }
  if (num_bytes > 0 && data == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(what, "data is null"));
  }
  return absl::OkStatus();
}

std::string NamePeers(std::vector<int> peers) {
  std::sort(peers.begin(), peers.end());
  peers.erase(std::unique(peers.begin(), peers.end()), peers.end());
  return absl::StrCat(peers.size() == 1 ? "participant " : "participants ",
                      absl::StrJoin(peers, ", "));
}

absl::Status ClosedError(int rank, int size, absl::string_view reason) {
  return absl::FailedPreconditionError(absl::StrCat("use the communicator of participant ", rank,
                                                    " of ", size, ": it is closed (", reason,
                                                    "); retry with a new one under a new epoch"));
}

}  // namespace zerocast
