#include "server/config/resolve.h"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/config/config_source.h"
#include "server/config/integration.h"
#include "server/config/json_reader.h"
#include "server/config/lint.h"
#include "server/config/python_error.h"
#include "server/config/python_format.h"

namespace zerocast {
namespace {

// What Python makes of a value that is neither a dict nor text: os.path.exists takes it for a path,
// where an integer is a file descriptor, and json.loads for text.
absl::Status NotASource(const ConfigValue& value) {
  const absl::string_view type = PythonTypeName(value);
  const std::vector<FieldViolation> violations = {
      {"config", absl::StrCat("must be an object, was of type ", type)}};
  int64_t descriptor = 0;
  if (const ConfigInteger* integer = value.integer()) {
    const bool fits = integer->ToInt64(&descriptor);
    constexpr int64_t kMin = std::numeric_limits<int>::min(),
                      kMax = std::numeric_limits<int>::max();
    if (!fits || descriptor < kMin || descriptor > kMax) {
      return WithViolations(
          PythonError("OverflowError", integer->negative() ? "fd is less than minimum"
                                                           : "fd is greater than maximum"),
          violations);
    }
  }
  const bool index = value.integer() != nullptr || value.boolean() != nullptr;
  return WithViolations(
      PythonError(
          "TypeError",
          index ? absl::StrCat("the JSON object must be str, bytes or bytearray, not ", type)
                : absl::StrCat("stat: path should be string, bytes, os.PathLike or integer, not ",
                               type)),
      violations);
}

absl::StatusOr<ConfigValue> ReadSource(const ResolveRequest& request, Resolution* out) {
  if (const std::string* text = std::get_if<std::string>(&request.config)) {
    ZC_ASSIGN_OR_RETURN(JsonDocument document, ReadConfigText(*text));
    out->duplicate_keys = std::move(document.duplicate_keys);
    return std::move(document.value);
  }
  const ConfigValue& value = std::get<ConfigValue>(request.config);
  if (value.object() != nullptr) return value;
  if (value.text() != nullptr) {
    ZC_ASSIGN_OR_RETURN(JsonDocument document, ReadConfigText(*value.text()));
    out->duplicate_keys = std::move(document.duplicate_keys);
    return std::move(document.value);
  }
  return NotASource(value);
}

// The steps to finalize with; none where the config is only processed.
std::optional<int64_t> Steps(const ResolveRequest& request) {
  if (request.inference && !request.num_training_steps.has_value()) return 0;
  return request.num_training_steps;
}

// Everything that is wrong with the config: the integration raises at the first.
std::vector<FieldViolation> AllViolations(const ResolveRequest& request) {
  std::vector<FieldViolation> violations;
  Resolution scratch;
  const auto root = ReadSource(request, &scratch);
  if (!root.ok() || root->object() == nullptr) return violations;
  auto config = DeepSpeedConfig::Create(*root, &violations);
  if (config.ok()) {
    scratch.config = *std::move(config);
  } else {
    scratch.config.root() = *root;
  }
  Resolver resolver(request, &scratch, &violations);
  // What they return is the first of the violations.
  (void)resolver.Process();
  const std::optional<int64_t> steps = Steps(request);
  if (!steps.has_value()) {
    AddViolations(ViolationsOf(resolver.RaiseMismatches()), &violations);
    return violations;
  }
  (void)resolver.Finalize(ConfigValue(*steps));
  (void)resolver.Init();
  return violations;
}

// Records an exception of the integration; other errors are the caller's.
absl::Status Catch(const absl::Status& status, absl::string_view stage,
                   const ResolveRequest& request, Resolution* out) {
  const std::string type = PythonErrorType(status);
  if (status.ok() || type.empty()) return status;
  IntegrationError error{std::string(stage), type, std::string(status.message()), {}};
  std::vector<FieldViolation> violations = ViolationsOf(status);
  AddViolations(AllViolations(request), &violations);
  error.status = WithViolations(absl::Status(status.code(), status.message()), violations);
  error.status = WithReason(
      error.status, absl::IsFailedPrecondition(status) ? "CONFIG_MISMATCH" : "INVALID_FIELDS");
  out->error = std::move(error);
  return absl::OkStatus();
}

absl::Status CheckRequest(const ResolveRequest& request) {
  std::vector<FieldViolation> violations;
  if (!request.dialect.empty() && std::find(std::begin(kConfigDialects), std::end(kConfigDialects),
                                            request.dialect) == std::end(kConfigDialects)) {
    violations.push_back(
        {"dialect", absl::StrCat("must be one of ", absl::StrJoin(kConfigDialects, ", "), ", was ",
                                 request.dialect)});
  }
  if (request.num_training_steps.value_or(0) < 0) {
    violations.push_back({"num_training_steps",
                          absl::StrCat("must be at least 0, was ", *request.num_training_steps)});
  }
  for (FieldViolation& violation :
       ViolationsOf(FindDeepSpeedVersion(request.deepspeed_version).status())) {
    violations.push_back(std::move(violation));
  }
  return InvalidFields(violations);
}

absl::Status Run(const ResolveRequest& request, Resolution* out) {
  const auto parse = [&]() -> absl::Status {
    ZC_ASSIGN_OR_RETURN(ConfigValue root, ReadSource(request, out));
    ZC_ASSIGN_OR_RETURN(out->config, DeepSpeedConfig::Create(std::move(root)));
    return absl::OkStatus();
  };
  ZC_RETURN_IF_ERROR(Catch(parse(), "parse", request, out));
  if (out->error.has_value()) return absl::OkStatus();

  Resolver resolver(request, out);
  ZC_RETURN_IF_ERROR(Catch(resolver.Process(), "process", request, out));
  if (out->error.has_value()) return absl::OkStatus();

  if (request.keep_processed) out->processed = out->config;
  const std::optional<int64_t> steps = Steps(request);
  if (!steps.has_value()) return Catch(resolver.RaiseMismatches(), "process", request, out);
  ZC_RETURN_IF_ERROR(Catch(resolver.Finalize(ConfigValue(*steps)), "init", request, out));
  if (out->error.has_value()) return absl::OkStatus();
  return Catch(resolver.Init(), "init", request, out);
}

}  // namespace

absl::StatusOr<Resolution> ResolveConfig(const ResolveRequest& request) {
  ZC_RETURN_IF_ERROR(CheckRequest(request));
  Resolution out;
  ZC_RETURN_IF_ERROR(Run(request, &out));
  if (!request.all_origins) return out;
  out.origins = AllOrigins(out.config.root(), out.origins);
  if (request.deepspeed_version.empty() || out.error.has_value()) return out;
  ZC_ASSIGN_OR_RETURN(const int version, FindDeepSpeedVersion(request.deepspeed_version));
  ZC_ASSIGN_OR_RETURN(std::vector<ValueOrigin> defaults,
                      DefaultOrigins(out.config.root(), version));
  std::move(defaults.begin(), defaults.end(), std::back_inserter(out.origins));
  return out;
}

}  // namespace zerocast
