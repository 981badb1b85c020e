#ifndef ZEROCAST_TESTS_CLIENT_AGENT_GATE_H_
#define ZEROCAST_TESTS_CLIENT_AGENT_GATE_H_

#include <gtest/gtest.h>

#include "kernels/base/mutex.h"
#include "kernels/comm/deadline.h"

namespace zerocast {

// Closed until it is opened.  Thread-safe.
class Gate {
 public:
  void Open() {
    MutexLock lock(&mutex_);
    open_ = true;
    changed_.SignalAll();
  }
  // Fails the test when nobody opens it.
  void Wait() {
    const Deadline deadline(absl::Seconds(60));
    MutexLock lock(&mutex_);
    while (!open_ && !deadline.Passed()) {
      changed_.WaitWithTimeout(&mutex_, deadline.Remaining());
    }
    EXPECT_TRUE(open_) << "nobody opened the gate";
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  bool open_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace zerocast

#endif  // ZEROCAST_TESTS_CLIENT_AGENT_GATE_H_
