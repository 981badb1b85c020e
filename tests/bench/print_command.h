#ifndef ZEROCAST_TESTS_BENCH_PRINT_COMMAND_H_
#define ZEROCAST_TESTS_BENCH_PRINT_COMMAND_H_

#include <cstdio>

namespace zerocast {

// Prints the command that makes the figures below it, and whether they are worth anything.
inline void PrintCommand(int argc, char** argv) {
  for (int i = 0; i < argc; ++i) std::printf("%s%s", i == 0 ? "$ " : " ", argv[i]);
#ifdef NDEBUG
  std::printf("\n");
#else
  std::printf("     (not optimized: build Release for numbers)\n");
#endif
}

}  // namespace zerocast

#endif  // ZEROCAST_TESTS_BENCH_PRINT_COMMAND_H_
