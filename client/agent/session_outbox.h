#ifndef ZEROCAST_CLIENT_AGENT_SESSION_OUTBOX_H_
#define ZEROCAST_CLIENT_AGENT_SESSION_OUTBOX_H_

#include <deque>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "client/agent/messages.h"
#include "kernels/base/mutex.h"
#include "server/base/clock.h"
#include "zerocast/v1/agent.pb.h"

namespace zerocast {

// What waits to be sent to the server.  Thread-safe; nothing blocks but Next.
//
// Of progress only the latest of each load is kept.  While there is no stream only what became of
// finished shards is kept, hand-overs and freed ones: a load in work does not survive its stream, a
// finished one does.  Such a message that the stream has taken is kept on, too, for as long as a
// dead connection may stay unnoticed; if the stream ends before that it is said again on the next
// one, which does no harm: the server counts it once.
class SessionOutbox : public AgentEvents {
 public:
  explicit SessionOutbox(std::string socket_path, const Clock* clock = Clock::Real())
      : socket_path_(std::move(socket_path)), clock_(clock) {}

  void ManifestDone(const LoadKey& key, absl::StatusOr<InspectedCheckpoint> checkpoint) override;
  void PlanDone(const LoadKey& key, absl::StatusOr<PreparedPlan> plan) override;
  void RendezvousPut(const LoadKey& key, const std::string& name,
                     const std::string& value) override;
  void Progress(const LoadKey& key, const NodeProgress& progress) override;
  void LoadDone(const LoadKey& key, const NodeResult& result) override;
  void HandedOver(const LoadKey& key, const HandOver& hand_over) override;
  void ShardsFreed(const LoadKey& key, const std::vector<int32_t>& ranks,
                   const absl::Status& why) override;
  void Donated(const LoadKey& key, absl::StatusOr<DonationStep> step) override;
  void FolderLooked(const std::string& look, absl::StatusOr<FoundZeroFolder> folder) override;
  void InventoryChanged() override;

  // A stream begins, or ends; ending it wakes Next.
  void Open();
  void Close();

  // The next message into `message`.  kInventory when it is time to say what other loads can take,
  // which the caller looks up only then; kIdle when nothing came within `timeout`, kClosed when
  // there is no stream.  Whether it is written or not: what must not get lost is said again after
  // Close.
  enum class Taken { kMessage, kInventory, kIdle, kClosed };
  Taken Next(absl::Duration timeout, v1::SessionRequest* message);

 private:
  void Push(v1::SessionRequest message);

  const std::string socket_path_;
  const Clock* const clock_;
  Mutex mutex_;
  CondVar changed_;
  bool open_ ABSL_GUARDED_BY(mutex_) = false;
  std::deque<v1::SessionRequest> queue_ ABSL_GUARDED_BY(mutex_);
  // What must not get lost and this stream may not have delivered, and when it was taken.
  std::deque<std::pair<absl::Duration, v1::SessionRequest>> taken_ ABSL_GUARDED_BY(mutex_);
  bool inventory_changed_ ABSL_GUARDED_BY(mutex_) = false;
  std::map<std::string, v1::SessionRequest> progress_ ABSL_GUARDED_BY(mutex_);  // by load
};

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_SESSION_OUTBOX_H_
