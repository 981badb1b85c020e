#include "client/agent/session_outbox.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "client/agent/session_wire.h"
#include "kernels/comm/deadline.h"

namespace zerocast {
namespace {

// While there is no stream: what comes beyond this is not reported.
constexpr size_t kMaxKept = 16384;
// A connection that died without a word is noticed by its keepalive, which takes 30 s.
constexpr absl::Duration kMayBeLost = absl::Seconds(60);

// What became of finished shards counts beyond the stream.
bool Survives(const v1::SessionRequest& message) {
  return message.has_hand_over_report() || message.has_shards_freed_report();
}

}  // namespace

void SessionOutbox::Push(v1::SessionRequest message) {
  MutexLock lock(&mutex_);
  if (!open_ && (!Survives(message) || queue_.size() >= kMaxKept)) return;
  queue_.push_back(std::move(message));
  changed_.Signal();
}

void SessionOutbox::ManifestDone(const LoadKey& key,
                                 absl::StatusOr<InspectedCheckpoint> checkpoint) {
  Push(ManifestMessage(key, checkpoint));
}

void SessionOutbox::PlanDone(const LoadKey& key, absl::StatusOr<PreparedPlan> plan) {
  Push(PlanMessage(key, plan));
}

void SessionOutbox::RendezvousPut(const LoadKey& key, const std::string& name,
                                  const std::string& value) {
  Push(RendezvousMessage(key, name, value));
}

void SessionOutbox::Progress(const LoadKey& key, const NodeProgress& progress) {
  v1::SessionRequest message = ProgressMessage(key, progress);
  MutexLock lock(&mutex_);
  if (!open_) return;
  progress_[key.load] = std::move(message);
  changed_.Signal();
}

void SessionOutbox::LoadDone(const LoadKey& key, const NodeResult& result) {
  v1::SessionRequest message = NodeMessage(key, result, socket_path_);
  {
    MutexLock lock(&mutex_);
    progress_.erase(key.load);
  }
  Push(std::move(message));
}

void SessionOutbox::HandedOver(const LoadKey& key, const HandOver& hand_over) {
  Push(HandOverMessage(key, hand_over));
}

void SessionOutbox::ShardsFreed(const LoadKey& key, const std::vector<int32_t>& ranks,
                                const absl::Status& why) {
  Push(ShardsFreedMessage(key, ranks, why));
}

void SessionOutbox::Donated(const LoadKey& key, absl::StatusOr<DonationStep> step) {
  Push(DonationMessage(key, step));
}

void SessionOutbox::FolderLooked(const std::string& look, absl::StatusOr<FoundZeroFolder> folder) {
  Push(FolderMessage(look, folder));
}

void SessionOutbox::InventoryChanged() {
  MutexLock lock(&mutex_);
  inventory_changed_ = true;
  changed_.Signal();
}

void SessionOutbox::Open() {
  MutexLock lock(&mutex_);
  open_ = true;
  // A registration holds the inventory.
  inventory_changed_ = false;
}

void SessionOutbox::Close() {
  MutexLock lock(&mutex_);
  open_ = false;
  progress_.clear();
  queue_.erase(std::remove_if(queue_.begin(), queue_.end(),
                              [](const v1::SessionRequest& message) { return !Survives(message); }),
               queue_.end());
  // Before the others, in their order.
  while (!taken_.empty()) {
    if (clock_->Steady() - taken_.back().first < kMayBeLost) {
      queue_.push_front(std::move(taken_.back().second));
    }
    taken_.pop_back();
  }
  changed_.SignalAll();
}

SessionOutbox::Taken SessionOutbox::Next(absl::Duration timeout, v1::SessionRequest* message) {
  const Deadline deadline(timeout);
  MutexLock lock(&mutex_);
  while (open_ && queue_.empty() && progress_.empty() && !inventory_changed_ &&
         !deadline.Passed()) {
    changed_.WaitWithTimeout(&mutex_, deadline.Remaining());
  }
  if (!open_) return Taken::kClosed;
  if (!queue_.empty()) {
    *message = std::move(queue_.front());
    queue_.pop_front();
    while (!taken_.empty() &&
           (clock_->Steady() - taken_.front().first >= kMayBeLost || taken_.size() >= kMaxKept)) {
      taken_.pop_front();
    }
    if (Survives(*message)) taken_.emplace_back(clock_->Steady(), *message);
    return Taken::kMessage;
  }
  if (std::exchange(inventory_changed_, false)) return Taken::kInventory;
  if (progress_.empty()) return Taken::kIdle;
  *message = std::move(progress_.begin()->second);
  progress_.erase(progress_.begin());
  return Taken::kMessage;
}

}  // namespace zerocast
