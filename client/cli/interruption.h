#ifndef ZEROCAST_CLIENT_CLI_INTERRUPTION_H_
#define ZEROCAST_CLIENT_CLI_INTERRUPTION_H_

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"

// How every command ends on SIGINT and SIGTERM: in order where that is quick, else without it.
//
// The first signal calls what the command has registered (OnInterrupt): calls to servers end, a job
// that is the command's is cancelled.  The main thread then has kInterruptPatience to return from
// whatever it does, which an embedded cluster stops in.  Where it does not (a read from a file
// system that hangs, a long computation), the process ends without it, and what it would leave
// behind is removed.  Either way stderr says what was done, and the exit code is 128 + the signal:
// 130, 143.  A later signal ends the process at once, unless it comes so soon that it belongs to
// the first one.
namespace zerocast {

inline constexpr absl::Duration kInterruptPatience = absl::Seconds(1);

// Keeps the signals for the thread that WatchInterrupts() starts.  Before any thread is started.
void BlockInterrupts();
// Once, before the command runs.  `json`: an error is a JSON document on stdout, too.
void WatchInterrupts(bool json);
// Ends the command: prints the error and returns the exit code.
int FinishCommand(const absl::Status& status, bool json);

// Of the first signal that came; 0 if none did.
int InterruptSignal();
// CANCELLED when one came.
absl::Status CheckInterrupted();
// Something that was done because of it, for the error: "jobs/1 was cancelled".
void NoteInterrupt(std::string what);

// Removes a folder and all in it, also while the main thread still writes there: for
// Actions::at_end.
void RemoveForGood(const std::string& folder);

// What to do when a signal comes while this object lives.  The actions of several are called from
// the newest to the oldest, each once.  Without any of them in the whole process a signal ends it
// at once.
class OnInterrupt {
 public:
  struct Actions {
    // Called on another thread; when a signal has come before, by the constructor.  It may take
    // its time, within bounds of its own: the process does not end before it returns.
    std::function<void()> now;
    // Called only when the process ends without the main thread, which may be anywhere.
    std::function<void()> at_end;
    // Longer patience from the signal on, as long as this object lives.
    absl::Duration patience;
  };
  explicit OnInterrupt(Actions actions);
  // Waits for `now` to return.
  ~OnInterrupt();
  OnInterrupt(const OnInterrupt&) = delete;
  OnInterrupt& operator=(const OnInterrupt&) = delete;

 private:
  friend class InterruptWatch;
  const Actions actions_;
  bool called_ = false;
};

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_CLI_INTERRUPTION_H_
