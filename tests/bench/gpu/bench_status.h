#ifndef ZEROCAST_TESTS_BENCH_GPU_BENCH_STATUS_H_
#define ZEROCAST_TESTS_BENCH_GPU_BENCH_STATUS_H_

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace zerocast {

// The exit status of a benchmark that finds no GPU.
inline constexpr int kSkipped = 77;

// A benchmark has nobody to report an error to: it says it on stderr and ends the process.
[[noreturn]] inline void Die(const std::string& what) {
  std::fprintf(stderr, "%s: %s\n", program_invocation_short_name, what.c_str());
  std::exit(1);
}
inline void Check(const absl::Status& status) {
  if (!status.ok()) Die(status.ToString());
}
template <typename T>
T Take(absl::StatusOr<T> value) {
  Check(value.status());
  return *std::move(value);
}

// Seconds on the steady clock.
inline double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace zerocast

#endif  // ZEROCAST_TESTS_BENCH_GPU_BENCH_STATUS_H_
