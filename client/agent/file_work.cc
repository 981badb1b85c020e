#include "client/agent/file_work.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <map>
#include <thread>

#include "absl/strings/str_cat.h"
#include "client/agent/threads.h"
#include "kernels/base/mutex.h"
#include "kernels/comm/deadline.h"
#include "server/base/clock.h"
#include "server/base/errors.h"

namespace zerocast {
namespace {

// Who waits looks this often whether the load was cancelled.
constexpr absl::Duration kCancelPoll = absl::Milliseconds(50);

absl::Status AllTimeOver(absl::string_view call, absl::Duration total_timeout) {
  return WithReason(
      absl::DeadlineExceededError(absl::StrCat(
          call, ": the time for all of it was over then (", absl::FormatDuration(total_timeout),
          "); check how fast the file system is, or allow more time, then load again")),
      "DEADLINE_EXCEEDED");
}

}  // namespace

struct FileWork::Registry {
  explicit Registry(Options options) : options(options) {}
  const Options options;
  mutable Mutex mutex;
  int num_threads ABSL_GUARDED_BY(mutex) = 0;
  int num_stuck ABSL_GUARDED_BY(mutex) = 0;
  std::map<std::string, int> stuck_by_folder ABSL_GUARDED_BY(mutex);
  std::map<std::string, std::string> last_stuck_call ABSL_GUARDED_BY(mutex);  // by folder

  absl::Status Admit(const std::string& folder);
  // How many are stuck now.
  int Left(const std::string& folder, const std::string& call);
  void Ended(const std::string& folder, bool was_stuck);
};

absl::Status FileWork::Registry::Admit(const std::string& folder) {
  MutexLock lock(&mutex);
  const auto stuck = stuck_by_folder.find(folder);
  if (stuck != stuck_by_folder.end() && stuck->second >= options.max_stuck_per_folder) {
    return WithReason(
        absl::UnavailableError(absl::StrCat(
            "read ", folder, ": ", stuck->second, " earlier calls there have not returned (",
            last_stuck_call[folder], "); check that its file system's server can be reached")),
        "IO_ERROR");
  }
  if (num_threads >= options.max_threads) {
    return WithReason(
        absl::ResourceExhaustedError(absl::StrCat(
            "read ", folder, ": ", num_threads, " threads already read files, ", num_stuck,
            " of them stuck in file systems that do not answer; try again later")),
        "RESOURCE_EXHAUSTED");
  }
  ++num_threads;
  return absl::OkStatus();
}

int FileWork::Registry::Left(const std::string& folder, const std::string& call) {
  MutexLock lock(&mutex);
  ++stuck_by_folder[folder];
  last_stuck_call[folder] = call;
  return ++num_stuck;
}

void FileWork::Registry::Ended(const std::string& folder, bool was_stuck) {
  MutexLock lock(&mutex);
  --num_threads;
  if (!was_stuck) return;
  --num_stuck;
  if (--stuck_by_folder[folder] > 0) return;
  stuck_by_folder.erase(folder);
  last_stuck_call.erase(folder);
}

struct FileWork::Task::Thread {
  Thread(std::shared_ptr<Registry> registry, std::string folder)
      : registry(std::move(registry)), folder(std::move(folder)) {}

  absl::Status Begin(absl::string_view what) {
    MutexLock lock(&mutex);
    if (stuck) {
      return WithReason(
          absl::CancelledError(absl::StrCat(what, ": not made, nobody waits for it any more")),
          "CANCELLED");
    }
    call = std::string(what);
    began = Clock::Real()->Steady();
    return absl::OkStatus();
  }
  void End() {
    // Under the lock, so that the thread is not counted as stuck after it has been counted out.
    MutexLock lock(&mutex);
    ended = true;
    registry->Ended(folder, stuck);
    changed.SignalAll();
  }
  void Leave() {
    std::string stuck_call;
    int num_stuck;
    {
      MutexLock lock(&mutex);
      if (ended) return;
      stuck = true;
      stuck_call = call;
      num_stuck = registry->Left(folder, call);
    }
    spdlog::error("{}: it does not return; {} calls to file systems are left behind now",
                  stuck_call, num_stuck);
  }

