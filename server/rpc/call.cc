#include "server/rpc/call.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "google/rpc/error_details.pb.h"
#include "server/base/errors.h"
#include "server/jobs/reason.h"
#include "server/rpc/convert.h"
#include "server/wire/status.h"

namespace zerocast::rpc {
namespace {

constexpr absl::string_view kRetryInfoUrl = "type.googleapis.com/google.rpc.RetryInfo";
constexpr size_t kMaxRequestIdBytes = 128;
constexpr int kDefaultPageSize = 50, kMaxPageSize = 1000;

absl::StatusOr<absl::Duration> TimeLeft(const grpc::ServerContextBase& context,
                                        absl::string_view method, absl::Duration cap) {
  const auto deadline = context.deadline();
  if (deadline == std::chrono::system_clock::time_point::max()) {
    return WithReason(
        absl::InvalidArgumentError(absl::StrCat(
            method, ": the call came without a deadline; set one (clients: a timeout)")),
        "DEADLINE_REQUIRED");
  }
  const absl::Duration left = absl::FromChrono(deadline - std::chrono::system_clock::now());
  return std::min(left, cap);
}

}  // namespace

absl::Status Outgoing(absl::Status status) {
  status = jobs::WithSomeReason(std::move(status));
  const bool retry = absl::IsUnavailable(status) || absl::IsResourceExhausted(status);
  if (retry && !status.GetPayload(kRetryInfoUrl).has_value()) {
    google::rpc::RetryInfo info;
    info.mutable_retry_delay()->set_seconds(1);
    status.SetPayload(kRetryInfoUrl, absl::Cord(info.SerializeAsString()));
  }
  return status;
}

grpc::Status RunUnary(const Env& env, absl::string_view method, grpc::ServerContextBase* context,
                      const std::function<absl::Status(absl::Duration left)>& handler) {
  const absl::Duration begin = Clock::Real()->Steady();
  const absl::StatusOr<absl::Duration> left = TimeLeft(*context, method, env.max_call_time);
  const absl::Status status = Outgoing(left.ok() ? handler(*left) : left.status());
  const absl::Duration took = Clock::Real()->Steady() - begin;
  env.metrics->CountCall(method, status.code(), took);
  if (!status.ok()) {
    spdlog::info("{} from {}: {} {}: {}", std::string(method), context->peer(),
                 absl::StatusCodeToString(status.code()), ReasonOf(status),
                 std::string(status.message()));
  }
  return ToGrpc(status);
}

std::string RequestIdProblem(absl::string_view request_id) {
  if (request_id.size() <= kMaxRequestIdBytes) return "";
  return absl::StrCat("must have at most ", kMaxRequestIdBytes, " bytes, has ", request_id.size());
}

std::string PageToken(absl::string_view last_name, absl::string_view filter) {
  return absl::WebSafeBase64Escape(absl::StrCat("1\n", Hash64(filter), "\n", last_name));
}

absl::StatusOr<Page> ReadPage(int page_size, absl::string_view page_token,
                              absl::string_view filter) {
  std::vector<FieldViolation> violations;
  if (page_size < 0) {
    violations.push_back({"page_size", absl::StrCat("must not be negative, was ", page_size)});
  }
  Page page;
  page.limit = page_size == 0 ? kDefaultPageSize : std::min(page_size, kMaxPageSize);
  if (!page_token.empty()) {
    std::string text;
    const bool decoded = absl::WebSafeBase64Unescape(page_token, &text);
    const std::vector<std::string> parts = absl::StrSplit(text, absl::MaxSplits('\n', 2));
    if (!decoded || parts.size() != 3 || parts[0] != "1" || parts[2].empty()) {
      violations.push_back({"page_token", "must be one that this service gave"});
    } else if (parts[1] != Hash64(filter)) {
      violations.push_back({"page_token", "was given for a request with another filter"});
    } else {
      page.after = parts[2];
    }
  }
  if (!violations.empty()) return InvalidFields(violations);
  return page;
}

}  // namespace zerocast::rpc
