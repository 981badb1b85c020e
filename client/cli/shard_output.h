#ifndef ZEROCAST_CLIENT_CLI_SHARD_OUTPUT_H_
#define ZEROCAST_CLIENT_CLI_SHARD_OUTPUT_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "zerocast/v1/load.pb.h"

namespace zerocast {

// The folder of --out.  What was made for it goes again unless Keep() is called: an output is whole
// or not there.  Move-only.
class OutputFolder {
 public:
  // Makes the folder, with those above it, and proves that files can be written there, before any
  // work is spent.  Errors: PERMISSION_DENIED, NOT_FOUND (a file is in the way, or nothing can be
  // made there), RESOURCE_EXHAUSTED, ...
  static absl::StatusOr<OutputFolder> Create(const std::string& path);

  OutputFolder(OutputFolder&& other) noexcept;
  OutputFolder& operator=(OutputFolder&&) = delete;
  ~OutputFolder();

  void Keep() { made_.clear(); }

 private:
  OutputFolder() = default;
  std::vector<std::string> made_;  // outermost first
};

// Errors: FAILED_PRECONDITION when `folder` holds a shard of a rank that a load of `world_size`
// ranks does not have: beside the new files it would pass for one of theirs.
absl::Status CheckNoOtherRanks(const std::string& folder, int32_t world_size);

// Takes every shard of a ready load from its agent (privately: the agent keeps it) and writes
// rank_00000.safetensors ... (each target as a 1-D tensor of its partition's elements; metadata:
// rank, world_size, plan digest, the shape of each target), buffers.safetensors (buffers, and
// without ZeRO-3 the parameters too, whole) and report.json.  The metadata's "unfilled", a JSON
// list, names the tensors that the checkpoint has nothing for: their zeros are no weights.
//
// All or nothing: the files are written into a hidden folder inside `folder` and renamed when all
// of them are there, so an older output in `folder` stays whole until then; both need room on the
// disk meanwhile.  report.json goes first and comes last: a folder that has one is complete.
// `go_on` is asked before each shard and before the first rename; its error ends the call, with
// nothing changed.  The agents' sockets must be on this host.  Errors: as Attach(), of `go_on` and
// from the file system.
absl::Status WriteShards(const v1::Load& load, const std::string& attach_token,
                         const std::string& folder, const std::function<absl::Status()>& go_on);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_CLI_SHARD_OUTPUT_H_