  const std::shared_ptr<Registry> registry;
  const std::string folder;
  mutable Mutex mutex;
  CondVar changed;
  std::string call ABSL_GUARDED_BY(mutex);
  absl::Duration began ABSL_GUARDED_BY(mutex);
  bool ended ABSL_GUARDED_BY(mutex) = false;
  bool stuck ABSL_GUARDED_BY(mutex) = false;
};

FileWork::Task::Task(std::shared_ptr<Thread> thread) : thread_(std::move(thread)) {}

FileWork::Task::~Task() { thread_->Leave(); }

std::string FileWork::Task::call() const {
  MutexLock lock(&thread_->mutex);
  return thread_->call;
}

absl::Status FileWork::Task::Wait(absl::Duration call_timeout, const std::atomic<bool>* cancelled,
                                  absl::Duration total_timeout) {
  Thread& thread = *thread_;
  const absl::Duration start = Clock::Real()->Steady();
  MutexLock lock(&thread.mutex);
  while (!thread.ended) {
    if (cancelled != nullptr && *cancelled) {
      return WithReason(absl::CancelledError(absl::StrCat(thread.call, ": the load was cancelled")),
                        "CANCELLED");
    }
    const absl::Duration now = Clock::Real()->Steady();
    const absl::Duration left_in_all = start + total_timeout - now;
    if (left_in_all <= absl::ZeroDuration()) return AllTimeOver(thread.call, total_timeout);
    // A thread that waited for other things before is measured from now on.
    const absl::Duration left =
        std::min(left_in_all, std::max(start, thread.began) + call_timeout - now);
    if (left <= absl::ZeroDuration()) {
      return WithReason(absl::DeadlineExceededError(absl::StrCat(
                            thread.call, ": the file system did not answer within ",
                            absl::FormatDuration(call_timeout),
                            "; check that its server can be reached, then load again")),
                        "DEADLINE_EXCEEDED");
    }
    thread.changed.WaitWithTimeout(&thread.mutex,
                                   cancelled != nullptr ? std::min(left, kCancelPoll) : left);
  }
  return absl::OkStatus();
}

FileWork::FileWork() : FileWork(Options()) {}

FileWork::FileWork(Options options) : registry_(std::make_shared<Registry>(options)) {}

absl::StatusOr<std::unique_ptr<FileWork::Task>> FileWork::Start(const std::string& folder,
                                                                Body body) {
  ZC_RETURN_IF_ERROR(registry_->Admit(folder));
  auto thread = std::make_shared<Task::Thread>(registry_, folder);
  ZC_RETURN_IF_ERROR(thread->Begin(absl::StrCat("read ", folder)));
  absl::StatusOr<std::thread> started = StartThread([thread, body = std::move(body)]() mutable {
    body([&thread](absl::string_view call) { return thread->Begin(call); });
    // What it holds goes before it counts as ended.
    body = nullptr;
    thread->End();
  });
  if (!started.ok()) {
    thread->End();
    return started.status();
  }
  started->detach();
  return std::unique_ptr<Task>(new Task(std::move(thread)));
}

absl::Status FileWork::Call(const std::string& folder, absl::Duration call_timeout,
                            const std::atomic<bool>* cancelled,
                            std::function<absl::Status(const FileObserver&)> body,
                            absl::Duration total_timeout) {
  if (total_timeout <= absl::ZeroDuration()) {
    return AllTimeOver(absl::StrCat("read ", folder), total_timeout);
  }
  auto result = std::make_shared<absl::Status>();
  ZC_ASSIGN_OR_RETURN(const std::unique_ptr<Task> task,
                      Start(folder, [result, body = std::move(body)](const FileObserver& about_to) {
                        *result = body(about_to);
                      }));
  ZC_RETURN_IF_ERROR(task->Wait(call_timeout, cancelled, total_timeout));
  return *result;
}

int FileWork::num_stuck() const {
  MutexLock lock(&registry_->mutex);
  return registry_->num_stuck;
}

}  // namespace zerocast
