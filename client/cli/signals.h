#ifndef ZEROCAST_CLIENT_CLI_SIGNALS_H_
#define ZEROCAST_CLIENT_CLI_SIGNALS_H_

#include <atomic>
#include <functional>
#include <thread>

namespace zerocast {

// Calls a function, once, on a thread of its own when the process gets SIGINT or SIGTERM: there it
// may do anything, RPCs included, which a signal handler must not.
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
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_CLI_SIGNALS_H_
