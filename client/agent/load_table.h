#ifndef ZEROCAST_CLIENT_AGENT_LOAD_TABLE_H_
#define ZEROCAST_CLIENT_AGENT_LOAD_TABLE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/agent/donation.h"
#include "client/agent/load.h"
#include "client/agent/messages.h"
#include "client/agent/shards.h"
#include "kernels/base/mutex.h"

namespace zerocast {

struct LoadCounts {
  int64_t ready = 0;
  int64_t failed = 0;
  int64_t cancelled = 0;
  int64_t expired = 0;  // loads of which shards were freed because nobody took them
  int64_t held = 0;     // gauge
};

// All loads of an agent: commands in, events out.  No call blocks: the work is done on threads of
// its own, one a command.  Thread-safe.
//
// Fencing: a command whose epoch is smaller than one seen for its load is answered with
// FAILED_PRECONDITION, reason STALE_EPOCH; a greater one cancels what the older attempt holds.
class LoadTable {
 public:
  LoadTable(std::shared_ptr<LoadEnvironment> environment, int max_loads);
  // Shutdown().
  ~LoadTable();
  LoadTable(const LoadTable&) = delete;
  LoadTable& operator=(const LoadTable&) = delete;

  // Answered by ManifestDone, within the command's timeout; not when it is cancelled.
  void Inspect(const LoadKey& key, const InspectCommand& command);
  // Answered by PlanDone; on failure nothing of the load stays.
  void Prepare(const LoadKey& key, PrepareCommand command);
  // Answered by Progress and, in the end, LoadDone; on failure nothing of the load stays.
  void Start(const LoadKey& key, StartCommand command = {});
  // Gives shards to the agents of a load of which this one is no node.  Answered by Donated, with
  // kAccepted at once and in the end kDone, or with an error; not when it is cancelled.
  void Donate(const LoadKey& key, DonateCommand command);
  void AddRendezvous(const LoadKey& key, const std::string& name, const std::string& value);
  // Frees everything of attempts up to key.epoch, donations to them included; not answered.
  void Cancel(const LoadKey& key, const std::string& why);
  void CancelAll(const std::string& why);

  // Loads in work, or with shards here.
  std::vector<LoadKey> Held() const;

  // What other loads can take from here; changes are told by AgentEvents::InventoryChanged.
  std::vector<HeldShards> Inventory() const;
  ShardCacheStats cache_stats() const;

  // Frees the shards that no process has taken within `ttl` of their load's being ready.  A load
  // that has none left is not held any more; who asks for it is told why, as the server is
  // (AgentEvents::ShardsFreed).
  void ExpireUnclaimed(absl::Duration ttl);

  // For the hand-over: the shard of a rank, as ShardBook::Offer.  NOT_FOUND when the load is not
  // here, FAILED_PRECONDITION while it is in work, or when it left.  Every offer must be settled.
  absl::StatusOr<ShardOffer> Offer(const std::string& load, int32_t rank, const std::string& token,
                                   AttachMode mode, const std::function<bool()>& stopped = nullptr);
  // As ShardBook::OfferCopy; FAILED_PRECONDITION when the load was cancelled meanwhile.
  absl::StatusOr<ShardOffer> OfferCopy(const ShardOffer& offer, const std::string& why,
                                       const std::function<bool()>& stopped);
  // As ShardBook::Settle; FAILED_PRECONDITION when the load was cancelled meanwhile: then nothing
  // may be given.
  absl::Status Settle(const ShardOffer& offer, bool acknowledged);

  // Cancels everything and waits, at most `timeout`, for the threads.  Later commands are dropped.
  void Shutdown(absl::Duration timeout);

  LoadCounts counts() const;

 private:
  struct State;
  struct Offered {
    std::shared_ptr<Load> load;
    std::shared_ptr<ShardBook> shards;
  };
  absl::StatusOr<Offered> FindOffered(const ShardOffer& offer) const;
  absl::Status Fence(const LoadKey& key);
  // Cancels on a thread: to unmap an arena of many GB takes its time.
  void Free(std::shared_ptr<Load> load, const std::string& why);
  static void Remove(State* state, const std::shared_ptr<Load>& load);
  static void RunLoad(const std::shared_ptr<State>& state, const std::shared_ptr<Load>& load,
                      const StartCommand& command);
  static void RunDonation(const std::shared_ptr<State>& state,
                          const std::shared_ptr<Donation>& donation, const DonateCommand& command);
  // Runs `work` on a thread; `failed` is called instead when there is none.
  template <typename Work, typename Failed>
  void Spawn(Work work, Failed failed);

  // Shared with the threads.
  const std::shared_ptr<State> state_;
};

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_LOAD_TABLE_H_
