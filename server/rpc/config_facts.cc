#include "server/rpc/config_facts.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/config/config_source.h"
#include "server/config/deepspeed_config.h"
#include "server/config/hidden_size.h"
#include "server/config/json_reader.h"
#include "server/config/lint_value.h"
#include "server/config/resolve.h"
#include "server/config/training_arguments.h"

namespace zerocast::rpc {
namespace {

// The config's zero_hpz_partition_size, which DeepSpeed reads under ZeRO-3 alone.
absl::StatusOr<int32_t> ReadHpzPartitionSize(const DeepSpeedConfig& config, int32_t world_size) {
  constexpr char kPath[] = "zero_optimization.zero_hpz_partition_size";
  const auto refuse = [&](absl::string_view what) {
    return InvalidFields({{"spec.deepspeed_config_json", absl::StrCat(kPath, " ", what)}});
  };
  if (!config.is_zero3()) return 1;
  ZC_ASSIGN_OR_RETURN(const ConfigValue* const value, config.GetValue(kPath));
  if (value == nullptr) return 1;
  const std::optional<double> size = LaxInt(*value);
  if (!size.has_value() || *size < 0) return refuse("must be an integer of at least 0");
  // Of more than there are, DeepSpeed takes all ranks.
  const auto group = static_cast<int32_t>(std::min<double>(*size, world_size));
  if (group > 1 && world_size % group != 0) {
    return refuse(absl::StrCat("must divide the world size, ", world_size, ", was ", group));
  }
  return group;
}

// The device of a section of zero_optimization that offloads; "" for none.
absl::StatusOr<std::string> ReadOffloadDevice(const DeepSpeedConfig& config,
                                              absl::string_view section_name,
                                              absl::string_view old_name) {
  const std::string section_path = absl::StrCat("zero_optimization.", section_name);
  const std::string device_path = absl::StrCat(section_path, ".device");
  ZC_ASSIGN_OR_RETURN(const ConfigValue* const section, config.GetValue(section_path));
  if (section == nullptr || section->is_null()) {
    // Its name of old stands for device "cpu" (DeepSpeed 0.19.8, runtime/zero/config.py).
    ZC_ASSIGN_OR_RETURN(const ConfigValue* const old,
                        config.GetValue(absl::StrCat("zero_optimization.", old_name)));
    return old != nullptr && LaxBool(*old).value_or(false) ? "cpu" : "";
  }
  ZC_ASSIGN_OR_RETURN(const ConfigValue* const device, config.GetValue(device_path));
  if (device == nullptr || device->IsText("none")) return "";
  for (const char* const known : {"cpu", "nvme"}) {
    if (device->IsText(known)) return known;
  }
  return InvalidFields(
      {{"spec.deepspeed_config_json",
        absl::StrCat(device_path,
                     " must be \"none\", \"cpu\" or \"nvme\": it decides where the "
                     "shards lie")}});
}

// What a config offloads: DeepSpeed reads offload_param under ZeRO-3 alone, offload_optimizer under
// all stages but 0.
absl::Status ReadOffloads(const DeepSpeedConfig& config, ConfigFacts* facts) {
  if (config.is_zero3()) {
    ZC_ASSIGN_OR_RETURN(facts->offload_param_device,
                        ReadOffloadDevice(config, "offload_param", "cpu_offload_param"));
  }
  if (config.zero_stage() > 0) {
    ZC_ASSIGN_OR_RETURN(facts->offload_optimizer_device,
                        ReadOffloadDevice(config, "offload_optimizer", "cpu_offload"));
  }
  return absl::OkStatus();
}

absl::StatusOr<ConfigFacts> FactsOf(const Resolution& resolution, int32_t world_size) {
  ConfigFacts facts;
  facts.resolved_json = WriteJson(resolution.config.root());
  const absl::StatusOr<TrainingDtype> dtype = resolution.config.dtype();
  if (dtype.ok()) facts.dtype = std::string(ShortName(*dtype));
  facts.zero_stage = resolution.config.zero_stage();
  ZC_ASSIGN_OR_RETURN(facts.hpz_partition_size,
                      ReadHpzPartitionSize(resolution.config, world_size));
  ZC_RETURN_IF_ERROR(ReadOffloads(resolution.config, &facts));
  return facts;
}

// What a config says by itself, where no training arguments come with it: nothing is filled and
// nothing can contradict.  The load needs the dtype and the stage: where they are "auto" only the
// arguments can tell, and defaults in their place would be a guess about somebody's weights.
absl::StatusOr<ConfigFacts> ReadConfigAlone(const v1::JobSpec& spec) {
  constexpr char kField[] = "spec.training_arguments_json";
  ZC_ASSIGN_OR_RETURN(JsonDocument document, ReadConfigText(spec.deepspeed_config_json()));
  ZC_ASSIGN_OR_RETURN(const DeepSpeedConfig config,
                      DeepSpeedConfig::Create(std::move(document.value)));
  ConfigFacts facts;
  facts.resolved_json = spec.deepspeed_config_json();
  facts.zero_stage = config.zero_stage();
  ZC_ASSIGN_OR_RETURN(facts.hpz_partition_size,
                      ReadHpzPartitionSize(config, spec.topology().world_size()));
  ZC_RETURN_IF_ERROR(ReadOffloads(config, &facts));
  ZC_ASSIGN_OR_RETURN(const bool bf16_auto, config.IsAuto("bf16.enabled"));
  ZC_ASSIGN_OR_RETURN(const bool fp16_auto, config.IsAuto("fp16.enabled"));
  ZC_ASSIGN_OR_RETURN(const bool stage_auto, config.IsAuto("zero_optimization.stage"));
  std::vector<FieldViolation> violations;
  const bool dtype_matters = spec.options().dtype() == v1::DTYPE_POLICY_UNSPECIFIED;
  for (const auto& [is_auto, path] : {std::pair(bf16_auto && dtype_matters, "bf16.enabled"),
                                      std::pair(fp16_auto && dtype_matters, "fp16.enabled"),
                                      std::pair(stage_auto, "zero_optimization.stage")}) {
    if (!is_auto) continue;
    violations.push_back(
        {kField, absl::StrCat("is empty, but the config's ", path,
                              " is \"auto\": give the training arguments that fill it")});
  }
  ZC_RETURN_IF_ERROR(InvalidFields(violations));
  ZC_ASSIGN_OR_RETURN(const bool bf16, config.IsTrue("bf16.enabled"));
  ZC_ASSIGN_OR_RETURN(const bool fp16, config.IsTrue("fp16.enabled"));
  facts.dtype = bf16 ? "bf16" : fp16 ? "fp16" : "fp32";
  return facts;
}

}  // namespace

absl::StatusOr<ConfigValue> ReadArgumentsText(const std::string& text, absl::string_view field,
                                              int32_t world_size) {
  ConfigValue arguments(ConfigValue::Object{});
  if (!text.empty()) {
    ZC_ASSIGN_OR_RETURN(JsonDocument document, ReadJson(text, field));
    arguments = std::move(document.value);
  }
  if (arguments.object() == nullptr) {
    return InvalidFields({{std::string(field), "must be JSON text of one object"}});
  }
  if (world_size == 0) return arguments;
  const ConfigValue* own = arguments.Find("world_size");
  if (own == nullptr) {
    arguments.Set("world_size", ConfigValue(world_size));
  } else if (*own != ConfigValue(world_size)) {
    return InvalidFields({{absl::StrCat(field, ".world_size"),
                           absl::StrCat("must be the topology's, ", world_size, ", or absent")}});
  }
  return arguments;
}

absl::StatusOr<ConfigFacts> ResolveSpec(const v1::JobSpec& spec) {
  if (spec.deepspeed_config_json().empty()) return ConfigFacts();
  if (spec.training_arguments_json().empty()) return ReadConfigAlone(spec);
  ResolveRequest request;
  request.all_origins = request.keep_processed = false;
  request.config = spec.deepspeed_config_json();
  ZC_ASSIGN_OR_RETURN(const ConfigValue arguments, ReadArgumentsText(spec.training_arguments_json(),
                                                                     "spec.training_arguments_json",
                                                                     spec.topology().world_size()));
  ZC_ASSIGN_OR_RETURN(request.arguments, ReadTrainingArguments(arguments));
  ZC_ASSIGN_OR_RETURN(request.model_config,
                      ReadModelConfig(spec.model_config_json(), "spec.model_config_json"));
  if (spec.has_num_training_steps()) request.num_training_steps = spec.num_training_steps();
  ZC_ASSIGN_OR_RETURN(const Resolution resolution, ResolveConfig(request));
  ZC_RETURN_IF_ERROR(resolution.status());
  return FactsOf(resolution, spec.topology().world_size());
}

}  // namespace zerocast::rpc
