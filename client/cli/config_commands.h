#ifndef ZEROCAST_CLIENT_CLI_CONFIG_COMMANDS_H_
#define ZEROCAST_CLIENT_CLI_CONFIG_COMMANDS_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "client/cli/command.h"

namespace zerocast {

// What `zerocast config ...` runs; AddConfigCommand fills the flags.  Each prints its result to
// stdout; README.md has the formats.

struct ResolveFlags {
  std::string ds_config, ds_config_base64, training_arguments, model_config, dialect;
  int64_t num_training_steps = -1;  // -1: not given
  bool inference = false, auto_find_batch_size = false, allow_extensions = false;
  bool validate_only = false;
  bool lint = false, estimate = false;
  std::string deepspeed_version, model_spec;
  int64_t num_parameters = 0;
  std::string batch;
};
// One config.  Errors: what the integration refuses, with its exit code; findings are no error.
absl::Status RunResolve(const GlobalOptions& global, const ResolveFlags& flags);
// --batch: one line of JSON a case.  An error of a case is its answer.
absl::Status RunResolveBatch(const GlobalOptions& global, const ResolveFlags& flags);

struct LintFlags {
  std::string file, ds_config_base64, deepspeed_version, model_spec;
  int64_t world_size = 0;  // 0: not given
  bool resolved = false;
};
// Errors: FAILED_PRECONDITION when there is a finding that DeepSpeed refuses or fails on.
absl::Status RunLint(const GlobalOptions& global, const LintFlags& flags);

struct DiffFlags {
  std::string before, after;  // a file, "-" or "jobs/ID"
};
absl::Status RunDiff(const GlobalOptions& global, const DiffFlags& flags);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_CLI_CONFIG_COMMANDS_H_
