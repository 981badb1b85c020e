#ifndef ZEROCAST_SERVER_STORE_MEMORY_STORE_H_
#define ZEROCAST_SERVER_STORE_MEMORY_STORE_H_

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "kernels/base/mutex.h"
#include "server/store/state_store.h"

namespace zerocast {

// Lives in this process and dies with it.
class MemoryStore : public StateStore {
 public:
  absl::StatusOr<StoreEntry> Get(absl::string_view key) const override;
  absl::StatusOr<std::vector<StoreEntry>> List(absl::string_view prefix, absl::string_view after,
                                               int64_t limit) const override;
  absl::StatusOr<std::vector<int64_t>> CommitAll(
      const std::vector<std::vector<StoreWrite>>& commits) override;
  absl::StatusOr<int64_t> Revision() const override;
  absl::string_view kind() const override { return "memory"; }

 private:
  // A key as it was before it was written.
  struct Before {
    std::string key;
    std::optional<StoreEntry> entry;
  };
  // One commit; what it overwrites goes to `undo`, in order.
  absl::Status WriteLocked(const std::vector<StoreWrite>& writes, int64_t revision,
                           std::vector<Before>* undo) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mutable Mutex mutex_;
  std::map<std::string, StoreEntry, std::less<>> entries_ ABSL_GUARDED_BY(mutex_);
  int64_t revision_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_STORE_MEMORY_STORE_H_
