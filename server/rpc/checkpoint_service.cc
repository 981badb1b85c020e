#include <algorithm>
#include <functional>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/rpc/checkpoint_convert.h"
#include "server/rpc/convert.h"
#include "server/rpc/services.h"

namespace zerocast::rpc {
namespace {

// Of those that are not complete, how many an error tells of.
constexpr size_t kMaxTold = 3;

// What looks of one call need: their time, and whether their caller is still there.
class Looker {
 public:
  Looker(const Env& env, CheckpointRegistry* registry, const grpc::ServerContext* context,
         absl::Duration left)
      : env_(env),
        registry_(registry),
        until_(Clock::Real()->Steady() + left),
        cancelled_([context] { return context->IsCancelled(); }) {}

  // Looks at `tags` of a folder, at the nodes of `job` where it names some that are connected.
  absl::StatusOr<jobs::FolderLook> Look(const std::string& job, std::string path,
                                        std::vector<std::string> tags, bool all_tags = false) {
    Core::LookRequest request;
    if (!job.empty()) {
      // A job that is deleted leaves its checkpoints.
      const absl::StatusOr<v1::Job> found = env_.core->GetJob(job, Left());
      if (!found.ok() && !absl::IsNotFound(found.status())) return found.status();
      if (found.ok()) {
        const auto& nodes = found->spec().topology().nodes();
        request.nodes.assign(nodes.begin(), nodes.end());
      }
    }
    request.path = std::move(path);
    request.tags = std::move(tags);
    request.all_tags = all_tags;
    return env_.core->LookAtFolder(request, Left(), cancelled_);
  }

  // What becomes of checkpoints whose whole folder is not there.
  enum class NoFolder { kIsGone, kIsAnError };
  // Looks at the folders of `checkpoints`, one after the other, and keeps what they find.  The
  // looks by folder.
  absl::StatusOr<std::map<std::string, jobs::FolderLook>> LookAtAll(
      const std::vector<jobs::Checkpoint>& checkpoints, NoFolder no_folder) {
    std::map<std::string, std::vector<const jobs::Checkpoint*>> by_path;
    for (const jobs::Checkpoint& checkpoint : checkpoints) {
      by_path[checkpoint.path].push_back(&checkpoint);
    }
    std::map<std::string, jobs::FolderLook> looks;
    for (const auto& [path, there] : by_path) {
      std::vector<std::string> tags;
      for (const jobs::Checkpoint* checkpoint : there) tags.push_back(checkpoint->found.tag);
      absl::StatusOr<jobs::FolderLook> look = Look(there.front()->job, path, tags);
      if (absl::IsNotFound(look.status()) && no_folder == NoFolder::kIsGone) {
        jobs::FolderLook nothing;
        nothing.time = env_.clock->Now();
        for (const std::string& tag : tags) {
          nothing.checkpoints.push_back(jobs::Gone(tag, look.status()));
        }
        look = std::move(nothing);
      }
      ZC_RETURN_IF_ERROR(look.status());
      ZC_RETURN_IF_ERROR(registry_->NoteLook(path, *look));
      looks.emplace(path, *std::move(look));
    }
    return looks;
  }

 private:
  absl::Duration Left() const {
    return std::max(until_ - Clock::Real()->Steady(), absl::ZeroDuration());
  }

