// zerocast config lint.
#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/cli/config_commands.h"
#include "client/cli/config_errors.h"
#include "client/cli/config_input.h"
#include "client/cli/config_output.h"
#include "client/cli/output.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"

namespace zerocast {

absl::Status RunLint(const GlobalOptions& global, const LintFlags& flags) {
  if (flags.file.empty() == flags.ds_config_base64.empty()) {
    return InvalidFields({{"FILE", "is required, or --ds-config-base64, and not both"}});
  }
  v1::LintConfigRequest request;
  if (flags.file.empty()) {
    request.set_config_base64(flags.ds_config_base64);
  } else {
    ZC_ASSIGN_OR_RETURN(*request.mutable_config_json(),
                        ReadInput("FILE", flags.file, kMaxConfigBytes));
  }
  if (!flags.model_spec.empty()) {
    if (flags.model_spec == "-" && flags.file == "-") {
      return InvalidFields({{"-", "only one of FILE and --model-spec can read stdin"}});
    }
    ZC_ASSIGN_OR_RETURN(*request.mutable_model_spec_json(),
                        ReadInput("--model-spec", flags.model_spec, kMaxModelBytes));
  }
  request.set_deepspeed_version(flags.deepspeed_version);
  if (flags.world_size > 0) request.set_world_size(flags.world_size);
  request.set_resolved(flags.resolved);
  ZC_ASSIGN_OR_RETURN(const ClusterHandle cluster, ConnectForConfigs(global));
  const absl::StatusOr<v1::LintConfigResponse> answer = cluster.client()->LintConfig(request);
  const std::string config = flags.file.empty() ? "--ds-config-base64" : FileName(flags.file);
  if (!answer.ok()) {
    return ExplainConfigError(answer.status(), {{"config_json", config},
                                                {"config_base64", config},
                                                {"model_spec_json", FileName(flags.model_spec)},
                                                {"deepspeed_version", "--deepspeed-version"}});
  }
  const int errors = NumErrors(answer->findings());
  nlohmann::ordered_json document = {{"deepspeed_version", answer->deepspeed_version()},
                                     {"findings", FindingsJson(answer->findings())}};
  if (!global.json()) {
    std::printf("%s", FindingsText(answer->findings()).c_str());
    std::fflush(stdout);
  } else if (errors == 0) {
    PrintJson(document);
  }
  if (errors == 0) return absl::OkStatus();
  SetErrorContext(std::move(document));
  const absl::Status refused = absl::FailedPreconditionError(absl::StrCat(
      "lint ", config, ": DeepSpeed ", answer->deepspeed_version(),
      " refuses it, or fails on it, for ", errors, errors == 1 ? " reason" : " reasons"));
  return ExplainConfigError(WithReason(refused, "INVALID_FIELDS"), {});
}

}  // namespace zerocast
