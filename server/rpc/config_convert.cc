#include "server/rpc/config_convert.h"

#include <google/protobuf/util/time_util.h>

#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "google/rpc/error_details.pb.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/config/config_source.h"
#include "server/config/content_hash.h"
#include "server/config/deepspeed_config.h"
#include "server/config/diff.h"
#include "server/config/estimate.h"
#include "server/config/hidden_size.h"
#include "server/config/lint.h"
#include "server/config/python_error.h"
#include "server/config/training_arguments.h"
#include "server/rpc/config_facts.h"
#include "server/wire/status.h"

namespace zerocast::rpc {
namespace {

constexpr int kMaxQueryPaths = 1000;
constexpr int kZero3 = 3;

using Violations = std::vector<FieldViolation>;

// Adds the violations of `status`: its own, where they begin with `from` renamed to `field`; or
// one.
void Collect(const absl::Status& status, absl::string_view from, absl::string_view field,
             Violations* violations) {
  if (status.ok()) return;
  const Violations own = ViolationsOf(status);
  for (const FieldViolation& violation : own) {
    const bool renamed = !from.empty() && absl::StartsWith(violation.field, from);
    violations->push_back(
        {renamed ? absl::StrCat(field, violation.field.substr(from.size())) : violation.field,
         violation.description});
  }
  if (own.empty()) violations->push_back({std::string(field), std::string(status.message())});
}

// What comes out of `value`; its violations go to `violations`.
template <typename T>
T Take(absl::StatusOr<T> value, absl::string_view from, absl::string_view field,
       Violations* violations) {
  if (value.ok()) return *std::move(value);
  Collect(value.status(), from, field, violations);
  return T();
}

// A request, read.
struct Input {
  ResolveRequest resolve;
  std::vector<std::string> duplicate_keys;  // of a config that came as a value
  ModelSize model;
};

void ReadSource(const v1::ResolveConfigRequest& request, Input* out, Violations* violations) {
  switch (request.source_case()) {
    case v1::ResolveConfigRequest::kConfigJson:
      out->resolve.config = request.config_json();
      return;
    case v1::ResolveConfigRequest::kConfigBase64:
      out->resolve.config = request.config_base64();
      return;
    case v1::ResolveConfigRequest::kConfigValueJson: {
      JsonDocument document = Take(ReadJson(request.config_value_json(), "config_value_json"), "",
                                   "config_value_json", violations);
      out->resolve.config = std::move(document.value);
      out->duplicate_keys = std::move(document.duplicate_keys);
      return;
    }
    case v1::ResolveConfigRequest::SOURCE_NOT_SET:
      break;
  }
  violations->push_back({"config_json", "must be set, or config_base64, or config_value_json"});
}

void ReadModel(const v1::ResolveConfigRequest& request, ModelSize* model, Violations* violations) {
  const bool is_spec = !request.model_spec_json().empty();
  if (request.estimate_memory() && is_spec == request.has_model_size()) {
    violations->push_back({"model_spec_json", "must be set for estimate_memory, or model_size"});
    return;
  }
  if (is_spec && (request.estimate_memory() || request.lint())) {
    *model =
        Take(ReadModelSize(request.model_spec_json()), "model_spec", "model_spec_json", violations);
    return;
  }
  if (!request.estimate_memory()) return;
  const v1::ModelSize& size = request.model_size();
  const auto check = [violations](const char* field, int64_t value, int64_t min) {
    if (value >= min) return;
    violations->push_back({absl::StrCat("model_size.", field),
                           absl::StrCat("must be at least ", min, ", was ", value)});
  };
  check("num_parameters", size.num_parameters(), 1);
  check("num_trainable", size.num_trainable(), 0);
  check("largest_parameter", size.largest_parameter(), 0);
  check("largest_layer", size.largest_layer(), 0);
  check("num_buffers", size.num_buffers(), 0);
  if (size.num_trainable() > size.num_parameters()) {
    violations->push_back({"model_size.num_trainable",
                           absl::StrCat("must be at most num_parameters, ", size.num_parameters(),
                                        ", was ", size.num_trainable())});
  }
  model->num_parameters = size.num_parameters();
  if (size.has_num_trainable()) model->num_trainable = size.num_trainable();
  model->largest_parameter = size.largest_parameter();
  model->largest_layer = size.largest_layer();
  model->num_buffers = size.num_buffers();
}

absl::StatusOr<Input> ReadRequest(const v1::ResolveConfigRequest& request) {
  Input input;
  Violations violations;
  ResolveRequest& in = input.resolve;
  ReadSource(request, &input, &violations);
  const ConfigValue arguments =
      Take(ReadArgumentsText(request.training_arguments_json(), "training_arguments_json", 0), "",
           "training_arguments_json", &violations);
  if (arguments.object() != nullptr) {
    in.arguments = Take(ReadTrainingArguments(arguments), "training_arguments",
                        "training_arguments_json", &violations);
  }
  in.model_config = Take(ReadModelConfig(request.model_config_json(), "model_config_json"), "",
                         "model_config_json", &violations);
  if (request.has_num_training_steps()) in.num_training_steps = request.num_training_steps();
  in.inference = request.inference();
  in.auto_find_batch_size = request.auto_find_batch_size();
  in.dialect = request.dialect();
  in.allow_extensions = request.allow_extensions();
  in.all_origins = request.all_origins() && !request.validate_only();
  in.keep_processed = request.query_paths_size() > 0;
  in.deepspeed_version = in.all_origins ? request.deepspeed_version() : "";
  Collect(FindDeepSpeedVersion(request.deepspeed_version()).status(), "", "deepspeed_version",
          &violations);
  ReadModel(request, &input.model, &violations);
  if (request.query_paths_size() > kMaxQueryPaths) {
    violations.push_back({"query_paths", absl::StrCat("must be at most ", kMaxQueryPaths, ", were ",
                                                      request.query_paths_size())});
  }
  if (violations.empty()) return input;
  // What ResolveConfig itself would refuse goes with the rest.
  in.config = ConfigValue(ConfigValue::Object());
  in.all_origins = false;
  in.deepspeed_version.clear();
  Collect(ResolveConfig(in).status(), "", "", &violations);
  return InvalidFields(violations);
}

v1::OriginKind ToProto(OriginKind kind) {
  switch (kind) {
    case OriginKind::kGiven:
      return v1::ORIGIN_KIND_GIVEN;
    case OriginKind::kArgument:
      return v1::ORIGIN_KIND_ARGUMENT;
    case OriginKind::kDerived:
      return v1::ORIGIN_KIND_DERIVED;
    case OriginKind::kIntegration:
      return v1::ORIGIN_KIND_INTEGRATION;
    case OriginKind::kDeepSpeedDefault:
      return v1::ORIGIN_KIND_DEEPSPEED_DEFAULT;
  }
  return v1::ORIGIN_KIND_UNSPECIFIED;
}

v1::MadeBy ToProto(MadeBy made_by) {
  switch (made_by) {
    case MadeBy::kNobody:
      return v1::MADE_BY_NOBODY;
    case MadeBy::kDeepSpeed:
      return v1::MADE_BY_DEEPSPEED;
    case MadeBy::kTrainer:
      return v1::MADE_BY_TRAINER;
  }
  return v1::MADE_BY_UNSPECIFIED;
}

v1::LintSeverity ToProto(LintSeverity severity) {
  switch (severity) {
    case LintSeverity::kError:
      return v1::LINT_SEVERITY_ERROR;
    case LintSeverity::kWarning:
      return v1::LINT_SEVERITY_WARNING;
    case LintSeverity::kNotice:
      return v1::LINT_SEVERITY_NOTICE;
  }
  return v1::LINT_SEVERITY_UNSPECIFIED;
}

v1::DifferenceKind ToProto(DifferenceKind kind) {
  switch (kind) {
    case DifferenceKind::kAdded:
      return v1::DIFFERENCE_KIND_ADDED;
    case DifferenceKind::kRemoved:
      return v1::DIFFERENCE_KIND_REMOVED;
    case DifferenceKind::kChanged:
      return v1::DIFFERENCE_KIND_CHANGED;
    case DifferenceKind::kTypeChanged:
      return v1::DIFFERENCE_KIND_TYPE_CHANGED;
  }
  return v1::DIFFERENCE_KIND_UNSPECIFIED;
}

void ToProto(const std::vector<LintFinding>& findings,
             google::protobuf::RepeatedPtrField<v1::LintFinding>* out) {
  for (const LintFinding& finding : findings) {
    v1::LintFinding* to = out->Add();
    to->set_path(finding.path);
    to->set_rule(finding.rule);
    to->set_message(finding.message);
    to->set_suggestion(finding.suggestion);
    to->set_severity(ToProto(finding.severity));
  }
}

void ToProto(const MemoryEstimate& estimate, v1::MemoryEstimate* out) {
  for (const MemoryLine& line : estimate.lines) {
    v1::MemoryLine* to = out->add_lines();
    to->set_what(line.what);
    to->set_place(std::string(Name(line.place)));
    to->set_num_bytes(line.num_bytes);
    to->set_formula(line.formula);
  }
  out->set_accelerator_bytes(estimate.accelerator_bytes);
  out->set_host_bytes(estimate.host_bytes);
  out->set_nvme_bytes(estimate.nvme_bytes);
  for (const std::string& text : estimate.assumptions) out->add_assumptions(text);
}

// The four queries at one path.
absl::Status QueryPath(const DeepSpeedConfig& config, absl::string_view path, v1::PathAnswer* out) {
  ZC_ASSIGN_OR_RETURN(const ConfigValue* value, config.GetValue(path));
  if (value != nullptr) out->set_value_json(WriteJson(*value));
  ZC_ASSIGN_OR_RETURN(const bool is_true, config.IsTrue(path));
  ZC_ASSIGN_OR_RETURN(const bool is_false, config.IsFalse(path));
  ZC_ASSIGN_OR_RETURN(const bool is_auto, config.IsAuto(path));
  out->set_is_true(is_true);
  out->set_is_false(is_false);
  out->set_is_auto(is_auto);
  return absl::OkStatus();
}

void Query(const DeepSpeedConfig& config,
           const google::protobuf::RepeatedPtrField<std::string>& paths, v1::ConfigAnswers* out) {
  out->set_is_zero2(config.is_zero2());
  out->set_is_zero3(config.is_zero3());
  out->set_is_offload(config.is_offload());
  for (const std::string& path : paths) {
    v1::PathAnswer* answer = out->add_paths();
    answer->set_path(path);
    const absl::Status status = QueryPath(config, path, answer);
    if (status.ok()) continue;
    answer->mutable_error()->set_type(PythonErrorType(status));
    answer->mutable_error()->set_message(std::string(status.message()));
  }
}

// What is known whether the resolution went well or not.
void Describe(const v1::ResolveConfigRequest& request, const Resolution& resolution,
              v1::ResolveConfigResponse* out) {
  const absl::StatusOr<TrainingDtype> dtype = resolution.config.dtype();
  if (dtype.ok()) out->set_dtype(std::string(ShortName(*dtype)));
  out->set_zero_stage(resolution.config.zero_stage());
  out->set_offload(resolution.config.is_offload());
  for (const std::string& path : resolution.duplicate_keys) out->add_duplicate_keys(path);
  // It has a dtype once processing went through.
  if (request.query_paths_size() > 0 && resolution.processed.dtype().ok()) {
    Query(resolution.processed, request.query_paths(), out->mutable_queries_after_process());
  }
}

void DescribeResolved(const v1::ResolveConfigRequest& request, const Resolution& resolution,
                      v1::ResolveConfigResponse* out) {
  if (request.query_paths_size() > 0) {
    Query(resolution.config, request.query_paths(), out->mutable_queries());
  }
  for (const Extension& extension : resolution.extensions) {
    v1::ConfigExtension* to = out->add_extensions();
    to->set_path(extension.path);
    to->set_what(extension.what);
    to->set_refusal(extension.integration_error);
  }
  if (request.validate_only()) return;
  out->set_config_json(WriteJson(resolution.config.root()));
  out->set_content_hash(ContentHash(resolution.config.root()));
  for (const ValueOrigin& origin : resolution.origins) {
    v1::ValueOrigin* to = out->add_origins();
    to->set_path(origin.path);
    to->set_origin(origin.origin);
    to->set_kind(ToProto(origin.kind));
  }
  for (const std::string& line : resolution.log_lines) out->add_log_lines(line);
  out->set_optimizer(ToProto(resolution.optimizer));
  out->set_lr_scheduler(ToProto(resolution.scheduler));
  for (const std::string& call : resolution.calls) out->add_calls(call);
}

absl::Status Lint(const v1::ResolveConfigRequest& request, const Input& input,
                  const Resolution& resolution, v1::ResolveConfigResponse* out) {
  LintRequest lint;
  lint.config = &resolution.config.root();
  lint.duplicate_keys = resolution.duplicate_keys;
  lint.deepspeed_version = request.deepspeed_version();
  int64_t world_size = 0;
  const ConfigInteger* ranks = input.resolve.arguments.world_size.integer();
  if (ranks != nullptr && ranks->ToInt64(&world_size)) lint.world_size = world_size;
  lint.scalar_parameters = input.model.scalar_parameters;
  // Before finalizing an "auto" may still be filled.
  lint.resolved = !resolution.error.has_value() &&
                  (input.resolve.num_training_steps.has_value() || input.resolve.inference);
  ZC_ASSIGN_OR_RETURN(const std::vector<LintFinding> findings, LintConfig(lint));
  ToProto(findings, out->mutable_findings());
  return absl::OkStatus();
}

// Takes the model and the config with it: they come last.
absl::Status Estimate(Input* input, Resolution* resolution, v1::ResolveConfigResponse* out) {
  EstimateRequest request;
  request.config = std::move(resolution->config.root());
  request.model = std::move(input->model);
  const ConfigInteger* ranks = input->resolve.arguments.world_size.integer();
  if (ranks == nullptr || !ranks->ToInt64(&request.world_size)) request.world_size = 1;
  request.inference = input->resolve.inference;
  ZC_ASSIGN_OR_RETURN(const MemoryEstimate estimate, EstimateMemory(request));
  ToProto(estimate, out->mutable_memory());
  return absl::OkStatus();
}

// The integration's refusal as it leaves: with stage and type where a program finds them.
absl::Status RefusalStatus(const IntegrationError& error) {
  absl::Status status = error.status;
  google::rpc::ErrorInfo info;
  info.set_reason(ReasonOf(status));
  info.set_domain("zerocast.dev");
  (*info.mutable_metadata())["stage"] = error.stage;
  (*info.mutable_metadata())["type"] = error.type;
  status.SetPayload(kErrorInfoUrl, absl::Cord(info.SerializeAsString()));
  return status;
}

absl::Status Answer(const v1::ResolveConfigRequest& request, ConfigAnswer* answer) {
  ZC_ASSIGN_OR_RETURN(Input input, ReadRequest(request));
  ZC_ASSIGN_OR_RETURN(Resolution resolution, ResolveConfig(input.resolve));
  // A value that is a text was read as a config by the resolution.
  if (!input.duplicate_keys.empty()) resolution.duplicate_keys = input.duplicate_keys;
  Describe(request, resolution, &answer->response);
  if (request.lint() && resolution.config.root().object() != nullptr) {
    ZC_RETURN_IF_ERROR(Lint(request, input, resolution, &answer->response));
  }
  if (resolution.error.has_value()) {
    answer->error = resolution.error;
    return RefusalStatus(*resolution.error);
  }
  DescribeResolved(request, resolution, &answer->response);
  if (!request.estimate_memory()) return absl::OkStatus();
  return Estimate(&input, &resolution, &answer->response);
}

}  // namespace

ConfigAnswer AnswerResolve(const v1::ResolveConfigRequest& request) {
  ConfigAnswer answer;
  answer.status = Answer(request, &answer);
  return answer;
}

v1::ResolveConfigResult BatchResult(ConfigAnswer answer, const absl::Status& status) {
  v1::ResolveConfigResult result;
  *result.mutable_response() = std::move(answer.response);
  if (answer.error.has_value()) {
    result.mutable_error()->set_stage(answer.error->stage);
    result.mutable_error()->set_type(answer.error->type);
    result.mutable_error()->set_message(answer.error->message);
  }
  if (status.ok()) return result;
  *result.mutable_status() = StatusToProto(status);
  return result;
}

absl::StatusOr<JsonDocument> ReadConfigObject(const std::string& text, absl::string_view field) {
  absl::StatusOr<JsonDocument> document = ReadConfigText(text);
  Violations violations;
  if (!document.ok()) {
    Collect(document.status(), "config", field, &violations);
  } else if (document->value.object() == nullptr) {
    violations.push_back({std::string(field), "must be JSON text of one object"});
  }
  ZC_RETURN_IF_ERROR(InvalidFields(violations));
  return document;
}

absl::StatusOr<v1::LintConfigResponse> AnswerLint(const v1::LintConfigRequest& request) {
  Violations violations;
  const bool is_base64 = !request.config_base64().empty();
  if (is_base64 == !request.config_json().empty()) {
    violations.push_back({"config_json", "must be set, or config_base64, and not both"});
  }
  if (request.has_world_size() && request.world_size() < 1) {
    violations.push_back(
        {"world_size", absl::StrCat("must be at least 1, was ", request.world_size())});
  }
  Collect(FindDeepSpeedVersion(request.deepspeed_version()).status(), "", "deepspeed_version",
          &violations);
  JsonDocument document;
  LintRequest lint;
  if (is_base64 || !request.config_json().empty()) {
    document = Take(is_base64 ? ReadConfigObject(request.config_base64(), "config_base64")
                              : ReadConfigObject(request.config_json(), "config_json"),
                    "", "", &violations);
  }
  if (!request.model_spec_json().empty()) {
    lint.scalar_parameters =
        Take(ReadModelSize(request.model_spec_json()), "model_spec", "model_spec_json", &violations)
            .scalar_parameters;
  }
  ZC_RETURN_IF_ERROR(InvalidFields(violations));
  lint.config = &document.value;
  lint.duplicate_keys = document.duplicate_keys;
  lint.deepspeed_version = request.deepspeed_version().empty()
                               ? std::string(std::end(kDeepSpeedVersions)[-1])
                               : request.deepspeed_version();
  if (request.has_world_size()) lint.world_size = request.world_size();
  lint.resolved = request.resolved();
  ZC_ASSIGN_OR_RETURN(const std::vector<LintFinding> findings, LintConfig(lint));
  v1::LintConfigResponse response;
  response.set_deepspeed_version(lint.deepspeed_version);
  ToProto(findings, response.mutable_findings());
  return response;
}

v1::DiffConfigsResponse AnswerDiff(const ConfigValue& before, const ConfigValue& after) {
  v1::DiffConfigsResponse response;
  for (const ConfigDifference& difference : DiffConfigs(before, after)) {
    v1::ConfigDifference* to = response.add_differences();
    to->set_path(difference.path);
    to->set_kind(ToProto(difference.kind));
    if (!difference.before.empty()) to->set_before_json(difference.before);
    if (!difference.after.empty()) to->set_after_json(difference.after);
  }
  response.set_before_hash(ContentHash(before));
  response.set_after_hash(ContentHash(after));
  return response;
}

absl::StatusOr<v1::QueryConfigResponse> AnswerQuery(const KeptConfig& config,
                                                    const std::string& path) {
  v1::QueryConfigResponse response;
  response.set_is_zero3(config.zero_stage == kZero3);
  response.set_zero_stage(config.zero_stage);
  response.set_dtype(config.dtype);
  if (config.resolved_json.empty()) return response;
  ZC_ASSIGN_OR_RETURN(JsonDocument document, ReadConfigText(config.resolved_json));
  ZC_ASSIGN_OR_RETURN(const DeepSpeedConfig resolved,
                      DeepSpeedConfig::Create(std::move(document.value)));
  response.set_offload(resolved.is_offload());
  response.set_content_hash(ContentHash(resolved.root()));
  if (path.empty()) {
    response.set_value_json(WriteJson(resolved.root()));
    return response;
  }
  v1::PathAnswer answer;
  if (!QueryPath(resolved, path, &answer).ok()) {
    return InvalidFields(
        {{"path", absl::StrCat("'", path, "' leads through a value that is no object")}});
  }
  if (answer.has_value_json()) response.set_value_json(answer.value_json());
  response.set_is_true(answer.is_true());
  response.set_is_false(answer.is_false());
  response.set_is_auto(answer.is_auto());
  return response;
}

v1::ConfigLease LeaseToProto(const ConfigLease& lease) {
  v1::ConfigLease out;
  out.set_name(lease.name);
  out.set_job(lease.job);
  *out.mutable_expire_time() = google::protobuf::util::TimeUtil::NanosecondsToTimestamp(
      absl::ToUnixNanos(lease.expire_time));
  return out;
}

}  // namespace zerocast::rpc
