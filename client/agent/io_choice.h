#ifndef ZEROCAST_CLIENT_AGENT_IO_CHOICE_H_
#define ZEROCAST_CLIENT_AGENT_IO_CHOICE_H_

#include <atomic>
#include <cstdint>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "client/agent/reader.h"
#include "kernels/base/mutex.h"

namespace zerocast {

// The ways to read a part of a file.
enum class IoWay {
  kCached,  // it is in the page cache, or may be: one copy
  kFilled,  // through the page cache, which the kernel fills from the disk
  kDirect,  // from the disk past the page cache, into a buffer
};

// Chooses the way for each part that a load reads.  Where IoMode::kAuto leaves it open, and the
// part is not known to be cached, both ways are tried, through the page cache and past it, and the
// faster one taken.  Thread-safe.
class IoChoice {
 public:
  explicit IoChoice(IoMode mode) : mode_(mode) {}

  IoWay Choose(const PosixFile& file, int64_t offset, int64_t num_bytes);

  // What a read by that way took.
  void Record(IoWay way, int64_t num_bytes, absl::Duration duration);

  // The file system has no direct reads: no more of them.
  void RefuseDirect(const absl::Status& why);

  // Bytes that were read past the page cache.
  int64_t direct_bytes() const { return direct_bytes_; }
  // Why there are no direct reads though they were wanted; OK where they were not refused.
  absl::Status refusal() const;

 private:
  // Of cold reads by one way.
  struct Samples {
    int64_t started = 0;
    double bytes = 0, seconds = 0;
    double Rate() const { return seconds > 0 ? bytes / seconds : 0; }
  };

  const IoMode mode_;
  std::atomic<int64_t> direct_bytes_{0};
  std::atomic<bool> refused_{false};
  mutable Mutex mutex_;
  Samples filled_ ABSL_GUARDED_BY(mutex_), direct_ ABSL_GUARDED_BY(mutex_);
  // Whether some file system does not tell what is cached: then reads of what may be count, too.
  bool unknown_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status refusal_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_IO_CHOICE_H_
