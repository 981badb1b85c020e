#include <CLI/CLI.hpp>
#include <cstdint>
#include <limits>
#include <memory>

#include "client/cli/command.h"
#include "client/cli/config_commands.h"
#include "client/cli/job_flags.h"

namespace zerocast {
namespace {

constexpr int64_t kMaxInt64 = std::numeric_limits<int64_t>::max();

void AddResolve(CLI::App* config, const GlobalOptions* global, Run* run) {
  auto flags = std::make_shared<ResolveFlags>();
  CLI::App* command = config->add_subcommand(
      "resolve", "Fill every \"auto\", report every mismatch, as Transformers' integration does.");
  const auto option = [command](const char* name, auto* value, const char* what, const char* type) {
    return command->add_option(name, *value, what)->type_name(type);
  };
  option("--ds-config", &flags->ds_config, "DeepSpeed config, JSON; - for stdin", "FILE");
  option("--ds-config-base64", &flags->ds_config_base64, "The config as url-safe base64", "TEXT");
  option("--args", &flags->training_arguments, "TrainingArguments as JSON", "FILE");
  option("--model-config", &flags->model_config, "The model's config.json", "FILE");
  option("--num-training-steps", &flags->num_training_steps, "Optimizer steps in all", "N")
      ->check(WholeNumber(0, kMaxInt64));
  option("--dialect", &flags->dialect, "Transformers release: 5.23.0 or 5.1.0", "VERSION");
  command->add_flag("--inference", flags->inference, "Resolve for evaluation");
  command->add_flag("--auto-find-batch-size", flags->auto_find_batch_size,
                    "The batch size is searched for");
  command->add_flag("--allow-extensions", flags->allow_extensions,
                    "Know more names of the hidden size");
  command->add_flag("--validate-only", flags->validate_only, "Print the verdict, not the config");
  command->add_flag("--lint", flags->lint, "Lint the resolved config too");
  option("--deepspeed-version", &flags->deepspeed_version, "For lint; lists its defaults",
         "VERSION");
  command->add_flag("--estimate", flags->estimate, "Estimate the memory of a rank");
  option("--model-spec", &flags->model_spec, "The model for --estimate and --lint, JSON", "FILE");
  option("--num-parameters", &flags->num_parameters, "Or its size for --estimate", "N")
      ->check(WholeNumber(1, kMaxInt64));
  option("--batch", &flags->batch, "JSON lines, perhaps gzip; - for stdin", "FILE");
  command->callback([flags, global, run] {
    *run = [flags, global] {
      return flags->batch.empty() ? RunResolve(*global, *flags) : RunResolveBatch(*global, *flags);
    };
  });
}

void AddLint(CLI::App* config, const GlobalOptions* global, Run* run) {
  auto flags = std::make_shared<LintFlags>();
  CLI::App* command =
      config->add_subcommand("lint",
                             "Find what DeepSpeed would refuse, ignore or take in another sense.\n"
                             "Exit 4 where it would refuse the config or fail on it.");
  command->add_option("FILE", flags->file, "DeepSpeed config, JSON; - for stdin");
  command->add_option("--ds-config-base64", flags->ds_config_base64, "Url-safe base64, not FILE")
      ->type_name("TEXT");
  command
      ->add_option("--deepspeed-version", flags->deepspeed_version,
                   "DeepSpeed release; default: the newest known")
      ->type_name("VERSION");
  command->add_option("--world-size", flags->world_size, "Number of ranks, for the batch sizes")
      ->check(WholeNumber(1, kMaxInt64))
      ->type_name("N");
  command->add_flag("--resolved", flags->resolved, "Nothing fills an \"auto\" any more");
  command
      ->add_option("--model-spec", flags->model_spec, "The model that DeepSpeed is to take, JSON")
      ->type_name("FILE");
  command->callback(
      [flags, global, run] { *run = [flags, global] { return RunLint(*global, *flags); }; });
}

void AddDiff(CLI::App* config, const GlobalOptions* global, Run* run) {
  auto flags = std::make_shared<DiffFlags>();
  CLI::App* command = config->add_subcommand("diff", "Compare two configs path by path.");
  command->add_option("BEFORE", flags->before, "A file, - for stdin, or jobs/ID")->required();
  command->add_option("AFTER", flags->after, "A file, - for stdin, or jobs/ID")->required();
  command->callback(
      [flags, global, run] { *run = [flags, global] { return RunDiff(*global, *flags); }; });
}

}  // namespace

void AddConfigCommand(CLI::App* app, const GlobalOptions* global, Run* run) {
  CLI::App* config = app->add_subcommand("config", "Work with DeepSpeed configs");
  config->require_subcommand(1);
  AddResolve(config, global, run);
  AddLint(config, global, run);
  AddDiff(config, global, run);
}

}  // namespace zerocast
