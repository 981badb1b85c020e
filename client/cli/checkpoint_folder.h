#ifndef ZEROCAST_CLIENT_CLI_CHECKPOINT_FOLDER_H_
#define ZEROCAST_CLIENT_CLI_CHECKPOINT_FOLDER_H_

#include <CLI/CLI.hpp>
#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/formats/deepspeed/zero_checkpoint.h"
#include "client/formats/file_observer.h"
#include "client/formats/output_folder.h"

namespace zerocast {

// Which checkpoint a subcommand of `zerocast checkpoint` reads.
struct CheckpointFlags {
  std::string folder, tag;

  void AddTo(CLI::App* command);
};

// Ends reading and writing when the command is interrupted: CANCELLED.
FileObserver StopWhenInterrupted();

// Reads it.  Errors: as ReadZeroCheckpoint: the first thing that is wrong; with several, all of
// them are told on stderr and in the error's JSON.
absl::StatusOr<ZeroCheckpoint> ReadCheckpoint(const CheckpointFlags& flags);

// Makes the folder `path`, has `fill` write into it, and puts it in its place: whole, or not at
// all, also when the command is interrupted.  Errors: as OutputFolder and `fill`; CANCELLED.
absl::Status WriteFolder(const std::string& path,
                         const std::function<absl::Status(const OutputFolder&)>& fill);

// "5GB", "500MB" (powers of 1000, as the library reads them), "4GiB" (of 1024), "4096"; at least 1.
// Errors: INVALID_ARGUMENT.
absl::StatusOr<int64_t> ParseShardSize(const std::string& text);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_CLI_CHECKPOINT_FOLDER_H_
