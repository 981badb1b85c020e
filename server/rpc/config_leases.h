#ifndef ZEROCAST_SERVER_RPC_CONFIG_LEASES_H_
#define ZEROCAST_SERVER_RPC_CONFIG_LEASES_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "kernels/base/mutex.h"
#include "server/base/clock.h"
#include "server/store/state_store.h"

namespace zerocast::rpc {

// What is kept of a job's config: it never changes, so that a copy is as good as the job's own.
struct KeptConfig {
  std::string resolved_json;  // "" for a job without a config
  std::string dtype;          // "bf16", "fp16", "fp32" or ""
  int zero_stage = 0;

  bool operator==(const KeptConfig& other) const {
    return resolved_json == other.resolved_json && dtype == other.dtype &&
           zero_stage == other.zero_stage;
  }
};

struct ConfigLease {
  std::string name;  // "configLeases/ID"
  std::string job;   // "jobs/ID"
  absl::Duration ttl;
  absl::Time expire_time;  // for people, and for the next process
};

// The leases on configs of jobs: what they keep outlives the job.  The copy of a job's config is
// made with its first lease and freed with its last.
//
// Leases are in the store before they are answered and live through a restart: in one process a
// lease ends by the steady clock, in the next one its remaining time is taken from expire_time, at
// most its ttl.  A lease that has expired is gone at once; its record goes within a second, or
// when the store takes writes again.
//
// Thread-safe.  Writes are in turn, one at a time; reads wait for none of them.
class ConfigLeases {
 public:
  static constexpr absl::Duration kMinTtl = absl::Seconds(1), kMaxTtl = absl::Hours(24 * 7);
  static constexpr absl::Duration kDefaultTtl = absl::Hours(1);

  struct Options {
    int64_t max_leases = 10000;
    // How often expired records are removed, in real time; zero: by Sweep() alone.
    absl::Duration sweep_period = absl::Seconds(1);
  };

  // Restores what `store` holds.  Both pointers outlive this.  Errors: the store's; DATA_LOSS for
  // a damaged record.
  static absl::StatusOr<std::unique_ptr<ConfigLeases>> Create(const Options& options,
                                                              StateStore* store,
                                                              const Clock* clock);
  ~ConfigLeases();
  ConfigLeases(const ConfigLeases&) = delete;
  ConfigLeases& operator=(const ConfigLeases&) = delete;

  // A new lease, or the one that the same `request_id` (unless empty) made and that still lives.
  // Errors: INVALID_ARGUMENT for a ttl outside the bounds, or a request_id of another job's lease;
  // RESOURCE_EXHAUSTED; the store's.
  absl::StatusOr<ConfigLease> Acquire(absl::string_view job, const KeptConfig& config,
                                      absl::Duration ttl, absl::string_view request_id);
  // `ttl` from now; unset: as long as it was last granted for.  Errors: NOT_FOUND;
  // INVALID_ARGUMENT; the store's.
  absl::StatusOr<ConfigLease> Renew(absl::string_view name, std::optional<absl::Duration> ttl);
  // Ends a lease; one that has ended is no error.  Errors: the store's.
  absl::Status Release(absl::string_view name);

  // What a living lease keeps of `job`; null where none does.
  std::shared_ptr<const KeptConfig> Find(absl::string_view job) const;

  // Removes what has expired from memory and store.  Errors: the store's; nothing is lost then.
  absl::Status Sweep();

  // Leases and configs in memory, swept or not.
  int64_t num_leases() const;
  int64_t num_configs() const;

 private:
  struct Held {
    ConfigLease lease;
    std::string request_id;
    absl::Duration until;  // steady
  };
  struct Kept {
    std::shared_ptr<const KeptConfig> config;
    std::set<std::string, std::less<>> leases;  // names
  };
  using Leases = std::map<std::string, Held, std::less<>>;

  ConfigLeases(const Options& options, StateStore* store, const Clock* clock);
  absl::Status Restore();
  absl::Status RestoreConfigs() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status RestoreLeases() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SweepLoop();

  // Ends `names`: the records first, then what is in memory.
  absl::Status End(const std::vector<std::string>& names)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(write_mutex_);
  void ForgetLocked(absl::string_view name) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The living lease, or null.
  const Held* LivingLocked(absl::string_view name) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  const Held* OfRequestLocked(absl::string_view request_id) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status WriteHeld(const Held& held, const KeptConfig* new_config)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(write_mutex_);

  const Options options_;
  StateStore* const store_;
  const Clock* const clock_;

  // Held while a change is written, so that changes come in the store's order; taken before mutex_.
  Mutex write_mutex_;
  mutable Mutex mutex_;
  Leases leases_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, std::string, std::less<>> by_request_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, Kept, std::less<>> configs_ ABSL_GUARDED_BY(mutex_);  // by job

  Mutex stop_mutex_;
  CondVar stop_;
  bool stopping_ ABSL_GUARDED_BY(stop_mutex_) = false;
  std::thread sweeper_;
};

}  // namespace zerocast::rpc

#endif  // ZEROCAST_SERVER_RPC_CONFIG_LEASES_H_
