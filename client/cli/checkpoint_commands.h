#ifndef ZEROCAST_CLIENT_CLI_CHECKPOINT_COMMANDS_H_
#define ZEROCAST_CLIENT_CLI_CHECKPOINT_COMMANDS_H_

#include <CLI/CLI.hpp>

#include "client/cli/command.h"

namespace zerocast {

// The subcommands of `zerocast checkpoint`.  Each function adds its own to `checkpoint`, as
// AddJobCommand() and its like add theirs to the application; the table in checkpoint_command.cc
// calls them.

// ---- checkpoint_inspect.cc, checkpoint_consolidate.cc: of a folder, without a server.
void AddCheckpointInspect(CLI::App* checkpoint, const GlobalOptions* global, Run* run);
void AddCheckpointConsolidate(CLI::App* checkpoint, const GlobalOptions* global, Run* run);
void AddCheckpointExport(CLI::App* checkpoint, const GlobalOptions* global, Run* run);

// ---- checkpoint_reshard.cc: of a folder, without a server.
void AddCheckpointReshard(CLI::App* checkpoint, const GlobalOptions* global, Run* run);
void AddCheckpointToUniversal(CLI::App* checkpoint, const GlobalOptions* global, Run* run);

// ---- checkpoint_registry.cc: those that a server keeps.
void AddCheckpointRegister(CLI::App* checkpoint, const GlobalOptions* global, Run* run);
void AddCheckpointList(CLI::App* checkpoint, const GlobalOptions* global, Run* run);
void AddCheckpointGet(CLI::App* checkpoint, const GlobalOptions* global, Run* run);
void AddCheckpointLatest(CLI::App* checkpoint, const GlobalOptions* global, Run* run);
void AddCheckpointPin(CLI::App* checkpoint, const GlobalOptions* global, Run* run);
void AddCheckpointUnpin(CLI::App* checkpoint, const GlobalOptions* global, Run* run);
void AddCheckpointDelete(CLI::App* checkpoint, const GlobalOptions* global, Run* run);

// ---- checkpoint_prune.cc: the same, and their files.
void AddCheckpointPrune(CLI::App* checkpoint, const GlobalOptions* global, Run* run);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_CLI_CHECKPOINT_COMMANDS_H_
