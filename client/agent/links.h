#ifndef ZEROCAST_CLIENT_AGENT_LINKS_H_
#define ZEROCAST_CLIENT_AGENT_LINKS_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "kernels/base/mutex.h"
#include "kernels/comm/communicator.h"

namespace zerocast {

// The communicators of one load on one node, for whoever ends the load.  Thread-safe.
class Links {
 public:
  // Keeps `communicator` until Drop.  CANCELLED when the load was aborted before.
  absl::StatusOr<Communicator*> Keep(std::unique_ptr<Communicator> communicator);

  // Ends what all of them do, and those that come later.  Does not block.
  void Abort(const std::string& why);

  // When nobody uses them any more.
  void Drop();

 private:
  Mutex mutex_;
  std::vector<std::unique_ptr<Communicator>> kept_ ABSL_GUARDED_BY(mutex_);
  bool aborted_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_LINKS_H_
