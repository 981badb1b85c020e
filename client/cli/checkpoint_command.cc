#include <CLI/CLI.hpp>

#include "client/cli/checkpoint_commands.h"
#include "client/cli/command.h"

namespace zerocast {
namespace {

// In the order in which --help lists them.
constexpr void (*kSubcommands[])(CLI::App*, const GlobalOptions*, Run*) = {
    // Of a folder, without a server.
    AddCheckpointInspect,
    AddCheckpointConsolidate,
    AddCheckpointExport,
    AddCheckpointReshard,
    AddCheckpointToUniversal,
    // Those that a server keeps.
    AddCheckpointRegister,
    AddCheckpointList,
    AddCheckpointGet,
    AddCheckpointLatest,
    AddCheckpointPin,
    AddCheckpointUnpin,
    AddCheckpointPrune,
    AddCheckpointDelete,
};

}  // namespace

void AddCheckpointCommand(CLI::App* app, const GlobalOptions* global, Run* run) {
  CLI::App* checkpoint = app->add_subcommand("checkpoint", "Work with DeepSpeed checkpoints");
  checkpoint->require_subcommand(1);
  for (const auto add : kSubcommands) add(checkpoint, global, run);
}

}  // namespace zerocast
