#ifndef ZEROCAST_CLIENT_CLI_SHARD_OUTPUT_H_
#define ZEROCAST_CLIENT_CLI_SHARD_OUTPUT_H_

#include <string>

#include "absl/status/status.h"
#include "zerocast/v1/load.pb.h"

namespace zerocast {

// Makes the folder and proves that files can be written there, before any work is spent.
// Errors: PERMISSION_DENIED, INVALID_ARGUMENT (a file is in the way), RESOURCE_EXHAUSTED, ...
absl::Status PrepareOutputFolder(const std::string& folder);

// Takes every shard of a ready load from its agent (privately: the agent keeps it) and writes
// rank_00000.safetensors ... (each target as a 1-D tensor of its partition's elements; metadata:
// rank, world_size, plan digest, the shape of each target), buffers.safetensors (buffers, and
// without ZeRO-3 the parameters too, whole) and report.json.  All or nothing: files of a failed run
// are removed.  The agents' sockets must be on this host.  Errors: as Attach() and from the file
// system.
absl::Status WriteShards(const v1::Load& load, const std::string& attach_token,
                         const std::string& folder);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_CLI_SHARD_OUTPUT_H_
