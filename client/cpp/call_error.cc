#include "client/cpp/call_error.h"

#include <algorithm>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "server/base/errors.h"

namespace zerocast {
namespace {

// Nodes that are named one by one; a cluster may have thousands.
constexpr int kMaxNodes = 8;

struct Explanation {
  absl::string_view reason;
  absl::string_view what, help;
};

Explanation ExplanationOf(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kUnavailable:
      return {"UNAVAILABLE", "the server was not reached",
              "check the address, and that zerocast-server runs there"};
    case absl::StatusCode::kDeadlineExceeded:
      return {"DEADLINE_EXCEEDED", "no answer came in that time",
              "allow more time, and see whether the server is overloaded or its store slow"};
    case absl::StatusCode::kCancelled:
      return {"CANCELLED", "the call was given up before its answer came", "call again"};
    case absl::StatusCode::kUnimplemented:
      return {"UNSUPPORTED", "what answers there does not know this method",
              "use client and server of one version, and check that it is a zerocast-server"};
    case absl::StatusCode::kResourceExhausted:
      return {"RESOURCE_EXHAUSTED", "a message was too large, or a limit of the connection reached",
              "send less, or raise the receiver's limit"};
    case absl::StatusCode::kUnauthenticated:
    case absl::StatusCode::kPermissionDenied:
      return {"PERMISSION_DENIED", "the server, or a proxy before it, refused the caller",
              "check the credentials"};
    default:
      return {"INTERNAL", "the call failed", "see the server's log"};
  }
}

std::string Tried(const CallName& call) {
  return absl::StrCat("call ", call.method, " of server ", call.address, " within ",
                      absl::FormatDuration(absl::Trunc(call.deadline, absl::Milliseconds(1))));
}

// "LOAD_STATE_LOADING" -> "LOADING".
std::string StateName(v1::LoadState state) {
  const std::string& name = v1::LoadState_Name(state);
  return std::string(absl::StripPrefix(name, "LOAD_STATE_"));
}

// "node b (LOADING, round 3 of 10)".
std::string Late(const v1::Load& load, const std::string& node_name) {
  const auto node =
      std::find_if(load.nodes().begin(), load.nodes().end(),
                   [&node_name](const auto& n) { return n.node_name() == node_name; });
  if (node == load.nodes().end() || node->stage() == v1::NODE_STAGE_UNSPECIFIED) return node_name;
  const std::string& stage = v1::NodeStage_Name(node->stage());
  std::string text = absl::StrCat(node_name, " (", absl::StripPrefix(stage, "NODE_STAGE_"));
  if (node->num_rounds() > 0) {
    absl::StrAppend(&text, ", round ", node->round(), " of ", node->num_rounds());
  }
  return absl::StrCat(text, ")");
}

std::string WaitsFor(const v1::Load& load) {
  if (load.waits_for().empty()) {
    if (load.state() == v1::LOAD_STATE_PENDING) return "enough agents";
    if (load.state() == v1::LOAD_STATE_INSPECTING) return "the plan compiler of the server";
    return "its nodes";
  }
  std::vector<std::string> names;
  for (const std::string& name : load.waits_for()) {
    if (static_cast<int>(names.size()) == kMaxNodes) {
      names.push_back(absl::StrCat("and ", load.waits_for_size() - kMaxNodes, " more"));
      break;
    }
    names.push_back(Late(load, name));
  }
  const char* const what = load.state() == v1::LOAD_STATE_PENDING ? "the agent" : "node";
  return absl::StrCat(what, load.state() == v1::LOAD_STATE_PENDING ? " of " : " ",
                      absl::StrJoin(names, ", "));
}

}  // namespace

absl::Status ExplainCallError(const absl::Status& status, const CallName& call) {
  if (status.ok() || !ReasonOf(status).empty()) return status;
  const Explanation explanation = ExplanationOf(status.code());
  std::string what(explanation.what);
  // gRPC gives no text at all when it cannot encode a message.
  if (status.message().empty() && status.code() == absl::StatusCode::kInternal) {
    what = "the message could not be read; it may hold text that is not UTF-8";
  } else if (!status.message().empty()) {
    absl::StrAppend(&what, " (", status.message(), ")");
  }
  return WithReason(
      WithMessage(status, absl::StrCat(Tried(call), ": ", what, "; ", explanation.help)),
      explanation.reason);
}

absl::Status WaitExpired(const CallName& call, const v1::Load* last) {
  std::string message = absl::StrCat(call.method, " on server ", call.address, ": ");
  const std::string time = absl::FormatDuration(absl::Trunc(call.deadline, absl::Milliseconds(1)));
  if (last == nullptr) {
    absl::StrAppend(&message, "the server told nothing of it within ", time,
                    "; check the address, and that zerocast-server runs there");
  } else {
    absl::StrAppend(&message, "after ", time, " the load is ", StateName(last->state()),
                    " and waits for ", WaitsFor(*last),
                    last->state() == v1::LOAD_STATE_PENDING
                        ? "; start the missing agents (zerocast agents lists those that are there)"
                        : "; see the agent's log there",
                    ", or allow more time");
  }
  return WithReason(absl::DeadlineExceededError(message), "DEADLINE_EXCEEDED");
}

absl::Status ServerAway(const CallName& call, absl::Duration within, const std::string& why) {
  return WithReason(
      absl::UnavailableError(absl::StrCat(
          call.method, " on server ", call.address, ": it gave no answer for ",
          absl::FormatDuration(absl::Trunc(within, absl::Milliseconds(1))),
          why.empty() ? "" : absl::StrCat(" (", why, ")"),
          "; the load may go on unseen: watch it again once the server is there, or allow a "
          "longer --timeout")),
      "UNAVAILABLE");
}

}  // namespace zerocast
