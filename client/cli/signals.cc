#include "client/cli/signals.h"

#include <signal.h>
#include <unistd.h>

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
    : thread_([this, on_signal = std::move(on_signal)] { Run(on_signal); }) {}

void SignalWatcher::Run(const std::function<void(int signal)>& on_signal) {
  const sigset_t signals = WatchedSignals();
  int signal = -1;
  siginfo_t info;
  while (signal <= 0) signal = sigwaitinfo(&signals, &info);
  {
    MutexLock lock(&mutex_);
    if (stop_) {
      // One that came from outside in this moment stays pending, for the next watcher.  By its
      // sender: glibc gives the code of pthread_kill() out as that of kill().
      if (info.si_pid != getpid()) kill(getpid(), signal);
      return;
    }
    caught_ = true;
  }
  // Of all threads this one takes the next signal, by its default: the end.
  pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
  on_signal(signal);
  MutexLock lock(&mutex_);
  while (!stop_) changed_.Wait(&mutex_);
}

SignalWatcher::~SignalWatcher() {
  {
    MutexLock lock(&mutex_);
    stop_ = true;
    changed_.SignalAll();
    // Wakes it: until it has caught one the signal is blocked there, and no other thread gets it.
    if (!caught_) pthread_kill(thread_.native_handle(), SIGINT);
  }
  thread_.join();
}

}  // namespace zerocast
