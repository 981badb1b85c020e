#ifndef ZEROCAST_CLIENT_CLI_PROGRESS_H_
#define ZEROCAST_CLIENT_CLI_PROGRESS_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "kernels/base/mutex.h"
#include "zerocast/v1/load.pb.h"

namespace zerocast {

// Bytes that a load has brought to its ranks, from files or from other agents, and all of them.
struct LoadBytes {
  int64_t done = 0;
  int64_t all = 0;
};
LoadBytes BytesOf(const v1::Load& load);

// How fast a number grows, over the last ten seconds in which it was looked at: who begins to look
// late knows nothing of the time before.
class RateMeter {
 public:
  // `now` never goes back.
  void Add(absl::Time now, int64_t value);
  // A second; 0 before two looks.
  double PerSecond() const;
  void Reset() { looks_.clear(); }

 private:
  struct Look {
    absl::Time time;
    int64_t value = 0;
  };
  std::deque<Look> looks_;
};

// Shows a load's progress on stderr: two lines that redraw themselves on a terminal, else a line
// every few seconds.  Thread-compatible.
class ProgressDisplay {
 public:
  // `enabled` false: shows nothing.
  explicit ProgressDisplay(bool enabled);
  ~ProgressDisplay();  // leaves the cursor on a fresh line

  void Show(const v1::Load& load);

 private:
  void Draw(const std::string& first, const std::string& second);

  const bool enabled_;
  const bool terminal_;
  bool drawn_ = false;
  RateMeter meter_;
  absl::Time last_line_;
};

// Shows on stderr how many bytes are copied: a line that redraws itself on a
// terminal, else one every few seconds.  Any number of threads.
class CopyProgress {
 public:
  // `what` is being done, "consolidating"; `enabled` false: shows nothing.
  CopyProgress(std::string what, int64_t all_bytes, bool enabled);
  ~CopyProgress();  // leaves the cursor on a fresh line

  void Add(int64_t num_bytes);

 private:
  const std::string what_;
  const int64_t all_bytes_;
  const bool enabled_;
  const bool terminal_;
  std::atomic<int64_t> done_{0};
  Mutex mutex_;
  bool drawn_ ABSL_GUARDED_BY(mutex_) = false;
  RateMeter meter_ ABSL_GUARDED_BY(mutex_);
  absl::Time last_ ABSL_GUARDED_BY(mutex_);
  std::atomic<int64_t> next_ns_{0};  // when something is to be shown again
};

// "loading   [####........]  42 %  0.83 GB of 1.98 GB  1.21 GB/s  1 s left".  `rate` is in bytes a
// second; without one (0) nothing is said of it.
std::string ProgressLine(const v1::Load& load, double rate);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_CLI_PROGRESS_H_
