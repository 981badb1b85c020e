#ifndef ZEROCAST_CLIENT_CLI_SIGNALS_H_
#define ZEROCAST_CLIENT_CLI_SIGNALS_H_

#include <functional>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "kernels/base/mutex.h"

namespace zerocast {

// Calls a function, once, on a thread of its own when the process gets SIGINT or SIGTERM: there it
// may do anything, RPCs included, which a signal handler must not.  From then on another signal
// ends the process at once, for those who will not wait, until the watcher is destroyed.
class SignalWatcher {
 public:
  // Must run before the first thread is started.
  static void BlockSignals();

  explicit SignalWatcher(std::function<void(int signal)> on_signal);
  // Ends the thread; waits for a call in progress.
  ~SignalWatcher();
  SignalWatcher(const SignalWatcher&) = delete;
  SignalWatcher& operator=(const SignalWatcher&) = delete;

 private:
  void Run(const std::function<void(int signal)>& on_signal);

  Mutex mutex_;
  CondVar changed_;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  bool caught_ ABSL_GUARDED_BY(mutex_) = false;  // the thread does not wait for signals any more
  std::thread thread_;
};

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_CLI_SIGNALS_H_
