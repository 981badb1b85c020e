#include "client/agent/links.h"

#include <utility>

#include "absl/status/status.h"

namespace zerocast {

absl::StatusOr<Communicator*> Links::Keep(std::unique_ptr<Communicator> communicator) {
  MutexLock lock(&mutex_);
  if (aborted_) return absl::CancelledError("connect: the load was cancelled");
  kept_.push_back(std::move(communicator));
  return kept_.back().get();
}

void Links::Abort(const std::string& why) {
  MutexLock lock(&mutex_);
  aborted_ = true;
  for (const auto& communicator : kept_) communicator->Abort(why);
}

void Links::Drop() {
  std::vector<std::unique_ptr<Communicator>> dropped;  // destroyed after the lock is released
  MutexLock lock(&mutex_);
  dropped.swap(kept_);
}

}  // namespace zerocast
