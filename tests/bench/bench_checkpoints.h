#ifndef ZEROCAST_TESTS_BENCH_BENCH_CHECKPOINTS_H_
#define ZEROCAST_TESTS_BENCH_BENCH_CHECKPOINTS_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "server/conversion/model_spec.h"
#include "server/plan/layout.h"

namespace zerocast {

// A checkpoint to measure: what its files look like decides which way its bytes take.
struct BenchCheckpoint {
  std::string name;    // its kind: "llama", ...
  std::string folder;  // its files are there
  ModelSpec spec;
  DTypePolicy dtype = DTypePolicy::kStored;
};

// Writes the checkpoint of `kind` (bench_models.h) with about `num_bytes` bytes of weights below
// `folder`, unless it is there already: config.json, files of at most 1 GiB with random content,
// their index, and model_spec.json (what --model-spec takes).  The command, the agents and
// transformers load the same folder.  Errors: INVALID_ARGUMENT for a kind that is none; those of
// the file system.
absl::StatusOr<BenchCheckpoint> MakeBenchCheckpoint(const std::string& folder,
                                                    const std::string& kind, int64_t num_bytes);

}  // namespace zerocast

#endif  // ZEROCAST_TESTS_BENCH_BENCH_CHECKPOINTS_H_
