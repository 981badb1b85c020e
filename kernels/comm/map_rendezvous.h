#ifndef ZEROCAST_KERNELS_COMM_MAP_RENDEZVOUS_H_
#define ZEROCAST_KERNELS_COMM_MAP_RENDEZVOUS_H_

#include <map>
#include <string>

#include "absl/base/thread_annotations.h"
#include "kernels/base/mutex.h"
#include "kernels/comm/communicator.h"

namespace zerocast {

// A Rendezvous for participants in one process: all of them use the same object.  Thread-safe.
class MapRendezvous : public Rendezvous {
 public:
  // A later Put of the same key replaces the value.
  absl::Status Put(absl::string_view key, absl::string_view value) override;
  absl::StatusOr<std::string> Get(absl::string_view key, absl::Duration timeout) override;

  // Ends every Get in progress; from now on all calls are CANCELLED with `reason`.  Idempotent: the
  // first reason stays.
  void Cancel(absl::string_view reason);

 private:
  absl::Status CancelledLocked(absl::string_view call, absl::string_view key) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  Mutex mutex_;
  CondVar changed_;
  std::map<std::string, std::string, std::less<>> values_ ABSL_GUARDED_BY(mutex_);
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  std::string cancel_reason_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_COMM_MAP_RENDEZVOUS_H_
