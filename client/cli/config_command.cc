#include <CLI/CLI.hpp>
#include <memory>

#include "client/cli/command.h"
#include "client/cli/config_commands.h"

namespace zerocast {
namespace {

void AddResolve(CLI::App* config, const GlobalOptions* global, Run* run) {
  auto flags = std::make_shared<ResolveFlags>();
  CLI::App* command = config->add_subcommand(
      "resolve", "Fill every \"auto\", report every mismatch, as Transformers' integration does.");
  CLI::Option* file =
      command->add_option("--ds-config", flags->ds_config, "DeepSpeed config, JSON; - for stdin")
          ->type_name("FILE");
  CLI::Option* base64 = command
                            ->add_option("--ds-config-base64", flags->ds_config_base64,
                                         "The config as url-safe base64, as launchers pass it")
                            ->type_name("TEXT")
                            ->excludes(file);
  CLI::Option* arguments =
      command->add_option("--args", flags->training_arguments, "TrainingArguments as JSON")
          ->type_name("FILE");
  command->add_option("--model-config", flags->model_config, "The model's config.json")
      ->type_name("FILE");
  command->add_option("--num-training-steps", flags->num_training_steps, "Optimizer steps in all")
      ->check(CLI::NonNegativeNumber)
      ->type_name("N");
  command->add_option("--dialect", flags->dialect, "Transformers release: 5.23.0 or 5.1.0")
      ->type_name("VERSION");
  command->add_flag("--inference", flags->inference, "Resolve for evaluation");
  command->add_flag("--auto-find-batch-size", flags->auto_find_batch_size,
                    "The batch size is searched for");
  command->add_flag("--allow-extensions", flags->allow_extensions,
                    "Find the hidden size where the integration does not look");
  command->add_flag("--validate-only", flags->validate_only, "Print the verdict, not the config");
  command->add_flag("--lint", flags->lint, "Lint the resolved config too");
  command
      ->add_option("--deepspeed-version", flags->deepspeed_version,
                   "DeepSpeed release for lint and defaults")
      ->type_name("VERSION");
  CLI::Option* estimate =
      command->add_flag("--estimate", flags->estimate, "Estimate the memory of a rank");
  CLI::Option* spec =
      command->add_option("--model-spec", flags->model_spec, "The model for --estimate, JSON")
          ->type_name("FILE")
          ->needs(estimate);
  command
      ->add_option("--num-parameters", flags->num_parameters,
                   "Size of the model for --estimate, in elements")
      ->check(CLI::PositiveNumber)
      ->type_name("N")
      ->needs(estimate)
      ->excludes(spec);
  CLI::Option* batch = command
                           ->add_option("--batch", flags->batch,
                                        "JSON lines, .gz too: a case and its answer a line each")
                           ->type_name("FILE");
  batch->excludes(file)->excludes(base64)->excludes(arguments)->excludes(estimate);
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
  CLI::Option* file =
      command->add_option("FILE", flags->file, "DeepSpeed config, JSON; - for stdin");
  command
      ->add_option("--ds-config-base64", flags->ds_config_base64,
                   "The config as url-safe base64, instead of FILE")
      ->type_name("TEXT")
      ->excludes(file);
  command
      ->add_option("--deepspeed-version", flags->deepspeed_version,
                   "DeepSpeed release; default: the newest known")
      ->type_name("VERSION");
  command->add_option("--world-size", flags->world_size, "Number of ranks, for the batch sizes")
      ->check(CLI::PositiveNumber)
      ->type_name("N");
  command->add_flag("--resolved", flags->resolved, "Nothing fills an \"auto\" any more");
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
