// The zerocast command.

#include <signal.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "client/agent/help_format.h"
#include "client/cli/command.h"
#include "client/cli/interruption.h"
#include "client/cli/job_flags.h"
#include "client/cli/output.h"
#include "server/base/errors.h"

namespace zerocast {
namespace {

// Ends a command line that was not to be run: help and version with 0, anything wrong with 2.
int EndOfParsing(const CLI::App& app, const CLI::ParseError& error, int argc, char** argv) {
  // What is missing is checked before what is unknown, but a misspelt word explains the former.
  const std::vector<std::string> unknown = app.remaining(true);
  const bool misspelt = !unknown.empty();
  if (!misspelt && error.get_exit_code() == 0) return app.exit(error);
  const std::string message =
      misspelt ? "unknown argument: " + unknown.front() + "; --help lists the known ones"
               : error.what();
  bool json = false;
  for (int k = 1; k < argc; ++k) {
    const absl::string_view argument = argv[k];
    json |= argument == "--output=json" ||
            (argument == "--output" && k + 1 < argc && absl::string_view(argv[k + 1]) == "json");
  }
  PrintError(InvalidFields({{"command line", message}}), json);
  return 2;
}

int Main(int argc, char** argv) {
  // Before any thread exists: all of them inherit the mask, one thread takes the signals.
  BlockInterrupts();
  // Of what an embedded server and its agents log only that which the command's own error does not
  // say.
  spdlog::set_default_logger(spdlog::stderr_logger_mt("zerocast"));
  spdlog::set_level(spdlog::level::err);

  CLI::App app{"Puts a Hugging Face checkpoint into the ZeRO-3 shards of a training cluster."};
  app.name("zerocast");
  app.formatter(MakeHelpFormatter());
  app.set_version_flag("--version", ZEROCAST_VERSION);
  app.require_subcommand(1);
  app.fallthrough();
  app.footer(
      "Exit codes: 0 done, 1 internal error, 2 usage, 3 not found, 4 precondition (config\n"
      "mismatch, missing or mismatched weights), 5 unavailable or deadline, 6 corrupt data,\n"
      "7 permission; 130 and 143 interrupted by SIGINT and SIGTERM.");

  GlobalOptions global;
  app.add_option("--server", global.server, "Address of the server, host:port or unix:/path")
      ->envname("ZEROCAST_SERVER")
      ->type_name("ADDR");
  app.add_option("--output", global.output, "text, or json: stdout holds nothing but the JSON")
      ->check(CLI::IsMember({"text", "json"}))
      ->type_name("FORMAT")
      ->capture_default_str();
  app.add_option("--timeout", global.timeout_seconds,
                 "Seconds that one call to the server may take")
      ->check(kSeconds)
      ->type_name("SECONDS")
      ->capture_default_str();

  Run run;
  AddLoadCommand(&app, &global, &run);
  AddPlanCommand(&app, &global, &run);
  AddConfigCommand(&app, &global, &run);
  AddRulesCommand(&app, &global, &run);
  AddJobCommand(&app, &global, &run);
  AddCheckpointCommand(&app, &global, &run);
  AddAgentsCommand(&app, &global, &run);

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return EndOfParsing(app, error, argc, argv);
  }
  // A write beyond the limit of file sizes fails, and is told, as on a full disk.
  ::signal(SIGXFSZ, SIG_IGN);
  WatchInterrupts(global.json());
  return FinishCommand(run(), global.json());
}

}  // namespace
}  // namespace zerocast

int main(int argc, char** argv) { return zerocast::Main(argc, argv); }
