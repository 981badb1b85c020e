#include "client/agent/io_choice.h"

#include <spdlog/spdlog.h>

#include <string>

#include "client/agent/posix_file.h"

namespace zerocast {
namespace {

// Reads by each way before they are compared.
constexpr int64_t kLeastSamples = 4;
// Older reads count less: the rate follows a disk that others begin to use.
constexpr double kKept = 0.9;

}  // namespace

IoWay IoChoice::Choose(const PosixFile& file, int64_t offset, int64_t num_bytes) {
  if (mode_ == IoMode::kDirect && !refused_) return IoWay::kDirect;
  if (file.SeemsCached(offset, num_bytes)) return IoWay::kCached;
  if (mode_ != IoMode::kAuto || refused_) return IoWay::kFilled;
  MutexLock lock(&mutex_);
  // Those under way count: a slow way is not begun again and again until its first read ends.
  Samples* chosen;
  if (direct_.started < kLeastSamples || filled_.started < kLeastSamples) {
    chosen = filled_.started < direct_.started ? &filled_ : &direct_;
  } else {
    chosen = filled_.Rate() > direct_.Rate() ? &filled_ : &direct_;
  }
  ++chosen->started;
  return chosen == &direct_ ? IoWay::kDirect : IoWay::kFilled;
}

void IoChoice::Record(IoWay way, int64_t num_bytes, absl::Duration duration) {
  if (way == IoWay::kDirect) direct_bytes_ += num_bytes;
  if (way == IoWay::kCached) return;
  MutexLock lock(&mutex_);
  Samples& samples = way == IoWay::kDirect ? direct_ : filled_;
  samples.bytes = samples.bytes * kKept + static_cast<double>(num_bytes);
  samples.seconds = samples.seconds * kKept + absl::ToDoubleSeconds(duration);
}

void IoChoice::RefuseDirect(const absl::Status& why) {
  if (refused_.exchange(true)) return;
  spdlog::warn("{}; reading through the page cache", std::string(why.message()));
  MutexLock lock(&mutex_);
  refusal_ = why;
}

absl::Status IoChoice::refusal() const {
  MutexLock lock(&mutex_);
  return refusal_;
}

}  // namespace zerocast
