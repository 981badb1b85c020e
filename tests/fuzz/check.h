#ifndef ZEROCAST_TESTS_FUZZ_CHECK_H_
#define ZEROCAST_TESTS_FUZZ_CHECK_H_

#include <cstdio>
#include <cstdlib>

namespace zerocast {

// Ends the process, as a fuzzer wants it, where a promise does not hold.
inline void FuzzCheck(bool holds, const char* promise) {
  if (holds) return;
  std::fprintf(stderr, "%s\n", promise);
  std::abort();
}

}  // namespace zerocast

#endif  // ZEROCAST_TESTS_FUZZ_CHECK_H_
