#ifndef ZEROCAST_TESTS_FUZZ_CHECK_H_
#define ZEROCAST_TESTS_FUZZ_CHECK_H_

#include <cstdio>
#include <cstdlib>

namespace zerocast {

// Ends the process, as a fuzzer wants it: `broken` is what does not hold.
[[noreturn]] inline void FuzzFail(const char* broken) {
  std::fprintf(stderr, "%s\n", broken);
  std::abort();
}

// The same where a promise does not hold.
inline void FuzzCheck(bool holds, const char* promise) {
  if (!holds) FuzzFail(promise);
}

}  // namespace zerocast

#endif  // ZEROCAST_TESTS_FUZZ_CHECK_H_
