#ifndef ZEROCAST_CLIENT_CLI_CREATE_JOB_H_
#define ZEROCAST_CLIENT_CLI_CREATE_JOB_H_

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/cli/interruption.h"
#include "client/cpp/client.h"

namespace zerocast {

// What becomes of a job that may have been created although no answer came in time.
enum class UnknownJob {
  kCancel,
  // The user named its request_id and finds it by that.  An interrupted command cancels it anyway.
  kKeep,
};

// Creates a job for a command; `deadline` is the client's.  When its outcome stays unknown (no
// answer within the client's limits, the connection broke, SIGINT or SIGTERM came meanwhile) the
// job may be there and nobody knows its name.  The same request_id gives it: within kCancelGrace
// the creation is repeated, which a creation that comes late meets too, and its job cancelled.  The
// error says what was done.
absl::StatusOr<v1::CreateJobResponse> CreateJobOrCancel(Client* client, const v1::JobSpec& spec,
                                                        Client::CreateOptions options,
                                                        absl::Time deadline, UnknownJob unknown);

// A job that is the command's until Keep(): when the command is interrupted, or fails, the job is
// cancelled and the agents free its shards.
class OwnedJob {
 public:
  enum IfFailed { kCancelIfFailed, kKeepIfFailed };
  // On a server of this process an interruption ends it anyway.
  enum Server { kOutlivesUs, kEndsWithUs };
  // `client` must outlive it.
  OwnedJob(const Client* client, std::string name, IfFailed if_failed, Server server);
  ~OwnedJob();
  OwnedJob(const OwnedJob&) = delete;
  OwnedJob& operator=(const OwnedJob&) = delete;

  // The command has what it wanted of the job, which is done: the agents free its shards.  Errors:
  // as of Keep(); those of Client::FinishJob, and the job stays.
  absl::Status Finish();
  // From here on the job stays.  CANCELLED when it has been cancelled, or is to be, by a signal.
  absl::Status Keep();

 private:
  void Cancel();

  const Client* const client_;
  const std::string name_;
  bool cancel_;  // at the end
  std::optional<OnInterrupt> on_interrupt_;
};

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_CLI_CREATE_JOB_H_
