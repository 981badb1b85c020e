#include "client/cli/signals.h"

#include <signal.h>
#include <time.h>

#include <utility>

namespace zerocast {
namespace {

sigset_t WatchedSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  return signals;
}

}  // namespace

void SignalWatcher::BlockSignals() {
  const sigset_t signals = WatchedSignals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
}

SignalWatcher::SignalWatcher(std::function<void(int)> on_signal)
    : thread_([this, on_signal = std::move(on_signal)] {
        const sigset_t signals = WatchedSignals();
        const timespec poll = {0, 50'000'000};
        while (!stop_.load()) {
          const int signal = sigtimedwait(&signals, nullptr, &poll);
          if (signal <= 0) continue;
          on_signal(signal);
          // A second signal ends the process at once, for those who will not wait.
          pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
          return;
        }
      }) {}

SignalWatcher::~SignalWatcher() {
  stop_.store(true);
  thread_.join();
}

}  // namespace zerocast
