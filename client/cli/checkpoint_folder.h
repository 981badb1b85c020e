#ifndef ZEROCAST_CLIENT_CLI_CHECKPOINT_FOLDER_H_
#define ZEROCAST_CLIENT_CLI_CHECKPOINT_FOLDER_H_

#include <CLI/CLI.hpp>
#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cli/command.h"
#include "client/cli/progress.h"
#include "client/formats/deepspeed/piece_copier.h"
#include "client/formats/deepspeed/zero_checkpoint.h"
#include "client/formats/file_observer.h"
#include "client/formats/output_folder.h"

namespace zerocast {

// Which checkpoint a subcommand of `zerocast checkpoint` reads.
struct CheckpointFlags {
  std::string folder, tag;

  void AddTo(CLI::App* command);
};

// Where a subcommand writes to, and on how many threads.
struct OutputFlags {
  std::string out;
  int num_threads = 0;  // 0: as many as PieceCopier takes

  void AddOutTo(CLI::App* command);
  void AddThreadsTo(CLI::App* command);
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

// How a subcommand copies: until it is interrupted, telling `progress`, which must outlive it.
PieceCopier::Options CopyOptions(const OutputFlags& flags, CopyProgress* progress);

// A subcommand's last words, as JSON or as text.  Errors: those of stdout.
absl::Status PrintReport(const GlobalOptions& global, const nlohmann::ordered_json& json,
                         const std::string& text);

// "5GB", "500MB" (powers of 1000, as the library reads them), "4GiB" (of 1024), "4096"; at least 1.
// Errors: INVALID_ARGUMENT.
absl::StatusOr<int64_t> ParseShardSize(const std::string& text);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_CLI_CHECKPOINT_FOLDER_H_
