#ifndef ZEROCAST_TESTS_BENCH_PROCESSOR_SECONDS_H_
#define ZEROCAST_TESTS_BENCH_PROCESSOR_SECONDS_H_

#include <ctime>

namespace zerocast {

// Seconds of processor time of this process so far: other processes of the machine do not count.
inline double ProcessorSeconds() {
  struct timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

}  // namespace zerocast

#endif  // ZEROCAST_TESTS_BENCH_PROCESSOR_SECONDS_H_
