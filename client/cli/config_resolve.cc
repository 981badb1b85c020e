// zerocast config resolve, of one config.
#include <algorithm>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "client/cli/config_commands.h"
#include "client/cli/config_errors.h"
#include "client/cli/config_input.h"
#include "client/cli/config_output.h"
#include "client/cli/output.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/wire/status.h"

namespace zerocast {
namespace {

using Json = nlohmann::ordered_json;

template <typename Strings>
std::vector<std::string> List(const Strings& strings) {
  return std::vector<std::string>(strings.begin(), strings.end());
}

const char* MadeByName(v1::MadeBy made_by) {
  switch (made_by) {
    case v1::MADE_BY_DEEPSPEED:
      return "deepspeed";
    case v1::MADE_BY_TRAINER:
      return "trainer";
    default:
      return "nobody";
  }
}

const char* KindName(v1::OriginKind kind) {
  switch (kind) {
    case v1::ORIGIN_KIND_ARGUMENT:
      return "argument";
    case v1::ORIGIN_KIND_DERIVED:
      return "derived";
    case v1::ORIGIN_KIND_INTEGRATION:
      return "integration";
    case v1::ORIGIN_KIND_DEEPSPEED_DEFAULT:
      return "deepspeed_default";
    default:
      return "given";
  }
}

absl::Status CheckFlags(const ResolveFlags& flags) {
  std::vector<FieldViolation> violations;
  if (flags.ds_config.empty() == flags.ds_config_base64.empty()) {
    violations.push_back({"--ds-config", flags.ds_config.empty()
                                             ? "is required, or --ds-config-base64, or --batch"
                                             : "excludes --ds-config-base64"});
  }
  if (flags.training_arguments.empty()) {
    violations.push_back({"--args", "is required, unless --batch is given"});
  }
  const bool spec = !flags.model_spec.empty(), count = flags.num_parameters > 0;
  if (flags.estimate && !spec && !count) {
    violations.push_back({"--estimate", "needs --model-spec or --num-parameters"});
  }
  if (spec && count) violations.push_back({"--model-spec", "excludes --num-parameters"});
  if (!flags.estimate && count) {
    violations.push_back({"--num-parameters", "is for --estimate"});
  } else if (!flags.estimate && !flags.lint && spec) {
    violations.push_back({"--model-spec", "is for --estimate and --lint"});
  }
  const int num_stdin = (flags.ds_config == "-") + (flags.training_arguments == "-") +
                        (flags.model_config == "-") + (flags.model_spec == "-");
  if (num_stdin > 1) violations.push_back({"-", "only one flag can read stdin"});
  return InvalidFields(violations);
}

absl::StatusOr<v1::ResolveConfigRequest> ReadRequest(const ResolveFlags& flags) {
  ZC_RETURN_IF_ERROR(CheckFlags(flags));
  v1::ResolveConfigRequest request;
  if (flags.ds_config.empty()) {
    request.set_config_base64(flags.ds_config_base64);
  } else {
    ZC_ASSIGN_OR_RETURN(*request.mutable_config_json(),
                        ReadInput("--ds-config", flags.ds_config, kMaxConfigBytes));
  }
  ZC_ASSIGN_OR_RETURN(*request.mutable_training_arguments_json(),
                      ReadInput("--args", flags.training_arguments, kMaxConfigBytes));
  if (!flags.model_config.empty()) {
    ZC_ASSIGN_OR_RETURN(*request.mutable_model_config_json(),
                        ReadInput("--model-config", flags.model_config, kMaxModelBytes));
  }
  if (flags.num_training_steps >= 0) request.set_num_training_steps(flags.num_training_steps);
  request.set_inference(flags.inference);
  request.set_auto_find_batch_size(flags.auto_find_batch_size);
  request.set_dialect(flags.dialect);
  request.set_allow_extensions(flags.allow_extensions);
  request.set_validate_only(flags.validate_only);
  request.set_all_origins(!flags.validate_only);
  request.set_lint(flags.lint);
  request.set_deepspeed_version(flags.deepspeed_version);
  request.set_estimate_memory(flags.estimate);
  if (!flags.model_spec.empty()) {
    ZC_ASSIGN_OR_RETURN(*request.mutable_model_spec_json(),
                        ReadInput("--model-spec", flags.model_spec, kMaxModelBytes));
  } else if (flags.num_parameters > 0) {
    request.mutable_model_size()->set_num_parameters(flags.num_parameters);
  }
  return request;
}

// What the fields of the request are to the user, the config first.
std::vector<Source> SourcesOf(const ResolveFlags& flags) {
  const std::string config =
      flags.ds_config.empty() ? "--ds-config-base64" : FileName(flags.ds_config);
  const std::string arguments = FileName(flags.training_arguments);
  return {{"config", config},
          {"config_json", config},
          {"config_base64", config},
          {"training_arguments", arguments},
          {"training_arguments_json", arguments},
          {"model_config_json", FileName(flags.model_config)},
          {"model_spec_json", FileName(flags.model_spec)},
          {"dialect", "--dialect"},
          {"deepspeed_version", "--deepspeed-version"}};
}

// Paths to the left, where their values come from beside them, or below a path that is too long.
void PrintPaths(const std::vector<std::pair<std::string, std::string>>& rows) {
  constexpr size_t kMaxWidth = 44;
  size_t width = 0;
  for (const auto& row : rows) width = std::max(width, std::min(row.first.size(), kMaxWidth));
  for (const auto& [path, from] : rows) {
    if (path.size() > width) {
      std::printf("  %s\n  %*s", path.c_str(), static_cast<int>(width), "");
    } else {
      std::printf("  %-*s", static_cast<int>(width), path.c_str());
    }
    std::printf("  %s\n", WrapText(from, width + 4, width + 4).c_str());
  }
}

void PrintOrigins(const v1::ResolveConfigResponse& response) {
  std::vector<std::pair<std::string, std::string>> rows, defaults;
  std::string version;  // "default of DeepSpeed 0.19.8"
  for (const v1::ValueOrigin& origin : response.origins()) {
    // What every line begins with says nothing and does not fit.
    absl::string_view from = absl::StripPrefix(origin.origin(), "auto filled from ");
    const size_t colon = from.find(": ");
    if (origin.kind() == v1::ORIGIN_KIND_DEEPSPEED_DEFAULT && colon != absl::string_view::npos) {
      version = std::string(from.substr(0, colon));
      defaults.emplace_back(origin.path(), from.substr(colon + 2));
    } else {
      rows.emplace_back(origin.path(), from);
    }
  }
  if (!rows.empty()) std::printf("\nwhere the values come from\n");
  PrintPaths(rows);
  if (!defaults.empty()) std::printf("\nabsent, so that the %s takes effect\n", version.c_str());
  PrintPaths(defaults);
}

void PrintMemory(const v1::MemoryEstimate& memory) {
  std::printf("\nmemory of the rank that holds most, without activations\n");
  size_t what_width = 0;
  for (const v1::MemoryLine& line : memory.lines()) {
    what_width = std::max(what_width, line.what().size());
  }
  for (const v1::MemoryLine& line : memory.lines()) {
    const std::string head = absl::StrFormat("  %-*s  %-11s  %8s", what_width, line.what(),
                                             line.place(), FormatBytes(line.num_bytes()));
    std::printf("%s\n      %s\n", head.c_str(), WrapText(line.formula(), 6, 6).c_str());
  }
  std::printf("  in all: accelerator %s, host %s, NVMe %s\n",
              FormatBytes(memory.accelerator_bytes()).c_str(),
              FormatBytes(memory.host_bytes()).c_str(), FormatBytes(memory.nvme_bytes()).c_str());
  for (const std::string& text : memory.assumptions()) {
    std::printf("  assumed: %s\n", WrapText(text, 11, 4).c_str());
  }
}

void PrintText(const ResolveFlags& flags, const v1::ResolveConfigResponse& response) {
  if (!flags.validate_only) std::printf("%s\n", IndentJson(response.config_json()).c_str());
  PrintOrigins(response);
  if (!flags.validate_only) std::printf("\n");
  std::printf("dtype %s, ZeRO stage %d%s\n", response.dtype().c_str(), response.zero_stage(),
              response.offload() ? ", offloaded" : "");
  if (!flags.validate_only) {
    std::printf("optimizer made by %s, scheduler by %s\n", MadeByName(response.optimizer()),
                MadeByName(response.lr_scheduler()));
    for (const std::string& call : response.calls()) std::printf("calls %s\n", call.c_str());
    std::printf("content hash %s\n", response.content_hash().c_str());
  }
  for (const std::string& line : response.log_lines()) {
    std::printf("log: %s\n", WrapText(line, 5, 4).c_str());
  }
  for (const std::string& path : response.duplicate_keys()) {
    std::printf("named twice, the last value counts: %s\n", path.c_str());
  }
  for (const v1::ConfigExtension& extension : response.extensions()) {
    std::printf("extension: %s\n",
                WrapText(absl::StrCat(extension.path(), ": ", extension.what(),
                                      "; the integration refuses this: ", extension.refusal()),
                         11, 4)
                    .c_str());
  }
  if (response.has_memory()) PrintMemory(response.memory());
  if (flags.lint) std::printf("\n%s", FindingsText(response.findings()).c_str());
}

Json MemoryJson(const v1::MemoryEstimate& memory) {
  Json lines = Json::array();
  for (const v1::MemoryLine& line : memory.lines()) {
    lines.push_back({{"what", line.what()},
                     {"place", line.place()},
                     {"num_bytes", line.num_bytes()},
                     {"formula", line.formula()}});
  }
  return {{"accelerator_bytes", memory.accelerator_bytes()},
          {"host_bytes", memory.host_bytes()},
          {"nvme_bytes", memory.nvme_bytes()},
          {"lines", lines},
          {"assumptions", List(memory.assumptions())}};
}

// Everything but the config.
Json ToJson(const ResolveFlags& flags, const v1::ResolveConfigResponse& response) {
  Json origins = Json::array();
  for (const v1::ValueOrigin& origin : response.origins()) {
    origins.push_back(
        {{"path", origin.path()}, {"kind", KindName(origin.kind())}, {"origin", origin.origin()}});
  }
  Json document = {{"dtype", response.dtype()},
                   {"zero_stage", response.zero_stage()},
                   {"offload", response.offload()}};
  if (!flags.validate_only) {
    document["optimizer"] = MadeByName(response.optimizer());
    document["lr_scheduler"] = MadeByName(response.lr_scheduler());
    document["calls"] = List(response.calls());
    document["log_lines"] = List(response.log_lines());
    document["content_hash"] = response.content_hash();
    document["origins"] = origins;
  }
  document["duplicate_keys"] = List(response.duplicate_keys());
  Json extensions = Json::array();
  for (const v1::ConfigExtension& extension : response.extensions()) {
    extensions.push_back(
        {{"path", extension.path()}, {"what", extension.what()}, {"refusal", extension.refusal()}});
  }
  document["extensions"] = extensions;
  if (flags.lint) document["findings"] = FindingsJson(response.findings());
  if (response.has_memory()) document["memory"] = MemoryJson(response.memory());
  return document;
}

// Where the config is refused, what else is known goes with the error.
void PrintBesideError(const GlobalOptions& global, const ResolveFlags& flags,
                      const v1::ResolveConfigResult& result) {
  Json context = Json::object();
  if (result.has_error()) {
    context["stage"] = result.error().stage();
    context["type"] = result.error().type();
  }
  if (flags.lint) {
    context["findings"] = FindingsJson(result.response().findings());
    if (!global.json() && !result.response().findings().empty()) {
      std::printf("%s", FindingsText(result.response().findings()).c_str());
      std::fflush(stdout);
    }
  }
  SetErrorContext(std::move(context));
}

}  // namespace

absl::Status RunResolve(const GlobalOptions& global, const ResolveFlags& flags) {
  ZC_ASSIGN_OR_RETURN(v1::ResolveConfigRequest request, ReadRequest(flags));
  ZC_ASSIGN_OR_RETURN(const ClusterHandle cluster, ConnectForConfigs(global));
  // A batch of one: its errors come whole, where a failed call's must fit gRPC's metadata.
  v1::BatchResolveConfigsRequest batch;
  *batch.add_requests() = std::move(request);
  ZC_ASSIGN_OR_RETURN(const v1::BatchResolveConfigsResponse answer,
                      cluster.client()->BatchResolveConfigs(batch));
  if (answer.results_size() != 1) return absl::InternalError("resolve: the server sent no answer");
  const v1::ResolveConfigResult& result = answer.results(0);
  if (result.has_status()) {
    PrintBesideError(global, flags, result);
    return ExplainConfigError(StatusFromProto(result.status()), SourcesOf(flags));
  }
  const v1::ResolveConfigResponse& response = result.response();
  if (!global.json()) {
    PrintText(flags, response);
    return absl::OkStatus();
  }
  const std::string rest =
      ToJson(flags, response).dump(-1, ' ', false, Json::error_handler_t::replace);
  // The config goes out as the server wrote it: Infinity and 1e400 have no place in a JSON tree.
  if (flags.validate_only) {
    std::printf("%s\n", rest.c_str());
  } else {
    std::printf("{\"config\": %s, %s\n", response.config_json().c_str(), rest.substr(1).c_str());
  }
  return absl::OkStatus();
}

}  // namespace zerocast
