#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/strip.h"
#include "client/cli/command.h"
#include "client/cli/embedded.h"
#include "client/cli/output.h"
#include "client/formats/file.h"
#include "kernels/base/status_macros.h"

namespace zerocast {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kMaxTextFileBytes = int64_t{64} << 20;

struct ResolveFlags {
  std::string ds_config, training_arguments, model_config, dialect;
  int64_t num_training_steps = -1;
  bool inference = false, auto_find_batch_size = false;
};

absl::Status RunResolve(const GlobalOptions& global, const ResolveFlags& flags) {
  v1::ResolveConfigRequest request;
  ZC_ASSIGN_OR_RETURN(*request.mutable_config_json(),
                      ReadTextFile(flags.ds_config, kMaxTextFileBytes));
  ZC_ASSIGN_OR_RETURN(*request.mutable_training_arguments_json(),
                      ReadTextFile(flags.training_arguments, kMaxTextFileBytes));
  if (!flags.model_config.empty()) {
    ZC_ASSIGN_OR_RETURN(*request.mutable_model_config_json(),
                        ReadTextFile(flags.model_config, kMaxTextFileBytes));
  }
  if (flags.num_training_steps >= 0) request.set_num_training_steps(flags.num_training_steps);
  request.set_inference(flags.inference);
  request.set_auto_find_batch_size(flags.auto_find_batch_size);
  request.set_dialect(flags.dialect);

  ClusterHandle cluster;
  if (global.server.empty()) {
    EmbeddedCluster::Options options;
    options.num_agents = 0;
    options.timeout = absl::Seconds(global.timeout_seconds);
    ZC_ASSIGN_OR_RETURN(cluster.embedded, EmbeddedCluster::Start(options));
  } else {
    ZC_ASSIGN_OR_RETURN(cluster.remote, global.Connect());
  }
  ZC_ASSIGN_OR_RETURN(const v1::ResolveConfigResponse response,
                      cluster.client()->ResolveConfig(request));
  if (!global.json()) {
    std::printf("%s\n\n", IndentJson(response.config_json()).c_str());
    int width = 0;
    for (const v1::ValueOrigin& origin : response.origins()) {
      width = std::max(width, static_cast<int>(origin.path().size()));
    }
    for (const v1::ValueOrigin& origin : response.origins()) {
      // "auto filled from" on every line says nothing and does not fit an 80-column terminal.
      const absl::string_view from = absl::StripPrefix(origin.origin(), "auto filled from ");
      std::printf("%-*s  <- %s\n", width, origin.path().c_str(), std::string(from).c_str());
    }
    std::printf("dtype %s, ZeRO stage %d%s\n", response.dtype().c_str(), response.zero_stage(),
                response.offload() ? ", offloaded" : "");
    return absl::OkStatus();
  }
  // The config goes out as the server wrote it: Infinity and 1e400 have no place in a JSON tree.
  Json origins = Json::array();
  for (const v1::ValueOrigin& origin : response.origins()) {
    origins.push_back({{"path", origin.path()}, {"origin", origin.origin()}});
  }
  const Json rest = {{"dtype", response.dtype()},
                     {"zero_stage", response.zero_stage()},
                     {"offload", response.offload()},
                     {"origins", origins},
                     {"log_lines", std::vector<std::string>(response.log_lines().begin(),
                                                            response.log_lines().end())}};
  std::printf("{\"config\": %s, %s\n", response.config_json().c_str(),
              rest.dump().substr(1).c_str());
  return absl::OkStatus();
}

}  // namespace

void AddConfigCommand(CLI::App* app, const GlobalOptions* global, Run* run) {
  CLI::App* config = app->add_subcommand("config", "Work with DeepSpeed configs");
  config->require_subcommand(1);
  auto flags = std::make_shared<ResolveFlags>();
  CLI::App* command = config->add_subcommand(
      "resolve", "Fill every \"auto\", report every mismatch, as Transformers' integration does.");
  command->add_option("--ds-config", flags->ds_config, "DeepSpeed config, JSON")
      ->required()
      ->type_name("FILE");
  command->add_option("--args", flags->training_arguments, "TrainingArguments as JSON")
      ->required()
      ->type_name("FILE");
  command->add_option("--model-config", flags->model_config, "The model's config.json")
      ->type_name("FILE");
  command->add_option("--num-training-steps", flags->num_training_steps, "Optimizer steps in all")
      ->type_name("N");
  command->add_option("--dialect", flags->dialect, "Transformers release: 5.23.0 or 5.1.0")
      ->type_name("VERSION");
  command->add_flag("--inference", flags->inference, "Resolve for evaluation");
  command->add_flag("--auto-find-batch-size", flags->auto_find_batch_size,
                    "The batch size is searched for");
  command->callback(
      [flags, global, run] { *run = [flags, global] { return RunResolve(*global, *flags); }; });
}

}  // namespace zerocast
