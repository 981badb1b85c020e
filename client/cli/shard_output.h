#ifndef ZEROCAST_CLIENT_CLI_SHARD_OUTPUT_H_
#define ZEROCAST_CLIENT_CLI_SHARD_OUTPUT_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cli/interruption.h"
#include "zerocast/v1/load.pb.h"

namespace zerocast {

// The folder of --out.  What was made for it goes again unless Keep() is called: an output is whole
// or not there.  Move-only.
class ShardFolder {
 public:
  // Makes the folder, with those above it, and proves that files can be written there, before any
  // work is spent.  Errors: PERMISSION_DENIED, NOT_FOUND (a file is in the way, or nothing can be
  // made there), RESOURCE_EXHAUSTED, ...
  static absl::StatusOr<ShardFolder> Create(const std::string& path);

  ShardFolder(ShardFolder&& other) noexcept;
  ShardFolder& operator=(ShardFolder&&) = delete;
  ~ShardFolder();

  void Keep() { made_.clear(); }

 private:
  ShardFolder() = default;
  std::vector<std::string> made_;  // outermost first
  std::unique_ptr<OnInterrupt> on_interrupt_;
};

// rank_00000.safetensors ... and secondary_00000.safetensors ...
enum class ShardFile { kPrimary, kSecondary };

// Errors: FAILED_PRECONDITION when `folder` holds such a file of a rank that the `num_ranks` with
// one do not have: beside the new files it would pass for one of theirs.
absl::Status CheckNoOtherRanks(const std::string& folder, ShardFile kind, int32_t num_ranks);

// Takes every shard of a ready load from its agent (privately: the agent keeps it; `on_devices`,
// for good) and writes rank_00000.safetensors ... (each parameter as a 1-D tensor of its
// partition's elements, without ZeRO-3 of all of them; metadata: rank, world_size, plan digest, the
// shape of each), secondary_00000.safetensors ... where there are hierarchical partitions (the same
// with the elements of the secondary partition; metadata besides: secondary_group_size),
// buffers.safetensors (whole, in their shape) and report.json.  The metadata's "unfilled", a JSON
// list, names the tensors that the checkpoint has nothing for: their zeros are no weights.
//
// All or nothing: the files are written into a hidden folder inside `folder` and renamed when all
// of them are there, so an older output in `folder` stays whole until then; both need room on the
// disk meanwhile.  report.json goes first and comes last: a folder that has one is complete.
// An interruption ends the call before the first rename, with nothing changed: CANCELLED.  The
// agents' sockets must be on this host.  Other errors: as Attach(), and from the file system.
absl::Status WriteShards(const v1::Load& load, const std::string& attach_token, bool on_devices,
                         const std::string& folder);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_CLI_SHARD_OUTPUT_H_
