#include "client/cli/interruption.h"

#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "client/cli/output.h"
#include "kernels/base/mutex.h"
#include "server/base/clock.h"
#include "server/base/errors.h"
#include "server/base/exit_code.h"

namespace zerocast {
namespace {

sigset_t WatchedSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  return signals;
}

// Of all threads this one takes the next signal, by its default: the end.
void EndByTheNext() {
  // One interruption may come as several signals: timeout(1) and others signal a process and its
  // group.
  constexpr absl::Duration kSameInterruption = absl::Milliseconds(300);
  const sigset_t signals = WatchedSignals();
  const absl::Duration end = Clock::Real()->Steady() + kSameInterruption;
  for (absl::Duration left = kSameInterruption; left > absl::ZeroDuration();
       left = end - Clock::Real()->Steady()) {
    const timespec timeout = absl::ToTimespec(left);
    sigtimedwait(&signals, nullptr, &timeout);
  }
  pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
  while (true) ::pause();
}

// Writes to a descriptor whose reader may have gone to sleep: does not wait for it.
void WriteNow(int fd, absl::string_view text) {
  constexpr size_t kFits = 4096;  // what a pipe takes once it is writable
  constexpr int kMostMs = 100;
  while (!text.empty()) {
    pollfd ready = {fd, POLLOUT, 0};
    if (::poll(&ready, 1, kMostMs) != 1 || (ready.revents & POLLOUT) == 0) return;
    const ssize_t written = ::write(fd, text.data(), std::min(text.size(), kFits));
    if (written <= 0) return;
    text.remove_prefix(static_cast<size_t>(written));
  }
}

}  // namespace

// The one of this process; it is never destroyed, since its thread is not joined.
class InterruptWatch {
 public:
  static InterruptWatch& Get() {
    static InterruptWatch* const watch = new InterruptWatch;
    return *watch;
  }

  void Start(bool json) {
    std::thread([this, json] { Run(json); }).detach();
  }

  int signal() const {
    MutexLock lock(&mutex_);
    return signal_;
  }

  void Note(std::string what) {
    MutexLock lock(&mutex_);
    notes_.push_back(std::move(what));
  }

  // Where nobody came first; else the process ends meanwhile.
  absl::Status Finish(const absl::Status& status, int* signal) {
    MutexLock lock(&mutex_);
    finished_ = true;
    changed_.SignalAll();
    *signal = status.ok() ? 0 : signal_;
    return *signal == 0 ? status : ErrorLocked();
  }

  void Add(OnInterrupt* entry) {
    MutexLock lock(&mutex_);
    entries_.push_back(entry);
    if (signal_ != 0) CallLocked(entry);
  }

  void Remove(OnInterrupt* entry) {
    MutexLock lock(&mutex_);
    while (std::count(running_.begin(), running_.end(), entry) > 0) changed_.Wait(&mutex_);
    entries_.erase(std::find(entries_.begin(), entries_.end(), entry));
    if (entry->actions_.patience > absl::ZeroDuration()) ExtendLocked();
    changed_.SignalAll();
  }

 private:
  void Run(bool json);

