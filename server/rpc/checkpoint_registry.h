#ifndef ZEROCAST_SERVER_RPC_CHECKPOINT_REGISTRY_H_
#define ZEROCAST_SERVER_RPC_CHECKPOINT_REGISTRY_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/base/mutex.h"
#include "server/base/clock.h"
#include "server/jobs/checkpoints.h"
#include "server/store/state_store.h"

namespace zerocast::rpc {

// The registered checkpoints, one of a job, folder and tag.  What it answers is in the store.  It
// sees no file: what looks have found is given to it.
//
// Every write expects the revision that this process has seen: where another writer was faster it
// is ABORTED, reason WRONG_STATE, and what is in the store is read again.
//
// Thread-safe.  Writes are in turn, one at a time; reads wait for none of them.
class CheckpointRegistry {
 public:
  struct Options {
    int64_t max_checkpoints = 100000;
  };

  // Restores what the store holds; store and clock must outlive it.  Errors: the store's; DATA_LOSS
  // for a damaged record.
  static absl::StatusOr<std::unique_ptr<CheckpointRegistry>> Create(const Options& options,
                                                                    StateStore* store,
                                                                    const Clock* clock);
  CheckpointRegistry(const CheckpointRegistry&) = delete;
  CheckpointRegistry& operator=(const CheckpointRegistry&) = delete;

  // What `request` registered, if it did.  Errors: INVALID_ARGUMENT when it was given for another
  // body.
  absl::StatusOr<std::optional<jobs::Checkpoint>> FindOf(const jobs::RequestKey& request) const;

  // Registers `checkpoint`, which has job, path, pinned and request, with what `look` found of it.
  // Where the job has registered this path and tag before: with the same digest the result is that
  // one; else the new one takes its place, in one commit, and is pinned when it was.  Under
  // `validate_only` nothing is written.  Errors: those of FindOf; RESOURCE_EXHAUSTED; the store's.
  absl::StatusOr<jobs::Checkpoint> Add(jobs::Checkpoint checkpoint, const jobs::FolderLook& look,
                                       const jobs::FoundCheckpoint& found, bool validate_only);

  // Errors: NOT_FOUND.
  absl::StatusOr<jobs::Checkpoint> Get(absl::string_view name) const;
  // Of `job` and in folder `path`, each empty for all; those registered last first, `limit` at
  // most, with names smaller than `before`, "" for all.
  std::vector<jobs::Checkpoint> List(absl::string_view job, absl::string_view path,
                                     absl::string_view before = "",
                                     int64_t limit = INT64_MAX) const;

  // Those of every job that are registered for the folder of a DeepSpeed checkpoint.  `path` is
  // that of a load: the folder that training saves to, or the tag's own in it.
  std::vector<jobs::Checkpoint> OfLoad(absl::string_view path, absl::string_view tag) const;
  // Whether OfLoad may give some for some tag.
  bool MayHaveOfLoad(absl::string_view path) const;

  // Notes what a look at `path` found of the checkpoints registered there whose tags it has.
  // Errors: the store's.
  absl::Status NoteLook(absl::string_view path, const jobs::FolderLook& look);

  // Idempotent.  Errors: NOT_FOUND; the store's.
  absl::StatusOr<jobs::Checkpoint> SetPinned(absl::string_view name, bool pinned);

  // Forgets those of `checkpoints` that still are as they are given here.  Errors: ABORTED, reason
  // WRONG_STATE, when one of them has changed: then none is forgotten; the store's.
  absl::Status Remove(const std::vector<jobs::Checkpoint>& checkpoints);

  // How many there are in each state, all states named.
  std::map<std::string, int64_t> CountByState() const;

 private:
  struct Kept {
    jobs::Checkpoint checkpoint;
    int64_t revision = 0;  // of its record
  };
  struct Key {
    std::string path, tag, job;
    bool operator<(const Key& other) const;
  };

  CheckpointRegistry(const Options& options, StateStore* store, const Clock* clock);
  absl::Status Restore();
  absl::StatusOr<std::optional<jobs::Checkpoint>> FindOfLocked(
      const jobs::RequestKey& request) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void PutLocked(jobs::Checkpoint checkpoint, int64_t revision)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void EraseLocked(absl::string_view name) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  static Key KeyOf(const jobs::Checkpoint& checkpoint);
  // Writes `changed` and removes `removed`, in one commit, then in memory.
  absl::Status Write(std::vector<jobs::Checkpoint> changed, const std::vector<std::string>& removed)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(write_mutex_);
  // After a commit whose outcome is not known, or that another writer outran.
  absl::Status ReadAgain(const std::vector<std::string>& names)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(write_mutex_);
  absl::Status ReadUnsure() ABSL_EXCLUSIVE_LOCKS_REQUIRED(write_mutex_);

  const Options options_;
  StateStore* const store_;
  const Clock* const clock_;

  // Held while a change is written, so that changes come in the store's order; taken before mutex_.
  Mutex write_mutex_;
  int64_t last_number_ ABSL_GUARDED_BY(write_mutex_) = 0;  // in a name so far
  // Names whose records in the store this process may not have seen.
  std::vector<std::string> unsure_ ABSL_GUARDED_BY(write_mutex_);
  mutable Mutex mutex_;
  std::map<std::string, Kept, std::less<>> checkpoints_ ABSL_GUARDED_BY(mutex_);  // by name
  std::map<Key, std::string> by_key_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, std::string> by_request_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace zerocast::rpc

#endif  // ZEROCAST_SERVER_RPC_CHECKPOINT_REGISTRY_H_
