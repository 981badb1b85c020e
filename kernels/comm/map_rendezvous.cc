#include "kernels/comm/map_rendezvous.h"

#include "absl/strings/str_cat.h"
#include "kernels/comm/deadline.h"

namespace zerocast {

absl::Status MapRendezvous::CancelledLocked(absl::string_view call, absl::string_view key) const {
  return absl::CancelledError(
      absl::StrCat("rendezvous ", call, " of key \"", key, "\": cancelled: ", cancel_reason_));
}

absl::Status MapRendezvous::Put(absl::string_view key, absl::string_view value) {
  MutexLock lock(&mutex_);
  if (cancelled_) return CancelledLocked("put", key);
  values_[std::string(key)] = std::string(value);
  changed_.SignalAll();
  return absl::OkStatus();
}

absl::StatusOr<std::string> MapRendezvous::Get(absl::string_view key, absl::Duration timeout) {
  const Deadline deadline(timeout);
  MutexLock lock(&mutex_);
  for (;;) {
    if (cancelled_) return CancelledLocked("get", key);
    const auto it = values_.find(key);
    if (it != values_.end()) return it->second;
    if (deadline.Passed()) {
      return absl::DeadlineExceededError(absl::StrCat("rendezvous get of key \"", key,
                                                      "\": nobody put it within ",
                                                      absl::FormatDuration(timeout)));
    }
    changed_.WaitWithTimeout(&mutex_, deadline.Remaining());
  }
}

void MapRendezvous::Cancel(absl::string_view reason) {
  MutexLock lock(&mutex_);
  if (cancelled_) return;
  cancelled_ = true;
  cancel_reason_ = std::string(reason);
  changed_.SignalAll();
}

}  // namespace zerocast