  const Env& env_;
  CheckpointRegistry* const registry_;
  const absl::Duration until_;  // real steady time
  const std::function<bool()> cancelled_;
};

std::string JobProblem(absl::string_view job) {
  return absl::StartsWith(job, "jobs/") ? "" : absl::StrCat("must be jobs/ID, was '", job, "'");
}

// What the caller says of the checkpoint against what is there.
absl::Status CheckExpected(const v1::Checkpoint& expected, const jobs::FoundCheckpoint& found) {
  std::vector<FieldViolation> violations;
  const auto differs = [&violations](const char* field, const auto& said, const auto& is) {
    violations.push_back({absl::StrCat("checkpoint.", field),
                          absl::StrCat("was ", said, ", but its files say ", is)});
  };
  if (expected.step() != 0 && found.step.has_value() && expected.step() != *found.step) {
    differs("step", expected.step(), *found.step);
  }
  if (expected.world_size() != 0 && found.world_size != 0 &&
      expected.world_size() != found.world_size) {
    differs("world_size", expected.world_size(), found.world_size);
  }
  if (!expected.digest().empty() && found.problem.ok() && expected.digest() != found.digest) {
    differs("digest", expected.digest(), found.digest);
  }
  return InvalidFields(violations);
}

absl::StatusOr<jobs::Checkpoint> Register(const v1::RegisterCheckpointRequest& request, Core* core,
                                          CheckpointRegistry* registry, Looker* looker,
                                          absl::Duration left) {
  const v1::Checkpoint& wanted = request.checkpoint();
  std::vector<FieldViolation> violations;
  const auto check = [&violations](const char* field, std::string problem) {
    if (!problem.empty()) violations.push_back({field, std::move(problem)});
  };
  check("checkpoint.job", JobProblem(wanted.job()));
  jobs::Checkpoint checkpoint;
  checkpoint.path = ReadFolder(wanted.path(), "checkpoint.path", &violations);
  if (!wanted.tag().empty()) check("checkpoint.tag", TagProblem(wanted.tag()));
  if (wanted.step() < 0) check("checkpoint.step", "must not be negative");
  check("request_id", RequestIdProblem(request.request_id()));
  ZC_RETURN_IF_ERROR(InvalidFields(violations));
  checkpoint.job = wanted.job();
  checkpoint.pinned = wanted.pinned();
  if (!request.request_id().empty() && !request.validate_only()) {
    v1::RegisterCheckpointRequest body = request;
    body.clear_request_id();
    checkpoint.request = {request.request_id(), Hash128(body.SerializeAsString())};
    // Before the work of looking; asked again under the lock that registers it.
    ZC_ASSIGN_OR_RETURN(std::optional<jobs::Checkpoint> made, registry->FindOf(checkpoint.request));
    if (made.has_value()) return *std::move(made);
  }
  ZC_RETURN_IF_ERROR(core->GetJob(wanted.job(), left).status());
  std::vector<std::string> tags;
  if (!wanted.tag().empty()) tags.push_back(wanted.tag());
  ZC_ASSIGN_OR_RETURN(const jobs::FolderLook look,
                      looker->Look(checkpoint.job, checkpoint.path, std::move(tags)));
  const std::string& tag = wanted.tag().empty() ? look.latest_tag : wanted.tag();
  if (tag.empty()) {
    return InvalidFields({{"checkpoint.tag", absl::StrCat("must be given: there is no file latest "
                                                          "in ",
                                                          checkpoint.path)}});
  }
  const jobs::FoundCheckpoint* const found = look.Find(tag);
  if (found == nullptr) {
    return absl::InternalError(absl::StrCat("look at ", checkpoint.path, ": the agent of node ",
                                            look.node_name, " does not answer of ", tag));
  }
  // What is not there is nobody's checkpoint; what is torn may be being written.
  if (found->gone) return found->problem;
  ZC_RETURN_IF_ERROR(CheckExpected(wanted, *found));
  return registry->Add(std::move(checkpoint), look, *found, request.validate_only());
}

absl::Status NoneComplete(absl::string_view where, const std::vector<jobs::Checkpoint>& all,
                          const jobs::Newest& newest) {
  std::string message = absl::StrCat("find the newest complete checkpoint of ", where);
  if (all.empty()) {
    absl::StrAppend(&message, ": there is none");
  } else {
    absl::StrAppend(&message, ": none of ", all.size(), " is complete");
  }
  for (size_t i = 0; i < newest.passed_over.size() && i < kMaxTold; ++i) {
    const jobs::Checkpoint& checkpoint = *newest.passed_over[i];
    absl::StrAppend(&message, "; ", checkpoint.found.tag, ": ",
                    jobs::ProblemOf(checkpoint).message());
  }
  if (newest.passed_over.size() > kMaxTold) {
    absl::StrAppend(&message, "; and ", newest.passed_over.size() - kMaxTold, " more");
  }
  return WithReason(absl::NotFoundError(message), "CHECKPOINT_NOT_FOUND");
}

// All that a folder holds, each as it is registered where it is.
std::vector<jobs::Checkpoint> AllInFolder(const CheckpointRegistry& registry,
                                          const std::string& path, const jobs::FolderLook& look) {
  const std::vector<jobs::Checkpoint> registered = registry.List("", path);
  std::vector<jobs::Checkpoint> all;
  for (const jobs::FoundCheckpoint& found : look.checkpoints) {
    const auto it = std::find_if(
        registered.begin(), registered.end(),
        [&found](const jobs::Checkpoint& checkpoint) { return checkpoint.found.tag == found.tag; });
    if (it != registered.end()) {
      all.push_back(*it);
      continue;
    }
    jobs::Checkpoint checkpoint;
    checkpoint.path = path;
    jobs::Note(look, found, &checkpoint);
    all.push_back(std::move(checkpoint));
  }
  return all;
}

absl::StatusOr<v1::FindLatestCheckpointResponse> FindLatest(
    const v1::FindLatestCheckpointRequest& request, Core* core, CheckpointRegistry* registry,
    Looker* looker, absl::Duration left) {
  std::vector<FieldViolation> violations;
  std::string path;
  if (request.job().empty() == request.path().empty()) {
    violations.push_back({"job", "exactly one of job and path must be set"});
  } else if (request.path().empty()) {
    if (std::string problem = JobProblem(request.job()); !problem.empty()) {
      violations.push_back({"job", std::move(problem)});
    }
  } else {
    path = ReadFolder(request.path(), "path", &violations);
  }
  ZC_RETURN_IF_ERROR(InvalidFields(violations));
  std::map<std::string, jobs::FolderLook> looks;
  std::vector<jobs::Checkpoint> all;
  if (path.empty()) {
    all = registry->List(request.job(), "");
    if (all.empty()) ZC_RETURN_IF_ERROR(core->GetJob(request.job(), left).status());
    ZC_ASSIGN_OR_RETURN(looks, looker->LookAtAll(all, Looker::NoFolder::kIsGone));
    all = registry->List(request.job(), "");
  } else {
    ZC_ASSIGN_OR_RETURN(jobs::FolderLook look, looker->Look("", path, {}, /*all_tags=*/true));
    ZC_RETURN_IF_ERROR(registry->NoteLook(path, look));
    all = AllInFolder(*registry, path, look);
    looks.emplace(path, std::move(look));
  }
  const jobs::Newest newest = jobs::FindNewest(all);
  if (newest.checkpoint == nullptr) {
    return NoneComplete(path.empty() ? request.job() : path, all, newest);
  }
  v1::FindLatestCheckpointResponse response;
  *response.mutable_checkpoint() = CheckpointToProto(*newest.checkpoint);
  for (const jobs::Checkpoint* checkpoint : newest.passed_over) {
    *response.add_passed_over() = CheckpointToProto(*checkpoint);
  }
  // Registered while the looks were under way: of its folder nothing is known yet.
  const auto look = looks.find(newest.checkpoint->path);
  if (look == looks.end()) {
    return WithReason(absl::AbortedError("find the newest complete checkpoint: another one was "
                                         "registered meanwhile; ask again"),
                      "WRONG_STATE");
  }
  response.set_latest_tag(look->second.latest_tag);
  // As it is registered, if it is; else as it was found.
  const std::vector<jobs::Checkpoint> there =
      AllInFolder(*registry, newest.checkpoint->path, look->second);
  const auto in = [&response, &newest](const std::vector<jobs::Checkpoint>& checkpoints) {
    const auto it = std::find_if(checkpoints.begin(), checkpoints.end(), [&](const auto& each) {
      return each.path == newest.checkpoint->path && each.found.tag == response.latest_tag();
    });
    return it == checkpoints.end() ? nullptr : &*it;
  };
  const jobs::Checkpoint* const named = in(all) != nullptr ? in(all) : in(there);
  response.set_difference(
      jobs::DifferenceFromLatest(*newest.checkpoint, response.latest_tag(), named));
  response.set_differs(!response.difference().empty());
  return response;
}

absl::StatusOr<v1::PruneCheckpointsResponse> Prune(const v1::PruneCheckpointsRequest& request,
                                                   const Env& env, CheckpointRegistry* registry,
                                                   Looker* looker, absl::Duration left) {
  std::vector<FieldViolation> violations;
  if (std::string problem = JobProblem(request.job()); !problem.empty()) {
    violations.push_back({"job", std::move(problem)});
  }
  if (request.keep_last() < 1) {
    violations.push_back(
        {"keep_last", absl::StrCat("must be at least 1, was ", request.keep_last())});
  }
  jobs::Retention retention;
  retention.keep_last = request.keep_last();
  if (request.has_older_than()) retention.older_than = DurationFromProto(request.older_than());
  if (retention.older_than.has_value() && *retention.older_than < absl::ZeroDuration()) {
    violations.push_back({"older_than", "must not be negative"});
  }
  ZC_RETURN_IF_ERROR(InvalidFields(violations));
  std::vector<jobs::Checkpoint> all = registry->List(request.job(), "");
  if (all.empty()) ZC_RETURN_IF_ERROR(env.core->GetJob(request.job(), left).status());
  // Whether the ones that are to stay are whole has to be known now.  A node that does not see the
  // folder must not make all of them go.
  ZC_RETURN_IF_ERROR(looker->LookAtAll(all, Looker::NoFolder::kIsAnError).status());
  all = registry->List(request.job(), "");
  const jobs::Divided divided = jobs::Divide(all, retention, env.clock->Now());
  std::vector<jobs::Checkpoint> forgotten;
  v1::PruneCheckpointsResponse response;
  for (const jobs::Checkpoint* checkpoint : divided.forgotten) {
    *response.add_pruned() = CheckpointToProto(*checkpoint);
    forgotten.push_back(*checkpoint);
  }
  for (const jobs::Checkpoint* checkpoint : divided.kept) {
    *response.add_kept() = CheckpointToProto(*checkpoint);
  }
  if (!request.validate_only()) ZC_RETURN_IF_ERROR(registry->Remove(forgotten));
  return response;
}

absl::Status Delete(const v1::DeleteCheckpointRequest& request, CheckpointRegistry* registry) {
  ZC_ASSIGN_OR_RETURN(const jobs::Checkpoint checkpoint, registry->Get(request.name()));
  if (checkpoint.pinned) {
    return WithReason(absl::FailedPreconditionError(absl::StrCat("delete ", request.name(),
                                                                 ": it is pinned; unpin it first")),
                      "WRONG_STATE");
  }
  const std::string etag = CheckpointToProto(checkpoint).etag();
  if (!request.etag().empty() && request.etag() != etag) {
    return WithReason(
        absl::AbortedError(absl::StrCat("delete ", request.name(), ": its etag is ", etag, ", not ",
                                        request.etag(), "; read it again")),
        "WRONG_STATE");
  }
  return registry->Remove({checkpoint});
}

}  // namespace

grpc::Status CheckpointServiceImpl::RegisterCheckpoint(grpc::ServerContext* context,
                                                       const v1::RegisterCheckpointRequest* request,
                                                       v1::RegisterCheckpointResponse* response) {
  return RunUnary(env_, "CheckpointService/RegisterCheckpoint", context,
                  [&](absl::Duration left) -> absl::Status {
                    Looker looker(env_, registry_, context, left);
                    ZC_ASSIGN_OR_RETURN(const jobs::Checkpoint checkpoint,
                                        Register(*request, env_.core, registry_, &looker, left));
                    *response->mutable_checkpoint() = CheckpointToProto(checkpoint);
                    return absl::OkStatus();
                  });
}

grpc::Status CheckpointServiceImpl::GetCheckpoint(grpc::ServerContext* context,
                                                  const v1::GetCheckpointRequest* request,
                                                  v1::GetCheckpointResponse* response) {
  return RunUnary(
      env_, "CheckpointService/GetCheckpoint", context, [&](absl::Duration left) -> absl::Status {
        ZC_ASSIGN_OR_RETURN(jobs::Checkpoint checkpoint, registry_->Get(request->name()));
        if (request->verify()) {
          Looker looker(env_, registry_, context, left);
          ZC_RETURN_IF_ERROR(looker.LookAtAll({checkpoint}, Looker::NoFolder::kIsGone).status());
          ZC_ASSIGN_OR_RETURN(checkpoint, registry_->Get(request->name()));
        }
        *response->mutable_checkpoint() = CheckpointToProto(checkpoint);
        return absl::OkStatus();
      });
}

grpc::Status CheckpointServiceImpl::ListCheckpoints(grpc::ServerContext* context,
                                                    const v1::ListCheckpointsRequest* request,
                                                    v1::ListCheckpointsResponse* response) {
  return RunUnary(
      env_, "CheckpointService/ListCheckpoints", context, [&](absl::Duration left) -> absl::Status {
        std::string path;
        std::vector<FieldViolation> violations;
        if (!request->path().empty()) path = ReadFolder(request->path(), "path", &violations);
        ZC_RETURN_IF_ERROR(InvalidFields(violations));
        const std::string filter =
            absl::StrJoin({"checkpoints", request->job().c_str(), path.c_str()}, "\n");
        ZC_ASSIGN_OR_RETURN(const Page page,
                            ReadPage(request->page_size(), request->page_token(), filter));
        const auto read = [&] {
          return registry_->List(request->job(), path, page.after, page.limit + 1);
        };
        std::vector<jobs::Checkpoint> found = read();
        if (request->verify()) {
          if (static_cast<int>(found.size()) > page.limit) found.pop_back();
          Looker looker(env_, registry_, context, left);
          ZC_RETURN_IF_ERROR(looker.LookAtAll(found, Looker::NoFolder::kIsGone).status());
          found = read();
        }
        size_t num_bytes = 0;
        for (const jobs::Checkpoint& checkpoint : found) {
          v1::Checkpoint shown = CheckpointToProto(checkpoint);
          num_bytes += shown.ByteSizeLong();
          const int count = response->checkpoints_size();
          if (count > 0 && (count == page.limit || num_bytes > Core::kMaxPageBytes)) {
            response->set_next_page_token(
                PageToken(response->checkpoints(count - 1).name(), filter));
            break;
          }
          *response->add_checkpoints() = std::move(shown);
        }
        return absl::OkStatus();
      });
}

grpc::Status CheckpointServiceImpl::PinCheckpoint(grpc::ServerContext* context,
                                                  const v1::PinCheckpointRequest* request,
                                                  v1::PinCheckpointResponse* response) {
  return RunUnary(env_, "CheckpointService/PinCheckpoint", context,
                  [&](absl::Duration) -> absl::Status {
                    ZC_ASSIGN_OR_RETURN(const jobs::Checkpoint checkpoint,
                                        registry_->SetPinned(request->name(), true));
                    *response->mutable_checkpoint() = CheckpointToProto(checkpoint);
                    return absl::OkStatus();
                  });
}

grpc::Status CheckpointServiceImpl::UnpinCheckpoint(grpc::ServerContext* context,
                                                    const v1::UnpinCheckpointRequest* request,
                                                    v1::UnpinCheckpointResponse* response) {
  return RunUnary(env_, "CheckpointService/UnpinCheckpoint", context,
                  [&](absl::Duration) -> absl::Status {
                    ZC_ASSIGN_OR_RETURN(const jobs::Checkpoint checkpoint,
                                        registry_->SetPinned(request->name(), false));
                    *response->mutable_checkpoint() = CheckpointToProto(checkpoint);
                    return absl::OkStatus();
                  });
}

grpc::Status CheckpointServiceImpl::FindLatestCheckpoint(
    grpc::ServerContext* context, const v1::FindLatestCheckpointRequest* request,
    v1::FindLatestCheckpointResponse* response) {
  return RunUnary(env_, "CheckpointService/FindLatestCheckpoint", context,
                  [&](absl::Duration left) -> absl::Status {
                    Looker looker(env_, registry_, context, left);
                    ZC_ASSIGN_OR_RETURN(*response,
                                        FindLatest(*request, env_.core, registry_, &looker, left));
                    return absl::OkStatus();
                  });
}

grpc::Status CheckpointServiceImpl::PruneCheckpoints(grpc::ServerContext* context,
                                                     const v1::PruneCheckpointsRequest* request,
                                                     v1::PruneCheckpointsResponse* response) {
  return RunUnary(env_, "CheckpointService/PruneCheckpoints", context,
                  [&](absl::Duration left) -> absl::Status {
                    Looker looker(env_, registry_, context, left);
                    ZC_ASSIGN_OR_RETURN(*response, Prune(*request, env_, registry_, &looker, left));
                    return absl::OkStatus();
                  });
}

grpc::Status CheckpointServiceImpl::DeleteCheckpoint(grpc::ServerContext* context,
                                                     const v1::DeleteCheckpointRequest* request,
                                                     v1::DeleteCheckpointResponse*) {
  return RunUnary(env_, "CheckpointService/DeleteCheckpoint", context,
                  [&](absl::Duration) { return Delete(*request, registry_); });
}

}  // namespace zerocast::rpc
