#ifndef ZEROCAST_CLIENT_VERIFY_VERIFY_H_
#define ZEROCAST_CLIENT_VERIFY_VERIFY_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace zerocast {

// What was loaded, as the caller asked for it.
struct VerifyOptions {
  std::string checkpoint_path;   // the folder, readable from this process
  std::string variant;           // of its files; "" for those without one
  std::string model_spec_json;   // "" when the load had none
  std::string key_mapping_json;  // "" when the load had none
  std::string dialect;           // "" when the load had none
  std::string rule_table_json;   // "" when the load had none
  std::string dtype;             // "stored", "spec", "bf16", "fp16" or "fp32"
  int32_t world_size = 0;
  int32_t zero_stage = 3;
  int32_t hpz_partition_size = 1;  // zero_hpz_partition_size under ZeRO-3; 0 and 1: none
  // The tag of a DeepSpeed checkpoint; "": it is one of Hugging Face's.  The flags are those of the
  // engine that takes the shards; unset: of the one that saved them.
  std::string tag = "";
  bool weights_only = false;
  std::optional<bool> round_robin_gradients = std::nullopt;
  std::optional<bool> parameter_alignment = std::nullopt;
  std::vector<std::string> absent;  // targets that nothing fills (missing or mismatched, permitted)
};

// The digest of one rank's part of one target, as its agent computed it from the arena.
struct DigestToVerify {
  int32_t rank = 0;
  std::string target;
  uint64_t xxh3 = 0;       // XXH3-64 of the part's bytes, padding included
  bool secondary = false;  // of the rank's secondary partition
};

struct VerifyResult {
  int64_t partitions = 0;  // compared
  int64_t bytes = 0;       // of the partitions compared
};

// Computes every partition anew and compares digests: an independent witness.  It reads the files
// with its own parser, materialises each target whole, runs each conversion operation on real
// elements one by one, casts with its own arithmetic and cuts by ZeRO-3's rule; it shares no code
// with the reader, the plan or the copy (only the renaming of keys, which decides names, not
// places). Slow by design: memory of one target, one thread.
//
// Errors:
//   DATA_LOSS  a digest differs, a partition is missing from or twice in `digests`, or is none of
//              the model's; a target is in `absent` without need, or is unfilled and not there.
//              The message names target and rank; reason DIGEST_MISMATCH.
//   INVALID_ARGUMENT  options that contradict themselves, a bad spec, mapping or rule.
//   UNIMPLEMENTED     a cast other than between floating types.
//   others     from reading the checkpoint.
absl::StatusOr<VerifyResult> VerifyPartitions(const VerifyOptions& options,
                                              const std::vector<DigestToVerify>& digests);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_VERIFY_VERIFY_H_
