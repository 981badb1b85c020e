#include "client/agent/folder_looks.h"

#include <spdlog/spdlog.h>

#include <atomic>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/agent/path_policy.h"
#include "client/agent/threads.h"
#include "kernels/base/mutex.h"
#include "kernels/base/status_macros.h"
#include "kernels/comm/deadline.h"
#include "server/base/errors.h"

namespace zerocast {
namespace {

absl::StatusOr<FoundZeroFolder> LookAt(const LoadEnvironment& environment,
                                       const LookCommand& command,
                                       const std::atomic<bool>& cancelled) {
  const auto find = [roots = environment.roots,
                     command](const FileObserver& about_to) -> absl::StatusOr<FoundZeroFolder> {
    ZC_ASSIGN_OR_RETURN(const std::string folder, ResolveCheckpoint(roots, command.path, about_to));
    FindZeroOptions options;
    options.tags = command.tags;
    options.all_tags = command.all_tags;
    options.about_to = about_to;
    if (!roots.empty()) {
      options.allow = [&roots, &about_to](const std::string& below) {
        return ResolveCheckpoint(roots, below, about_to).status();
      };
    }
    return FindZeroCheckpoints(folder, options);
  };
  return environment.file_work->Call<FoundZeroFolder>(command.path, environment.file_timeout,
                                                      &cancelled, find, command.timeout);
}

}  // namespace

struct FolderLooks::State {
  std::shared_ptr<LoadEnvironment> environment;
  std::atomic<bool> cancelled{false};
  Mutex mutex;
  CondVar idle;
  bool stopped ABSL_GUARDED_BY(mutex) = false;
  int num_looks ABSL_GUARDED_BY(mutex) = 0;

  void End() {
    MutexLock lock(&mutex);
    --num_looks;
    idle.SignalAll();
  }
};

FolderLooks::FolderLooks(std::shared_ptr<LoadEnvironment> environment)
    : state_(std::make_shared<State>()) {
  state_->environment = std::move(environment);
}

FolderLooks::~FolderLooks() { Shutdown(absl::Seconds(10)); }

void FolderLooks::Look(const std::string& look, const LookCommand& command) {
  AgentEvents& events = *state_->environment->events;
  bool too_many = false;
  {
    MutexLock lock(&state_->mutex);
    if (state_->stopped) return;
    too_many = state_->num_looks >= kMaxLooks;
    if (!too_many) ++state_->num_looks;
  }
  if (too_many) {
    return events.FolderLooked(
        look,
        WithReason(absl::ResourceExhaustedError(absl::StrCat(
                       "this agent already looks at ", kMaxLooks, " folders; try again later")),
                   "RESOURCE_EXHAUSTED"));
  }
  absl::StatusOr<std::thread> thread = StartThread([state = state_, look, command] {
    state->environment->events->FolderLooked(
        look, LookAt(*state->environment, command, state->cancelled));
    state->End();
  });
  if (thread.ok()) return thread->detach();
  events.FolderLooked(look, thread.status());
  state_->End();
}

void FolderLooks::Shutdown(absl::Duration timeout) {
  state_->cancelled = true;
  const Deadline deadline(timeout);
  MutexLock lock(&state_->mutex);
  state_->stopped = true;
  while (state_->num_looks > 0 && !deadline.Passed()) {
    state_->idle.WaitWithTimeout(&state_->mutex, deadline.Remaining());
  }
  if (state_->num_looks > 0) {
    spdlog::error("stop: {} looks at folders do not end within {} and are left behind",
                  state_->num_looks, absl::FormatDuration(timeout));
  }
}

}  // namespace zerocast
