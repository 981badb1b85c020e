#ifndef ZEROCAST_CLIENT_AGENT_FILE_WORK_H_
#define ZEROCAST_CLIENT_AGENT_FILE_WORK_H_

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/formats/file_observer.h"
#include "kernels/base/status_macros.h"

namespace zerocast {

// Calls to file systems, made on threads that can be left behind.  A call into a dead network file
// system never returns, and nothing can end it: who waits for it gives up at a deadline and says
// which call it was; the thread stays until the kernel lets go, and counts as stuck.
//
// Bounded: there are never more than max_threads, stuck ones included.  Work for a folder where
// max_stuck_per_folder are stuck is refused at once, so that loads from a dead mount that come
// again and again leave the threads to the others.
//
// Thread-safe.  May be destroyed before its threads end.
class FileWork {
 public:
  struct Options {
    int max_threads = 1024;
    int max_stuck_per_folder = 2;
  };
  // Runs on the thread; tells `about_to` of every call, and ends with its error: CANCELLED once
  // nobody waits for the work any more.  It owns, or shares, all that it uses: then it goes on
  // alone until the call that it is in returns.
  using Body = std::function<void(const FileObserver& about_to)>;

  // Work on its way.  Thread-safe.
  class Task {
   public:
    // A thread that has not ended counts as stuck from now on until it does.
    ~Task();
    Task(const Task&) = delete;
    Task& operator=(const Task&) = delete;

    // The call that it is in, or was in last.
    std::string call() const;
    // Waits for the end.  OK once it is there.  Errors:
    //   DEADLINE_EXCEEDED  one call lasts longer than `call_timeout`, or all of them, from now on,
    //                      longer than `total_timeout`; the message begins with the last call.
    //   CANCELLED          `cancelled`, which may be null, became true.
    absl::Status Wait(absl::Duration call_timeout, const std::atomic<bool>* cancelled,
                      absl::Duration total_timeout = absl::InfiniteDuration());

   private:
    friend class FileWork;
    struct Thread;
    explicit Task(std::shared_ptr<Thread> thread);
    const std::shared_ptr<Thread> thread_;
  };

  FileWork();
  explicit FileWork(Options options);
  FileWork(const FileWork&) = delete;
  FileWork& operator=(const FileWork&) = delete;

  // Starts work on the files of `folder`, which is only a name here.  Errors:
  //   UNAVAILABLE         earlier calls there are stuck; reason IO_ERROR.
  //   RESOURCE_EXHAUSTED  as many threads as there may be, or as the system has.
  absl::StatusOr<std::unique_ptr<Task>> Start(const std::string& folder, Body body);

  // Runs `body` and waits for what it returns.  Errors: those of Start, Wait and `body`.
  absl::Status Call(const std::string& folder, absl::Duration call_timeout,
                    const std::atomic<bool>* cancelled,
                    std::function<absl::Status(const FileObserver&)> body,
                    absl::Duration total_timeout = absl::InfiniteDuration());
  template <typename T>
  absl::StatusOr<T> Call(const std::string& folder, absl::Duration call_timeout,
                         const std::atomic<bool>* cancelled,
                         std::function<absl::StatusOr<T>(const FileObserver&)> body,
                         absl::Duration total_timeout = absl::InfiniteDuration());

  // Threads that were left behind and have not ended.
  int num_stuck() const;

 private:
  struct Registry;
  const std::shared_ptr<Registry> registry_;  // shared with the threads
};

template <typename T>
absl::StatusOr<T> FileWork::Call(const std::string& folder, absl::Duration call_timeout,
                                 const std::atomic<bool>* cancelled,
                                 std::function<absl::StatusOr<T>(const FileObserver&)> body,
                                 absl::Duration total_timeout) {
  auto result = std::make_shared<absl::StatusOr<T>>(absl::UnknownError("not run"));
  ZC_RETURN_IF_ERROR(Call(
      folder, call_timeout, cancelled,
      [result, body = std::move(body)](const FileObserver& about_to) {
        *result = body(about_to);
        return result->status();
      },
      total_timeout));
  return std::move(*result);
}

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_FILE_WORK_H_
