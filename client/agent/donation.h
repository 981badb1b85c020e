#ifndef ZEROCAST_CLIENT_AGENT_DONATION_H_
#define ZEROCAST_CLIENT_AGENT_DONATION_H_

#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "client/agent/load_environment.h"
#include "client/agent/messages.h"
#include "client/agent/shard_cache.h"
#include "kernels/base/mutex.h"
#include "kernels/comm/communicator.h"
#include "kernels/comm/map_rendezvous.h"

namespace zerocast {

// Finished shards given to the agents of a load that this agent is not part of.  Accept and Run are
// called once each, one after the other, on a worker thread; the rest from any thread.
class Donation {
 public:
  Donation(std::shared_ptr<LoadEnvironment> environment, LoadKey key);

  const LoadKey& key() const { return key_; }

  // Takes leases of the shards, so that they stay until the end.  FAILED_PRECONDITION, reason
  // WRONG_STATE, when one is not here any more; INVALID_ARGUMENT for a command that makes no sense.
  absl::Status Accept(DonateCommand command);
  // Connects and sends.  Errors: those of ConnectThroughServer and TransferShards.
  absl::Status Run();

  void AddRendezvous(const std::string& name, const std::string& value);
  // Ends what is in progress with CANCELLED.  Idempotent.
  void Cancel(const std::string& why);
  bool cancelled() const { return cancelled_; }
  // Waits until somebody cancels; false after `timeout`.
  bool WaitForCancel(absl::Duration timeout);

 private:
  const std::shared_ptr<LoadEnvironment> environment_;
  const LoadKey key_;
  MapRendezvous rendezvous_;
  std::atomic<bool> cancelled_{false};

  // Of the worker thread.
  DonateCommand command_;
  std::map<int32_t, ShardLease> shards_;  // by rank

  Mutex mutex_;
  CondVar cancel_changed_;
  std::unique_ptr<Communicator> communicator_ ABSL_GUARDED_BY(mutex_);
};

// The donations in progress, by load.  Thread-safe.
class Donations {
 public:
  // Replaces (and cancels) an older one of the load.
  void Add(const std::shared_ptr<Donation>& donation);
  void Remove(const std::shared_ptr<Donation>& donation);
  void AddRendezvous(const LoadKey& key, const std::string& name, const std::string& value);
  // Of attempts up to key.epoch.
  void Cancel(const LoadKey& key, const std::string& why);
  void CancelAll(const std::string& why);

 private:
  Mutex mutex_;
  std::map<std::string, std::shared_ptr<Donation>> donations_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_DONATION_H_
