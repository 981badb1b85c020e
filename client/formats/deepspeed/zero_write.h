#ifndef ZEROCAST_CLIENT_FORMATS_DEEPSPEED_ZERO_WRITE_H_
#define ZEROCAST_CLIENT_FORMATS_DEEPSPEED_ZERO_WRITE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "client/formats/deepspeed/zero_checkpoint.h"

namespace zerocast {

// What all that write DeepSpeed folders need.

// UNIMPLEMENTED, reason UNSUPPORTED, naming these states of the optimizer.
absl::Status RefuseStates(const ZeroCheckpoint& checkpoint, const std::vector<std::string>& names);

// Whether a checkpoint that ReadZeroCheckpoint read can be written in another layout.  Errors:
// UNIMPLEMENTED, reason UNSUPPORTED: RefuseStates, no optimizer, partitions by parameter group.
absl::Status CheckWritable(const ZeroCheckpoint& checkpoint);

// The optimizer's group of each flat tensor, in the order of param_shapes.
std::vector<int32_t> GroupsOfFlats(const ZeroCheckpoint& checkpoint);

// Writes `latest` or `latest_universal`.
absl::Status WriteLatest(const std::string& path, const std::string& tag);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_FORMATS_DEEPSPEED_ZERO_WRITE_H_
