#ifndef ZEROCAST_SERVER_RPC_CONFIG_CONVERT_H_
#define ZEROCAST_SERVER_RPC_CONFIG_CONVERT_H_

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/config/json_reader.h"
#include "server/config/resolve.h"
#include "server/rpc/config_leases.h"
#include "zerocast/v1/config.pb.h"

namespace zerocast::rpc {

// ConfigService's messages <-> server/config.  Functions without state.

// What ResolveConfig answers, and what it knew when it failed.
struct ConfigAnswer {
  v1::ResolveConfigResponse response;
  // What the call fails with.  INVALID_ARGUMENT has every wrong field at once; what the integration
  // refuses has its stage and type as ErrorInfo's metadata.
  absl::Status status;
  // The exception behind the status, where there is one.
  std::optional<IntegrationError> error;
};
ConfigAnswer AnswerResolve(const v1::ResolveConfigRequest& request);

// One request of a batch: the answer with its status in the message.  `status` as it would leave
// the unary call.
v1::ResolveConfigResult BatchResult(ConfigAnswer answer, const absl::Status& status);

// Errors: INVALID_ARGUMENT, every wrong field at once.
absl::StatusOr<v1::LintConfigResponse> AnswerLint(const v1::LintConfigRequest& request);

// A config that comes as text: an object.  Errors: INVALID_ARGUMENT naming `field`, with the paths
// below it.
absl::StatusOr<JsonDocument> ReadConfigObject(const std::string& text, absl::string_view field);

v1::DiffConfigsResponse AnswerDiff(const ConfigValue& before, const ConfigValue& after);

// The answer about `path` ("": the whole) of a job's config.  Errors: INVALID_ARGUMENT where the
// path leads through a value that is no object.
absl::StatusOr<v1::QueryConfigResponse> AnswerQuery(const KeptConfig& config,
                                                    const std::string& path);

v1::ConfigLease LeaseToProto(const ConfigLease& lease);

}  // namespace zerocast::rpc

#endif  // ZEROCAST_SERVER_RPC_CONFIG_CONVERT_H_
