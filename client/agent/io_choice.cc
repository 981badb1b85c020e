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
  const Residency residency = file.ResidencyOf(offset, num_bytes);
  if (residency == Residency::kCached) return IoWay::kCached;
  // Where it cannot be known the page cache may well have it: then one copy by the caller is best.
  const IoWay through_cache = residency == Residency::kUnknown ? IoWay::kCached : IoWay::kFilled;
  if (mode_ != IoMode::kAuto || refused_) return through_cache;
  MutexLock lock(&mutex_);
  unknown_ |= residency == Residency::kUnknown;
  // Those under way count: a slow way is not begun again and again until its first read ends.
  Samples* chosen;
  if (direct_.started < kLeastSamples || filled_.started < kLeastSamples) {
    chosen = filled_.started < direct_.started ? &filled_ : &direct_;
  } else {
    chosen = filled_.Rate() > direct_.Rate() ? &filled_ : &direct_;
  }
  ++chosen->started;
  return chosen == &direct_ ? IoWay::kDirect : through_cache;
}

void IoChoice::Record(IoWay way, int64_t num_bytes, absl::Duration duration) {
  if (way == IoWay::kDirect) direct_bytes_ += num_bytes;
  MutexLock lock(&mutex_);
  if (way == IoWay::kCached && !unknown_) return;
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
