#include "server/rpc/job_spec.h"

#include <algorithm>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/config/config_source.h"
#include "server/config/deepspeed_config.h"
#include "server/config/hidden_size.h"
#include "server/config/json_reader.h"
#include "server/config/lint_value.h"
#include "server/conversion/catalogue.h"
#include "server/conversion/convert.h"
#include "server/conversion/model_spec.h"
#include "server/conversion/pattern.h"
#include "server/plan/manifest.h"
#include "server/rpc/convert.h"
#include "server/wire/key_mapping.h"
#include "server/wire/plan_wire.h"

namespace zerocast::rpc {
namespace {

constexpr int32_t kMaxWorldSize = 1 << 20;
constexpr size_t kMaxPathBytes = 4096, kMaxNameBytes = 256, kMaxPatterns = 1000;
constexpr absl::Duration kDefaultStageTimeout = absl::Seconds(60);
constexpr absl::Duration kMaxStageTimeout = absl::Hours(24);
constexpr int64_t kMinRoundBytes = 8;  // the largest element
constexpr int32_t kMaxNodes = 1 << 16;

using Violations = std::vector<FieldViolation>;

void Add(Violations* violations, absl::string_view field, std::string description) {
  violations->push_back({std::string(field), std::move(description)});
}

// Adds the violations of `status` with their fields below `prefix`; for a status without any, one
// of `prefix` and `field`, which may be empty.
void AddStatus(Violations* violations, absl::string_view prefix, absl::string_view field,
               const absl::Status& status) {
  if (status.ok()) return;
  const Violations inner = ViolationsOf(status);
  for (const FieldViolation& violation : inner) {
    Add(violations, absl::StrCat(prefix, violation.field), violation.description);
  }
  if (inner.empty()) {
    Add(violations, field.empty() ? absl::StripSuffix(prefix, ".") : absl::StrCat(prefix, field),
        std::string(status.message()));
  }
}

void CheckPath(const std::string& path, Violations* violations) {
  constexpr absl::string_view kField = "spec.checkpoint_path";
  if (path.empty() || path.front() != '/') {
    Add(violations, kField,
        absl::StrCat("must be an absolute path as the agents see it, was '", path, "'"));
    return;
  }
  if (path.size() > kMaxPathBytes || path.find('\0') != std::string::npos) {
    Add(violations, kField, absl::StrCat("must have at most ", kMaxPathBytes, " bytes, none zero"));
  }
  for (absl::string_view part : absl::StrSplit(path, '/')) {
    if (part == "..") {
      Add(violations, kField, "must not contain '..'");
      return;
    }
  }
}

void ReadTopology(const v1::Topology& topology, jobs::Job* job, Violations* violations) {
  job->nodes.assign(topology.nodes().begin(), topology.nodes().end());
  const int32_t world_size = topology.world_size();
  if (world_size < 1 || world_size > kMaxWorldSize) {
    Add(violations, "spec.topology.world_size",
        absl::StrCat("must be 1 to ", kMaxWorldSize, ", was ", world_size));
  }
  const std::set<std::string> distinct(job->nodes.begin(), job->nodes.end());
  if (distinct.size() != job->nodes.size() || distinct.count("") > 0) {
    Add(violations, "spec.topology.nodes", "must be names, each once");
  }
  int32_t num_nodes = topology.num_nodes();
  if (num_nodes < 0) {
    Add(violations, "spec.topology.num_nodes",
        absl::StrCat("must not be negative, was ", num_nodes));
    return;
  }
  const int32_t named = topology.nodes_size();
  if (num_nodes == 0) num_nodes = std::max(named, 1);
  if (named > 0 && num_nodes != named) {
    Add(violations, "spec.topology.num_nodes",
        absl::StrCat("must be the number of nodes named, ", named, ", or 0, was ", num_nodes));
  }
  if (world_size >= 1 && num_nodes > world_size) {
    Add(violations, "spec.topology.num_nodes",
        absl::StrCat("must not be more than world_size: ", num_nodes, " nodes for ", world_size,
                     " ranks leave a node without one"));
  }
  if (!violations->empty()) return;
  job->layout.world_size = world_size;
  job->layout.num_nodes = num_nodes;
  job->layout.node_of_rank = PlaceRanks(world_size, num_nodes);
}

void ReadStageTimeout(const v1::LoadOptions& options, jobs::Job* job, Violations* violations) {
  job->stage_timeout = kDefaultStageTimeout;
  if (!options.has_stage_timeout()) return;
  job->stage_timeout = DurationFromProto(options.stage_timeout());
  if (job->stage_timeout <= absl::ZeroDuration() || job->stage_timeout > kMaxStageTimeout) {
    Add(violations, "spec.options.stage_timeout",
        absl::StrCat("must be more than 0 and at most ", absl::FormatDuration(kMaxStageTimeout),
                     ", was ", absl::FormatDuration(job->stage_timeout)));
  }
}

void CheckRuleChoice(const Layout& layout, Violations* violations) {
  if (!layout.dialect.empty()) {
    AddStatus(violations, "spec.options.", "dialect", CatalogueDialect(layout.dialect).status());
  }
  if (!layout.rule_table_json.empty()) {
    AddStatus(violations, "spec.options.", "rule_table_json",
              ParseCatalogue(layout.rule_table_json).status());
  }
}

void ReadBuffers(const v1::LoadOptions& options, jobs::Job* job, Violations* violations) {
  job->max_buffer_bytes =
      options.max_buffer_bytes() != 0 ? options.max_buffer_bytes() : kDefaultBufferBytes;
  if (job->max_buffer_bytes < kLeastBufferBytes) {
    Add(violations, "spec.options.max_buffer_bytes",
        absl::StrCat("must be 0 or at least ", kLeastBufferBytes, ", was ", job->max_buffer_bytes));
  }
  job->round_follows_buffers = options.round_bytes() == 0;
  job->layout.round_bytes =
      options.round_bytes() != 0 ? options.round_bytes() : DefaultRoundBytes(job->max_buffer_bytes);
}

void ReadOptions(const v1::LoadOptions& options, jobs::Job* job, Violations* violations) {
  Layout& layout = job->layout;
  const auto read_mode = ReadModeFromProto(options.read_mode());
  AddStatus(violations, "spec.options.", "read_mode", read_mode.status());
  if (read_mode.ok()) layout.read_mode = *read_mode;
  const auto move_mode = MoveModeFromProto(options.move_mode());
  AddStatus(violations, "spec.options.", "move_mode", move_mode.status());
  if (move_mode.ok()) layout.move_mode = *move_mode;
  const auto device = LoadDeviceFromProto(options.device());
  AddStatus(violations, "spec.options.", "device", device.status());
  if (device.ok()) layout.device = *device;
  if (options.dtype() != v1::DTYPE_POLICY_UNSPECIFIED) {
    const auto dtype = DTypePolicyFromProto(options.dtype());
    AddStatus(violations, "spec.options.", "dtype", dtype.status());
    if (dtype.ok()) layout.dtype = *dtype;
    if (dtype.ok() && *dtype == DTypePolicy::kSpec && job->model_spec_json.empty()) {
      Add(violations, "spec.options.dtype",
          "is the model spec's, but spec.model_spec_json is empty");
    }
  }
  if (options.has_zero_stage() && (options.zero_stage() < 0 || options.zero_stage() > 3)) {
    Add(violations, "spec.options.zero_stage",
        absl::StrCat("must be 0 to 3, was ", options.zero_stage()));
  }
  ReadBuffers(options, job, violations);
  if (layout.round_bytes < kMinRoundBytes) {
    Add(violations, "spec.options.round_bytes",
        absl::StrCat("must be 0 or at least ", kMinRoundBytes, ", was ", layout.round_bytes));
  }
  layout.allow_missing.assign(options.allow_missing().begin(), options.allow_missing().end());
  if (layout.allow_missing.size() > kMaxPatterns ||
      std::count(layout.allow_missing.begin(), layout.allow_missing.end(), "") > 0) {
    Add(violations, "spec.options.allow_missing",
        absl::StrCat("must be at most ", kMaxPatterns, " patterns, none empty"));
  }
  layout.ignore_mismatched = options.ignore_mismatched();
  layout.weights_only = options.weights_only();
  layout.dialect = options.dialect();
  layout.rule_table_json = options.rule_table_json();
  CheckRuleChoice(layout, violations);
  job->compute_digests = options.compute_digests();
  ReadStageTimeout(options, job, violations);
}

void ReadModel(const v1::JobSpec& spec, jobs::Job* job, Violations* violations) {
  job->model_spec_json = spec.model_spec_json();
  if (!job->model_spec_json.empty()) {
    AddStatus(violations, "spec.model_spec_json.", "",
              ParseModelSpec(job->model_spec_json).status());
  }
  job->key_mapping_json = spec.options().key_mapping_json();
  AddStatus(violations, "spec.options.", "key_mapping_json",
            ParseKeyMapping(job->key_mapping_json).status());
}

// A tag is the name of a folder in the checkpoint's.
void CheckTag(const jobs::Job& job, Violations* violations) {
  const std::string& tag = job.checkpoint_tag;
  if (tag.size() > kMaxNameBytes || tag == "." || tag == ".." ||
      tag.find('/') != std::string::npos || tag.find('\0') != std::string::npos) {
    Add(violations, "spec.checkpoint_tag",
        absl::StrCat("must be the name of a folder in spec.checkpoint_path, of at most ",
                     kMaxNameBytes, " bytes"));
  }
  const bool is_deepspeed = job.checkpoint_format == CheckpointFormat::kDeepSpeed || !tag.empty();
  if (is_deepspeed && !job.variant.empty()) {
    Add(violations, "spec.variant", "is of Hugging Face's weights, not of DeepSpeed's");
  }
  if (!tag.empty() && job.checkpoint_format == CheckpointFormat::kHuggingFace) {
    Add(violations, "spec.checkpoint_tag", "is of DeepSpeed checkpoints, not of Hugging Face's");
  }
}

// Everything but the config.
jobs::Job ReadFields(const v1::JobSpec& spec, Violations* violations) {
  jobs::Job job;
  job.spec_bytes = spec.SerializeAsString();
  job.checkpoint_path = spec.checkpoint_path();
  CheckPath(job.checkpoint_path, violations);
  job.variant = spec.variant();
  if (!IsVariant(job.variant)) {
    Add(violations, "spec.variant",
        "must be at most 64 letters, digits, '.', '-' and '_', such as \"fp16\" for "
        "model.fp16.safetensors");
  }
  const auto format = CheckpointFormatFromProto(spec.checkpoint_format());
  AddStatus(violations, "spec.", "checkpoint_format", format.status());
  if (format.ok()) job.checkpoint_format = *format;
  job.checkpoint_tag = spec.checkpoint_tag();
  CheckTag(job, violations);
  if (spec.display_name().size() > kMaxNameBytes) {
    Add(violations, "spec.display_name",
        absl::StrCat("must have at most ", kMaxNameBytes, " bytes"));
  }
  if (spec.has_num_training_steps() && spec.num_training_steps() < 0) {
    Add(violations, "spec.num_training_steps", "must not be negative");
  }
  ReadTopology(spec.topology(), &job, violations);
  ReadModel(spec, &job, violations);
  ReadOptions(spec.options(), &job, violations);
  return job;
}

// What is asked of a new spec alone: a record was checked by the server that made it, and must stay
// readable when these bounds change.
void CheckNewSpec(const v1::JobSpec& spec, Violations* violations) {
  const v1::Topology& topology = spec.topology();
  if (topology.nodes_size() > kMaxNodes) {
    Add(violations, "spec.topology.nodes",
        absl::StrCat("must be at most ", kMaxNodes, " names, were ", topology.nodes_size()));
  }
  for (int i = 0; i < topology.nodes_size(); ++i) {
    if (topology.nodes(i).size() <= kMaxNameBytes) continue;
    Add(violations, absl::StrCat("spec.topology.nodes[", i, "]"),
        absl::StrCat("must have at most ", kMaxNameBytes, " bytes, has ",
                     topology.nodes(i).size()));
    break;  // one shows what is wrong
  }
  if (topology.num_nodes() > kMaxNodes) {
    Add(violations, "spec.topology.num_nodes",
        absl::StrCat("must be at most ", kMaxNodes, ", was ", topology.num_nodes()));
  }
  const auto& patterns = spec.options().allow_missing();
  for (int i = 0; i < std::min<int>(patterns.size(), kMaxPatterns); ++i) {
    const absl::StatusOr<Regex> regex = Regex::Compile(patterns[i]);
    if (regex.ok()) continue;
    Add(violations, absl::StrCat("spec.options.allow_missing[", i, "]"),
        std::string(regex.status().message()));
  }
  // Else ResolveSpec reads it.
  if (!spec.deepspeed_config_json().empty() && !spec.training_arguments_json().empty()) return;
  constexpr absl::string_view kModelConfig = "spec.model_config_json";
  AddStatus(violations, "", kModelConfig,
            ReadModelConfig(spec.model_config_json(), kModelConfig).status());
}

// Offloaded parameters live in host memory; the swapper of "nvme" writes its files from there.  So
// do offloaded states of the optimizer: whether there are any is known with the manifest.
void DecidePlacement(const v1::JobSpec& spec, const ConfigFacts& facts, jobs::Job* job) {
  job->offload_param_device = facts.offload_param_device;
  job->offload_optimizer_device = facts.offload_optimizer_device;
  job->placement_reason =
      spec.options().device() == v1::DEVICE_UNSPECIFIED ? "default" : "--device";
  if (job->layout.device == LoadDevice::kCpu || facts.offload_param_device.empty()) return;
  job->layout.placement = Placement::kHost;
  job->placement_reason = absl::StrCat("offload_param.device is ", facts.offload_param_device);
}

// How the engine will lay out the optimizer's flat tensors; without a config as the one that saved
// the checkpoint.
void DecideFlatGroups(const ConfigFacts& facts, jobs::Job* job) {
  if (facts.resolved_json.empty()) return;
  absl::StatusOr<JsonDocument> document = ReadConfigText(facts.resolved_json);
  if (!document.ok()) return;  // of a record that an older version resolved
  const absl::StatusOr<DeepSpeedConfig> config =
      DeepSpeedConfig::Create(std::move(document->value));
  if (!config.ok()) return;
  const auto is_on = [&config](absl::string_view path) {
    const absl::StatusOr<const ConfigValue*> value = config->GetValue(path);
    return value.ok() && *value != nullptr && LaxBool(**value).value_or(false);
  };
  job->layout.round_robin_gradients = is_on("zero_optimization.round_robin_gradients");
  job->layout.parameter_alignment = is_on("zero_optimization.parameter_alignment");
}

// The choices that depend on the config.
void Decide(const v1::JobSpec& spec, const ConfigFacts& facts, jobs::Job* job) {
  job->resolved_config_json = facts.resolved_json;
  job->config_dtype = facts.dtype;
  if (facts.zero_stage >= 0) {
    job->layout.zero_stage = facts.zero_stage;
    job->zero_stage_reason = "DeepSpeed config";
  } else if (spec.options().has_zero_stage()) {
    job->layout.zero_stage = spec.options().zero_stage();
    job->zero_stage_reason = "--zero-stage";
  } else {
    // DeepSpeed's own default where its config names none; without a config the load is for ZeRO-3.
    job->layout.zero_stage = facts.resolved_json.empty() ? 3 : 0;
    job->zero_stage_reason = facts.resolved_json.empty() ? jobs::kByDefault : "DeepSpeed's default";
  }
  job->layout.hpz_partition_size = facts.hpz_partition_size;
  DecideFlatGroups(facts, job);
  DecidePlacement(spec, facts, job);
  if (spec.options().dtype() != v1::DTYPE_POLICY_UNSPECIFIED) {
    job->dtype_reason = "--dtype";
    return;
  }
  job->dtype_reason = "DeepSpeed config";
  if (facts.dtype == "bf16") {
    job->layout.dtype = DTypePolicy::kBFloat16;
  } else if (facts.dtype == "fp16") {
    job->layout.dtype = DTypePolicy::kFloat16;
  } else if (facts.dtype == "fp32") {
    job->layout.dtype = DTypePolicy::kFloat32;
  } else {
    job->layout.dtype = DTypePolicy::kStored;
    job->dtype_reason = "default";
  }
}

}  // namespace

absl::StatusOr<jobs::Job> JobFromRecord(const v1::JobSpec& spec, const ConfigFacts& facts) {
  Violations violations;
  jobs::Job job = ReadFields(spec, &violations);
  ZC_RETURN_IF_ERROR(InvalidFields(violations));
  Decide(spec, facts, &job);
  return job;
}

absl::StatusOr<jobs::Job> JobFromSpec(const v1::JobSpec& spec) {
  Violations violations;
  CheckNewSpec(spec, &violations);
  jobs::Job job = ReadFields(spec, &violations);
  const absl::StatusOr<ConfigFacts> facts = ResolveSpec(spec);
  // Input before state: a mismatch is told only when nothing else is wrong.
  if (!facts.ok() && absl::IsInvalidArgument(facts.status())) {
    if (violations.empty() && ViolationsOf(facts.status()).empty()) return facts.status();
    AddStatus(&violations, "", "spec.deepspeed_config_json", facts.status());
  }
  ZC_RETURN_IF_ERROR(InvalidFields(violations));
  if (!facts.ok()) return facts.status();
  Decide(spec, *facts, &job);
  return job;
}

}  // namespace zerocast::rpc
