// What agents find in folders of DeepSpeed checkpoints, on behalf of callers that wait for it.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/rpc/checkpoint_convert.h"
#include "server/rpc/convert.h"
#include "server/rpc/core.h"
#include "server/rpc/random_hex.h"

namespace zerocast::rpc {
namespace {

// How often a blocked look asks whether its caller is still there.
constexpr absl::Duration kPoll = absl::Milliseconds(100);

// What is kept back of `left` so that an answer still gets to who waits for it.
absl::Duration Reserve(absl::Duration left) { return std::min(left / 8, absl::Seconds(1)); }

absl::Status AtFolder(const std::string& path, const std::string& node, const absl::Status& error) {
  return Annotate(error, absl::StrCat("look at ", path, " on node ", node));
}

}  // namespace

absl::StatusOr<std::vector<std::string>> Core::LookersLocked(const LookRequest& request) const {
  std::vector<std::string> preferred, others;
  bool is_any_old = false;
  for (const auto& [name, agent] : machine_.agents()) {
    is_any_old |= !agent.looks_at_folders;
    if (!agent.looks_at_folders) continue;
    const bool is_preferred =
        std::find(request.nodes.begin(), request.nodes.end(), name) != request.nodes.end();
    (is_preferred ? preferred : others).push_back(name);
  }
  // A job's files are where its nodes see them; another node may see another folder of this name.
  std::vector<std::string> lookers = preferred.empty() ? std::move(others) : std::move(preferred);
  if (lookers.empty()) {
    return WithReason(
        absl::UnavailableError(absl::StrCat(
            "look at ", request.path, ": no agent is connected that looks at DeepSpeed checkpoints",
            is_any_old ? " (those that are connected do not)" : "",
            "; the server itself sees no files, so nothing is known of it; start zerocast-agent on "
            "a node that sees the folder")),
        "NOT_ENOUGH_AGENTS");
  }
  lookers.resize(std::min(lookers.size(), kMaxTries));
  return lookers;
}

absl::StatusOr<jobs::FolderLook> Core::LookLocked(const std::string& node,
                                                  const LookRequest& request, absl::Duration until,
                                                  const std::function<bool()>& cancelled) {
  const auto agent = machine_.agents().find(node);
  const auto session =
      agent == machine_.agents().end() ? sessions_.end() : sessions_.find(agent->second.session);
  if (session == sessions_.end()) {
    return WithReason(absl::UnavailableError("its agent is gone; try again"), "AGENT_LOST");
  }
  const absl::Duration left = until - Clock::Real()->Steady();
  const std::string id = RandomHex(8);
  v1::SessionResponse message;
  v1::LookAtFolder* const command = message.mutable_look_at_folder();
  command->set_look(id);
  command->set_path(request.path);
  for (const std::string& tag : request.tags) command->add_tags(tag);
  command->set_all_tags(request.all_tags);
  // The agent knows more: its error is to come first.
  *command->mutable_timeout() =
      DurationToProto(std::max(left - Reserve(left), absl::ZeroDuration()));
  Look& look = looks_[id];
  look.session = session->first;
  look.node_name = node;
  session->second->Deliver(std::move(message));
  absl::StatusOr<jobs::FolderLook> answer = WithReason(
      absl::DeadlineExceededError("no answer within the call's time; allow more (--timeout)"),
      "DEADLINE_EXCEEDED");
  while (true) {
    const absl::Duration wait = until - Clock::Real()->Steady();
    if (look.answer.has_value()) {
      answer = *std::move(look.answer);
    } else if (ended_) {
      answer =
          WithReason(absl::UnavailableError("this server is stopping; try again"), "SHUTTING_DOWN");
    } else if (cancelled()) {
      answer = WithReason(absl::CancelledError("the caller gave up"), "CANCELLED");
    } else if (wait > absl::ZeroDuration()) {
      looked_.WaitWithTimeout(&mutex_, std::min(wait, kPoll));
      continue;
    }
    break;
  }
  looks_.erase(id);
  return answer;
}

absl::StatusOr<jobs::FolderLook> Core::LookAtFolder(const LookRequest& request,
                                                    absl::Duration timeout,
                                                    const std::function<bool()>& cancelled) {
  // Real time, as of the caller's deadline.
  const absl::Duration until = Clock::Real()->Steady() + timeout - Reserve(timeout) / 2;
  MutexLock lock(&mutex_);
  ZC_RETURN_IF_ERROR(CheckNotDrainingLocked());
  ZC_ASSIGN_OR_RETURN(const std::vector<std::string> lookers, LookersLocked(request));
  if (num_looking_ >= options_.max_looks) {
    return WithReason(absl::ResourceExhaustedError(
                          absl::StrCat("look at ", request.path, ": this server waits for at most ",
                                       options_.max_looks, " looks at once; try again later")),
                      "RESOURCE_EXHAUSTED");
  }
  ++num_looking_;
  absl::StatusOr<jobs::FolderLook> look = absl::UnknownError("nobody was asked");
  for (const std::string& node : lookers) {
    // When it began: what is written later it has not seen.
    const absl::Time began = clock_->Now();
    look = LookLocked(node, request, until, cancelled);
    if (look.ok()) {
      look->node_name = node;
      look->time = began;
      break;
    }
    look = AtFolder(request.path, node, look.status());
    if (!absl::IsNotFound(look.status())) break;
  }
  --num_looking_;
  return look;
}

void Core::NoteFolderReport(jobs::SessionId session, const v1::FolderReport& report) {
  absl::StatusOr<jobs::FolderLook> answer = FolderLookFromProto(report);
  MutexLock lock(&mutex_);
  const auto it = looks_.find(report.look());
  if (it == looks_.end() || it->second.session != session) return;
  it->second.answer = std::move(answer);
  looked_.SignalAll();
}

void Core::LoseLooksLocked(jobs::SessionId session, absl::string_view why) {
  for (auto& [id, look] : looks_) {
    if (look.session != session || look.answer.has_value()) continue;
    look.answer =
        WithReason(absl::UnavailableError(absl::StrCat("its agent was lost: ", why, "; try again")),
                   "AGENT_LOST");
  }
  looked_.SignalAll();
}

}  // namespace zerocast::rpc
