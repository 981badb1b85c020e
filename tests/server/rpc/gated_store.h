#ifndef ZEROCAST_TESTS_SERVER_RPC_GATED_STORE_H_
#define ZEROCAST_TESTS_SERVER_RPC_GATED_STORE_H_

#include <vector>

#include "kernels/base/mutex.h"
#include "server/base/errors.h"
#include "server/store/memory_store.h"

namespace zerocast {

// A store whose commits stop at a gate, as on a disk that takes its time, and can be made to fail.
class GatedStore final : public MemoryStore {
 public:
  absl::StatusOr<std::vector<int64_t>> CommitAll(
      const std::vector<std::vector<StoreWrite>>& commits) override {
    MutexLock lock(&mutex_);
    ++begun_;
    changed_.SignalAll();
    while (closed_) changed_.Wait(&mutex_);
    ++groups_;
    if (failing_) {
      return WithReason(absl::UnavailableError("store: disk full"), "STORE_UNAVAILABLE");
    }
    return MemoryStore::CommitAll(commits);
  }

  void Close() { Set(&closed_, true); }
  void Open() { Set(&closed_, false); }
  void Fail(bool failing) { Set(&failing_, failing); }
  // Waits until commits have begun `count` times.
  void AwaitBegun(int count) {
    MutexLock lock(&mutex_);
    while (begun_ < count) changed_.Wait(&mutex_);
  }
  int begun() const {
    MutexLock lock(&mutex_);
    return begun_;
  }
  // How many groups are through the gate.
  int groups() const {
    MutexLock lock(&mutex_);
    return groups_;
  }

 private:
  void Set(bool* flag, bool value) {
    MutexLock lock(&mutex_);
    *flag = value;
    changed_.SignalAll();
  }

  mutable Mutex mutex_;
  CondVar changed_;
  bool closed_ = false, failing_ = false;
  int begun_ = 0, groups_ = 0;
};

}  // namespace zerocast

#endif  // ZEROCAST_TESTS_SERVER_RPC_GATED_STORE_H_
