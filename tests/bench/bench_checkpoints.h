#ifndef ZEROCAST_TESTS_BENCH_BENCH_CHECKPOINTS_H_
#define ZEROCAST_TESTS_BENCH_BENCH_CHECKPOINTS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/conversion/model_spec.h"
#include "server/plan/layout.h"

namespace zerocast {

// A checkpoint to measure: what its files look like decides which way its bytes take.
struct BenchCheckpoint {
  std::string name;    // "llama", ...
  std::string folder;  // its files are there
  ModelSpec spec;
  DTypePolicy dtype = DTypePolicy::kStored;
};

// The kinds: "llama" (bf16, nothing to convert), "mixtral" (experts to stack and join), "fp32" (as
// llama, stored in fp32 and loaded in bf16), "transposed" (experts stored as (E, hidden, 2 *
// inter), as qwen3_vl_moe's rules expect).
std::vector<std::string> BenchKinds();

// Writes the checkpoint of `kind` with about `num_bytes` bytes of weights below `folder`, unless it
// is there already.  Files of at most 1 GiB; the content is random.  Errors: those of the file
// system.
absl::StatusOr<BenchCheckpoint> MakeBenchCheckpoint(const std::string& folder,
                                                    const std::string& kind, int64_t num_bytes);

}  // namespace zerocast

#endif  // ZEROCAST_TESTS_BENCH_BENCH_CHECKPOINTS_H_