  // With the lock released meanwhile.
  void CallLocked(OnInterrupt* entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (std::exchange(entry->called_, true) || entry->actions_.now == nullptr) return;
    running_.push_back(entry);
    mutex_.Unlock();
    entry->actions_.now();
    mutex_.Lock();
    running_.erase(std::find(running_.begin(), running_.end(), entry));
    ExtendLocked();
    changed_.SignalAll();
  }
  void CallAllLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    while (true) {
      const auto next = std::find_if(entries_.rbegin(), entries_.rend(),
                                     [](const OnInterrupt* entry) { return !entry->called_; });
      if (next == entries_.rend()) return;
      CallLocked(*next);
    }
  }
  // What was waited for has ended: the main thread goes on from there.
  void ExtendLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    end_ = Clock::Real()->Steady() + kInterruptPatience;
  }
  absl::Duration PatienceLeftLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    absl::Duration end = end_;
    for (const OnInterrupt* entry : entries_) {
      end = std::max(end, came_ + entry->actions_.patience);
    }
    return end - Clock::Real()->Steady();
  }
  absl::Status ErrorLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    std::string message = absl::StrCat("interrupted by ", signal_ == SIGINT ? "SIGINT" : "SIGTERM");
    for (const std::string& note : notes_) absl::StrAppend(&message, "; ", note);
    return WithReason(absl::CancelledError(message), "CANCELLED");
  }
  [[noreturn]] void EndLocked(bool json) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mutable Mutex mutex_;
  CondVar changed_;
  int signal_ ABSL_GUARDED_BY(mutex_) = 0;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<OnInterrupt*> entries_ ABSL_GUARDED_BY(mutex_);  // from the oldest on
  std::vector<OnInterrupt*> running_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> notes_ ABSL_GUARDED_BY(mutex_);
  absl::Duration came_ ABSL_GUARDED_BY(mutex_);  // the signal; on the steady clock, as end_
  absl::Duration end_ ABSL_GUARDED_BY(mutex_);
};

void InterruptWatch::Run(bool json) {
  const sigset_t signals = WatchedSignals();
  int number = -1;
  while (number <= 0) number = sigwaitinfo(&signals, nullptr);
  std::thread(EndByTheNext).detach();
  MutexLock lock(&mutex_);
  if (finished_) return;
  signal_ = number;
  came_ = Clock::Real()->Steady();
  ExtendLocked();
  if (entries_.empty()) EndLocked(json);
  CallAllLocked();
  while (!finished_) {
    const absl::Duration left = PatienceLeftLocked();
    if (left <= absl::ZeroDuration() && running_.empty()) EndLocked(json);
    changed_.WaitWithTimeout(&mutex_, std::max(left, absl::Milliseconds(10)));
  }
}

// With the lock held: nobody goes on who comes by here.
void InterruptWatch::EndLocked(bool json) {
  for (auto entry = entries_.rbegin(); entry != entries_.rend(); ++entry) {
    if ((*entry)->actions_.at_end != nullptr) (*entry)->actions_.at_end();
  }
  SetErrorText("");
  const ErrorTexts texts = TextsOfError(ErrorLocked(), json);
  WriteNow(STDERR_FILENO, texts.to_stderr);
  // A document that the main thread is just writing stays alone there.
  if (::ftrylockfile(stdout) == 0) WriteNow(STDOUT_FILENO, texts.to_stdout);
  ::_exit(128 + signal_);
}

void BlockInterrupts() {
  const sigset_t signals = WatchedSignals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
}

void WatchInterrupts(bool json) { InterruptWatch::Get().Start(json); }

int FinishCommand(const absl::Status& status, bool json) {
  int signal = 0;
  const absl::Status end = InterruptWatch::Get().Finish(status, &signal);
  if (signal != 0) SetErrorText("");
  if (!end.ok()) PrintError(end, json);
  return signal == 0 ? ExitCode(end) : 128 + signal;
}

int InterruptSignal() { return InterruptWatch::Get().signal(); }

absl::Status CheckInterrupted() {
  if (InterruptSignal() == 0) return absl::OkStatus();
  return WithReason(absl::CancelledError("interrupted"), "CANCELLED");
}

void NoteInterrupt(std::string what) { InterruptWatch::Get().Note(std::move(what)); }

void RemoveForGood(const std::string& folder) {
  constexpr int kTries = 10;
  std::error_code error;
  for (int k = 0; k < kTries; ++k) {
    std::filesystem::remove_all(folder, error);
    if (!error) return;
  }
}

OnInterrupt::OnInterrupt(Actions actions) : actions_(std::move(actions)) {
  InterruptWatch::Get().Add(this);
}

OnInterrupt::~OnInterrupt() { InterruptWatch::Get().Remove(this); }

}  // namespace zerocast
