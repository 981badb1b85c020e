#ifndef ZEROCAST_TESTS_BENCH_READ_FLOOR_H_
#define ZEROCAST_TESTS_BENCH_READ_FLOOR_H_

#include <string>

#include "absl/status/statusor.h"
#include "server/plan/manifest.h"

namespace zerocast {

// Where a floor reads to: what an arena is made of, or what malloc gives.
enum class FloorMemory { kMemfd, kAnonymous };

// Reads all files of `manifest` below `folder` into fresh memory, 8 MiB at a time by each of
// `threads` threads; the seconds from before the files are opened to the last byte.  Errors: those
// of the file system, and of the memory.
absl::StatusOr<double> ReadFloor(const Manifest& manifest, const std::string& folder, int threads,
                                 FloorMemory memory);

}  // namespace zerocast

#endif  // ZEROCAST_TESTS_BENCH_READ_FLOOR_H_
