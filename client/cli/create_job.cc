#include "client/cli/create_job.h"

#include <atomic>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/cli/command.h"
#include "client/cli/signals.h"
#include "server/base/errors.h"

namespace zerocast {
namespace {

// Whether a creation that ended so may have happened.  The server's own refusals have not: of those
// that it cannot be sure of it says DEADLINE_EXCEEDED.
bool MayHaveHappened(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kCancelled:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kUnknown:
      return true;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kInternal:
      return ReasonOf(status) == "UNAVAILABLE" || ReasonOf(status) == "INTERNAL";
    default:
      return false;
  }
}

absl::Status Interrupted() {
  return WithReason(absl::CancelledError("interrupted while the job was created"), "CANCELLED");
}

// Cancels a job that may be there after a creation that ended with `failure`; what came of it.
std::string CancelUnknown(const Client& client, const v1::JobSpec& spec,
                          const Client::CreateOptions& options, const absl::Status& failure) {
  const auto in_grace = client.WithLimits(kCancelGrace, absl::Now() + kCancelGrace);
  const absl::StatusOr<v1::CreateJobResponse> found = in_grace->CreateJob(spec, options);
  const absl::Status status =
      found.ok() ? in_grace->CancelJob(found->job().name()).status() : found.status();
  if (status.ok()) {
    return absl::StrCat("it may have been created, so ", found->job().name(), " was cancelled");
  }
  // The same once more would tell nothing.
  const std::string why =
      status.code() == failure.code() ? "" : absl::StrCat(" (", status.message(), ")");
  return absl::StrCat("it may have been created, and cancelling it failed, too", why,
                      "; when the server answers, the same command with --request-id ",
                      options.request_id, " gives it, and zerocast job cancel ends it");
}

}  // namespace

absl::StatusOr<v1::CreateJobResponse> CreateJobOrCancel(Client* client, const v1::JobSpec& spec,
                                                        Client::CreateOptions options,
                                                        absl::Time deadline, UnknownJob unknown) {
  if (absl::Now() >= deadline) return client->CreateJob(spec, options);  // which is not made
  if (options.request_id.empty()) options.request_id = NewRequestId();
  std::atomic<bool> interrupted{false};
  std::optional<SignalWatcher> watcher;
  watcher.emplace([client, &interrupted](int) {
    interrupted.store(true);
    client->CancelCalls();
  });
  absl::StatusOr<v1::CreateJobResponse> created = client->CreateJob(spec, options);
  if (options.validate_only) return created;
  if (created.ok()) {
    // Whatever comes from here on is for the caller's own watcher.
    watcher.reset();
    if (!interrupted.load()) return created;
    const std::string& name = created->job().name();
    const absl::Status cancelled = CancelInGrace(*client, name);
    return WithMessage(
        Interrupted(),
        cancelled.ok()
            ? absl::StrCat(Interrupted().message(), "; ", name, " was cancelled")
            : absl::StrCat(Interrupted().message(), "; ", name,
                           " is there and could not be cancelled: ", cancelled.message()));
  }
  if (!MayHaveHappened(created.status())) return created.status();
  const absl::Status failure = interrupted.load() ? Interrupted() : created.status();
  const std::string done =
      unknown == UnknownJob::kKeep && !interrupted.load()
          ? absl::StrCat("it may have been created; the same command with --request-id ",
                         options.request_id, " gives it")
          : CancelUnknown(*client, spec, options, failure);
  return WithMessage(failure, absl::StrCat(failure.message(), "; ", done));
}

}  // namespace zerocast
