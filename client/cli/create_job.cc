#include "client/cli/create_job.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/cli/command.h"
#include "client/cli/interruption.h"
#include "kernels/base/status_macros.h"
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

// Cancels a job that may be there after a creation that ended with `failure`; what came of it.
std::string CancelUnknown(const Client& client, const v1::JobSpec& spec,
                          const Client::CreateOptions& options, const absl::Status& failure) {
  const auto in_grace = client.WithLimits(CancelGrace(), absl::Now() + CancelGrace());
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
  // Whoever interrupts it waits for what becomes of the job; the call itself ends with the
  // client's.
  OnInterrupt::Actions while_unknown;
  while_unknown.patience = kInterruptGrace + kInterruptPatience;
  const OnInterrupt unknown_yet(std::move(while_unknown));
  absl::StatusOr<v1::CreateJobResponse> created = client->CreateJob(spec, options);
  if (options.validate_only || created.ok()) return created;
  if (!MayHaveHappened(created.status())) return created.status();
  const bool interrupted = InterruptSignal() != 0;
  const std::string done =
      unknown == UnknownJob::kKeep && !interrupted
          ? absl::StrCat("it may have been created; the same command with --request-id ",
                         options.request_id, " gives it")
          : CancelUnknown(*client, spec, options, created.status());
  if (interrupted) NoteInterrupt(absl::StrCat("a job was being created: ", done));
  return WithMessage(created.status(), absl::StrCat(created.status().message(), "; ", done));
}

OwnedJob::OwnedJob(const Client* client, std::string name, IfFailed if_failed, Server server)
    : client_(client), name_(std::move(name)), cancel_(if_failed == kCancelIfFailed) {
  OnInterrupt::Actions actions;
  if (server == kOutlivesUs) actions.now = [this] { Cancel(); };
  on_interrupt_.emplace(std::move(actions));
}

OwnedJob::~OwnedJob() {
  on_interrupt_.reset();
  // Nobody is told what comes of it: what made the command fail is what counts.
  if (cancel_ && InterruptSignal() == 0) CancelInGrace(*client_, name_).IgnoreError();
}

absl::Status OwnedJob::Finish() {
  ZC_RETURN_IF_ERROR(Keep());
  const auto in_grace = client_->WithLimits(CancelGrace(), absl::InfiniteFuture());
  return Annotate(in_grace->FinishJob(name_).status(), "free the shards at the end (--release)");
}

absl::Status OwnedJob::Keep() {
  on_interrupt_.reset();
  cancel_ = false;
  return CheckInterrupted();
}

void OwnedJob::Cancel() {
  const absl::Status cancelled = CancelInGrace(*client_, name_);
  NoteInterrupt(
      cancelled.ok()
          ? absl::StrCat(name_, " was cancelled")
          : absl::StrCat(name_, " is there and could not be cancelled: ", cancelled.message()));
}

}  // namespace zerocast
