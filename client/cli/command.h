#ifndef ZEROCAST_CLIENT_CLI_COMMAND_H_
#define ZEROCAST_CLIENT_CLI_COMMAND_H_

#include <CLI/CLI.hpp>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "client/cpp/client.h"

namespace zerocast {

// What every command understands.
struct GlobalOptions {
  std::string server;           // "" where the command may run without one
  std::string output = "text";  // "text" or "json"
  double timeout_seconds = 30;  // of one call

  bool json() const { return output == "json"; }
  // `deadline`: no call of the client goes on beyond it.  Its calls end when the command is
  // interrupted.
  absl::StatusOr<std::shared_ptr<Client>> Connect(
      absl::Time deadline = absl::InfiniteFuture()) const;
};

// A client whose calls end when the command is interrupted.
std::shared_ptr<Client> EndWhenInterrupted(std::unique_ptr<Client> client);

// What a command that has run out of time may still take to cancel what it began.
inline constexpr absl::Duration kCancelGrace = absl::Seconds(5);
// The same once the command was interrupted: its user waits for the prompt.
inline constexpr absl::Duration kInterruptGrace = absl::Milliseconds(1500);
// Which of them holds now.
absl::Duration CancelGrace();
// Cancels a job within CancelGrace(), whatever limits `client` has.
absl::Status CancelInGrace(const Client& client, absl::string_view job);

// Each of these adds one command (with its subcommands) to `app`.  When it is chosen, `*run`
// becomes what to run: it prints its result to stdout and returns the status that decides the exit
// code.  `global` and `run` must outlive `app`.
using Run = std::function<absl::Status()>;
void AddLoadCommand(CLI::App* app, const GlobalOptions* global, Run* run);
void AddPlanCommand(CLI::App* app, const GlobalOptions* global, Run* run);
void AddConfigCommand(CLI::App* app, const GlobalOptions* global, Run* run);
void AddRulesCommand(CLI::App* app, const GlobalOptions* global, Run* run);
void AddJobCommand(CLI::App* app, const GlobalOptions* global, Run* run);
void AddCheckpointCommand(CLI::App* app, const GlobalOptions* global, Run* run);
void AddAgentsCommand(CLI::App* app, const GlobalOptions* global, Run* run);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_CLI_COMMAND_H_
