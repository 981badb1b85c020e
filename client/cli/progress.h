#ifndef ZEROCAST_CLIENT_CLI_PROGRESS_H_
#define ZEROCAST_CLIENT_CLI_PROGRESS_H_

#include <string>

#include "absl/time/time.h"
#include "zerocast/v1/load.pb.h"

namespace zerocast {

// Shows a load's progress on stderr: a bar that redraws itself on a terminal, else a line every few
// seconds.  Thread-compatible.
class ProgressDisplay {
 public:
  // `enabled` false: shows nothing.
  explicit ProgressDisplay(bool enabled);
  ~ProgressDisplay();  // leaves the cursor on a fresh line

  void Show(const v1::Load& load);

 private:
  const bool enabled_;
  const bool terminal_;
  bool drawn_ = false;
  absl::Time started_;
  absl::Time last_line_;
};

// One line about `load` of at most `width` columns: "loading [####......]  42 %  1.21 GB/s  3 s
// left".
std::string ProgressLine(const v1::Load& load, absl::Duration elapsed, int width);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_CLI_PROGRESS_H_
