// zerocast config diff.
#include <cstdio>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/cli/config_commands.h"
#include "client/cli/config_errors.h"
#include "client/cli/config_input.h"
#include "client/cli/json_slices.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"

namespace zerocast {
namespace {

absl::Status ReadRef(absl::string_view flag, const std::string& from, v1::ConfigRef* out) {
  if (absl::StartsWith(from, "jobs/")) {
    out->set_job(from);
    return absl::OkStatus();
  }
  ZC_ASSIGN_OR_RETURN(*out->mutable_config_json(), ReadInput(flag, from, kMaxConfigBytes));
  return absl::OkStatus();
}

const char* KindName(v1::DifferenceKind kind) {
  switch (kind) {
    case v1::DIFFERENCE_KIND_ADDED:
      return "added";
    case v1::DIFFERENCE_KIND_REMOVED:
      return "removed";
    case v1::DIFFERENCE_KIND_TYPE_CHANGED:
      return "type_changed";
    default:
      return "changed";
  }
}

std::string Line(const v1::ConfigDifference& difference) {
  const std::string path = difference.path().empty() ? "(the whole config)" : difference.path();
  switch (difference.kind()) {
    case v1::DIFFERENCE_KIND_ADDED:
      return absl::StrCat("+ ", path, ": ", difference.after_json());
    case v1::DIFFERENCE_KIND_REMOVED:
      return absl::StrCat("- ", path, ": ", difference.before_json());
    default:
      return absl::StrCat("~ ", path, ": ", difference.before_json(), " -> ",
                          difference.after_json());
  }
}

// Values go out as the server wrote them.
std::string ToJson(const v1::DiffConfigsResponse& response) {
  std::string differences = "[";
  for (const v1::ConfigDifference& difference : response.differences()) {
    ObjectText object;
    object.Add("path", WriteJsonString(difference.path()));
    object.Add("kind", WriteJsonString(KindName(difference.kind())));
    if (difference.has_before_json()) object.Add("before", difference.before_json());
    if (difference.has_after_json()) object.Add("after", difference.after_json());
    absl::StrAppend(&differences, differences.size() == 1 ? "" : ", ", object.Take());
  }
  ObjectText whole;
  whole.Add("before_hash", WriteJsonString(response.before_hash()));
  whole.Add("after_hash", WriteJsonString(response.after_hash()));
  whole.Add("differences", differences + "]");
  return whole.Take();
}

}  // namespace

absl::Status RunDiff(const GlobalOptions& global, const DiffFlags& flags) {
  if (flags.before == "-" && flags.after == "-") {
    return InvalidFields({{"AFTER", "only one of the two can be stdin"}});
  }
  v1::DiffConfigsRequest request;
  ZC_RETURN_IF_ERROR(ReadRef("BEFORE", flags.before, request.mutable_before()));
  ZC_RETURN_IF_ERROR(ReadRef("AFTER", flags.after, request.mutable_after()));
  if (global.server.empty() && (request.before().has_job() || request.after().has_job())) {
    return InvalidFields({{"--server", "is required to compare the config of a job"}});
  }
  ZC_ASSIGN_OR_RETURN(const ClusterHandle cluster, ConnectForConfigs(global));
  const absl::StatusOr<v1::DiffConfigsResponse> answer = cluster.client()->DiffConfigs(request);
  if (!answer.ok()) {
    return ExplainConfigError(answer.status(), {{"before.config_json", FileName(flags.before)},
                                                {"after.config_json", FileName(flags.after)}});
  }
  if (global.json()) {
    std::printf("%s\n", ToJson(*answer).c_str());
    return absl::OkStatus();
  }
  for (const v1::ConfigDifference& difference : answer->differences()) {
    std::printf("%s\n", WrapText(Line(difference), 0, 4).c_str());
  }
  if (answer->differences().empty()) {
    std::printf("the configs mean the same: %s\n", answer->before_hash().c_str());
  } else {
    std::printf("%d %s, content hash\n  %s ->\n  %s\n", answer->differences_size(),
                answer->differences_size() == 1 ? "difference" : "differences",
                answer->before_hash().c_str(), answer->after_hash().c_str());
  }
  return absl::OkStatus();
}

}  // namespace zerocast
