// ConfigService: resolving, linting, comparing; the configs of jobs and the leases on them.
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/rpc/config_convert.h"
#include "server/rpc/convert.h"
#include "server/rpc/services.h"

namespace zerocast::rpc {
namespace {

constexpr int kMaxBatch = 1000;
// What the client library receives has to fit its limit of 256 MiB.
constexpr size_t kMaxBatchBytes = size_t{128} << 20;

absl::Status BatchTooLarge(int done, int all) {
  return WithReason(
      absl::ResourceExhaustedError(absl::StrCat(
          "resolve ", all, " configs: the answers to the first ", done, " have more than ",
          kMaxBatchBytes, " bytes already; send fewer at once, or without all_origins")),
      "RESOURCE_EXHAUSTED");
}

}  // namespace

grpc::Status ConfigServiceImpl::ResolveConfig(grpc::ServerContext* context,
                                              const v1::ResolveConfigRequest* request,
                                              v1::ResolveConfigResponse* response) {
  return RunUnary(env_, "ConfigService/ResolveConfig", context, [&](absl::Duration) {
    ConfigAnswer answer = AnswerResolve(*request);
    if (answer.status.ok()) *response = std::move(answer.response);
    return answer.status;
  });
}

grpc::Status ConfigServiceImpl::BatchResolveConfigs(grpc::ServerContext* context,
                                                    const v1::BatchResolveConfigsRequest* request,
                                                    v1::BatchResolveConfigsResponse* response) {
  return RunUnary(
      env_, "ConfigService/BatchResolveConfigs", context, [&](absl::Duration left) -> absl::Status {
        const int count = request->requests_size();
        if (count > kMaxBatch) {
          return InvalidFields(
              {{"requests", absl::StrCat("must be at most ", kMaxBatch, ", were ", count)}});
        }
        const absl::Duration until = Clock::Real()->Steady() + left;
        size_t num_bytes = 0;
        for (int i = 0; i < count; ++i) {
          if (context->IsCancelled() || Clock::Real()->Steady() > until) {
            return WithReason(
                absl::DeadlineExceededError(absl::StrCat("resolve ", count,
                                                         " configs: the call's deadline passed "
                                                         "after ",
                                                         i, "; send fewer at once")),
                "DEADLINE_EXCEEDED");
          }
          ConfigAnswer answer = AnswerResolve(request->requests(i));
          const absl::Status status = Outgoing(answer.status);
          v1::ResolveConfigResult* result = response->add_results();
          *result = BatchResult(std::move(answer), status);
          num_bytes += result->ByteSizeLong();
          if (num_bytes > kMaxBatchBytes) return BatchTooLarge(i + 1, count);
        }
        return absl::OkStatus();
      });
}

grpc::Status ConfigServiceImpl::LintConfig(grpc::ServerContext* context,
                                           const v1::LintConfigRequest* request,
                                           v1::LintConfigResponse* response) {
  return RunUnary(env_, "ConfigService/LintConfig", context, [&](absl::Duration) -> absl::Status {
    ZC_ASSIGN_OR_RETURN(*response, AnswerLint(*request));
    return absl::OkStatus();
  });
}

absl::StatusOr<ConfigServiceImpl::JobConfig> ConfigServiceImpl::FindConfig(const std::string& job) {
  absl::StatusOr<v1::Job> found = env_.core->GetJob(job);
  if (found.ok()) {
    return JobConfig{{std::move(*found->mutable_resolved_config_json()), found->config_dtype(),
                      found->zero_stage()},
                     false};
  }
  if (!absl::IsNotFound(found.status())) return found.status();
  const std::shared_ptr<const KeptConfig> kept = leases_->Find(job);
  if (kept == nullptr) return found.status();
  return JobConfig{*kept, true};
}

absl::StatusOr<ConfigValue> ConfigServiceImpl::ReadRef(const v1::ConfigRef& ref,
                                                       absl::string_view field) {
  std::string text, source;
  if (ref.has_job()) {
    ZC_ASSIGN_OR_RETURN(JobConfig job, FindConfig(ref.job()));
    if (job.config.resolved_json.empty()) return ConfigValue(ConfigValue::Object());
    text = std::move(job.config.resolved_json);
    source = "job";
  } else if (ref.has_config_json()) {
    text = ref.config_json();
    source = "config_json";
  } else if (ref.has_config_base64()) {
    text = ref.config_base64();
    source = "config_base64";
  } else {
    return InvalidFields({{std::string(field), "must name config_json, config_base64 or job"}});
  }
  ZC_ASSIGN_OR_RETURN(JsonDocument document,
                      ReadConfigObject(text, absl::StrCat(field, ".", source)));
  return std::move(document.value);
}

grpc::Status ConfigServiceImpl::DiffConfigs(grpc::ServerContext* context,
                                            const v1::DiffConfigsRequest* request,
                                            v1::DiffConfigsResponse* response) {
  return RunUnary(env_, "ConfigService/DiffConfigs", context, [&](absl::Duration) -> absl::Status {
    const absl::StatusOr<ConfigValue> before = ReadRef(request->before(), "before");
    const absl::StatusOr<ConfigValue> after = ReadRef(request->after(), "after");
    // Both that are wrong, not the first.
    std::vector<FieldViolation> violations = ViolationsOf(before.status());
    for (FieldViolation& violation : ViolationsOf(after.status())) {
      violations.push_back(std::move(violation));
    }
    ZC_RETURN_IF_ERROR(InvalidFields(violations));
    ZC_RETURN_IF_ERROR(before.status());
    ZC_RETURN_IF_ERROR(after.status());
    *response = AnswerDiff(*before, *after);
    return absl::OkStatus();
  });
}

grpc::Status ConfigServiceImpl::QueryConfig(grpc::ServerContext* context,
                                            const v1::QueryConfigRequest* request,
                                            v1::QueryConfigResponse* response) {
  return RunUnary(env_, "ConfigService/QueryConfig", context, [&](absl::Duration) -> absl::Status {
    ZC_ASSIGN_OR_RETURN(const JobConfig job, FindConfig(request->job()));
    ZC_ASSIGN_OR_RETURN(*response, AnswerQuery(job.config, request->path()));
    response->set_job_deleted(job.deleted);
    return absl::OkStatus();
  });
}

grpc::Status ConfigServiceImpl::AcquireConfigLease(grpc::ServerContext* context,
                                                   const v1::AcquireConfigLeaseRequest* request,
                                                   v1::AcquireConfigLeaseResponse* response) {
  return RunUnary(
      env_, "ConfigService/AcquireConfigLease", context, [&](absl::Duration) -> absl::Status {
        const std::string problem = RequestIdProblem(request->request_id());
        if (!problem.empty()) return InvalidFields({{"request_id", problem}});
        ZC_ASSIGN_OR_RETURN(const JobConfig job, FindConfig(request->job()));
        ZC_ASSIGN_OR_RETURN(const ConfigLease lease,
                            leases_->Acquire(request->job(), job.config,
                                             request->has_ttl() ? DurationFromProto(request->ttl())
                                                                : ConfigLeases::kDefaultTtl,
                                             request->request_id()));
        *response->mutable_lease() = LeaseToProto(lease);
        return absl::OkStatus();
      });
}

grpc::Status ConfigServiceImpl::RenewConfigLease(grpc::ServerContext* context,
                                                 const v1::RenewConfigLeaseRequest* request,
                                                 v1::RenewConfigLeaseResponse* response) {
  return RunUnary(
      env_, "ConfigService/RenewConfigLease", context, [&](absl::Duration) -> absl::Status {
        std::optional<absl::Duration> ttl;
        if (request->has_ttl()) ttl = DurationFromProto(request->ttl());
        ZC_ASSIGN_OR_RETURN(const ConfigLease lease, leases_->Renew(request->name(), ttl));
        *response->mutable_lease() = LeaseToProto(lease);
        return absl::OkStatus();
      });
}

grpc::Status ConfigServiceImpl::ReleaseConfigLease(grpc::ServerContext* context,
                                                   const v1::ReleaseConfigLeaseRequest* request,
                                                   v1::ReleaseConfigLeaseResponse*) {
  return RunUnary(env_, "ConfigService/ReleaseConfigLease", context,
                  [&](absl::Duration) { return leases_->Release(request->name()); });
}

}  // namespace zerocast::rpc
