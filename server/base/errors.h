#ifndef ZEROCAST_SERVER_BASE_ERRORS_H_
#define ZEROCAST_SERVER_BASE_ERRORS_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace zerocast {

// One thing wrong with a request: where (a path the user can find in their own input, such as
// "config.zero_optimization.stage") and what.
struct FieldViolation {
  std::string field;
  std::string description;
};

// Why a call failed, as a word a program can branch on.  A closed list: docs and tests enumerate it
// (kAllReasons).  Attached to a status as a payload; server/wire turns it into
// google.rpc.ErrorInfo and back.
inline constexpr absl::string_view kAllReasons[] = {
    "INVALID_FIELDS",        // a request's fields are wrong; BadRequest lists all of them
    "CONFIG_MISMATCH",       // DeepSpeed config contradicts the training arguments
    "CHECKPOINT_NOT_FOUND",  // a checkpoint, or one of its files, does not exist
    "CHECKPOINT_CORRUPT",    // a checkpoint's bytes contradict themselves
    "CHECKPOINT_CHANGED",    // a file was replaced while it was being loaded
    "WEIGHTS_INCOMPLETE",    // missing or mismatched weights under the strict rule
    "CONVERSION_FAILED",     // a conversion rule could not be applied
    "PLAN_REFUSED",          // a plan's proof or digest did not hold
    "STALE_EPOCH",           // a command or report of an older attempt
    "NOT_ENOUGH_AGENTS",     // fewer agents are connected than the job has nodes
    "AGENT_LOST",            // an agent of the load died or went silent
    "EXCHANGE_FAILED",       // the data exchange between nodes failed
    "DIGEST_MISMATCH",       // bytes in an arena differ from the checkpoint
    "NOT_FOUND",             // no such resource
    "ALREADY_EXISTS",        // the id is taken by another resource
    "WRONG_STATE",           // the resource's state does not allow the call
    "PERMISSION_DENIED",     // the caller may not do this
    "DEADLINE_REQUIRED",     // the call came without a deadline
    "DEADLINE_EXCEEDED",     // the work did not end in time
    "RESOURCE_EXHAUSTED",    // a limit of the server was reached
    "UNAVAILABLE",           // the server was not reached (clients set it themselves)
    "STORE_UNAVAILABLE",     // the state store did not answer
    "SHUTTING_DOWN",         // the process is stopping
    "CANCELLED",             // the caller, or the job's owner, gave up
    "UNSUPPORTED",           // a feature that zerocast refuses by name
    "IO_ERROR",              // reading or writing a file failed
    "INTERNAL",              // a bug: please report it
};

// Payload type URLs, as google.rpc's, so that the wire form is the payload itself.
inline constexpr absl::string_view kErrorInfoUrl = "type.googleapis.com/google.rpc.ErrorInfo";
inline constexpr absl::string_view kBadRequestUrl = "type.googleapis.com/google.rpc.BadRequest";

// Returns `status` with `reason` (one of kAllReasons) attached; an OK status stays OK and a reason
// that is already there stays.
absl::Status WithReason(absl::Status status, absl::string_view reason);

// The reason attached to `status`, or "" when none is.
std::string ReasonOf(const absl::Status& status);

// INVALID_ARGUMENT with every violation in its message and, as google.rpc.BadRequest, in its
// details.  Returns OK when there are none.
absl::Status InvalidFields(const std::vector<FieldViolation>& violations);

// The violations attached to `status`, in the order they were given; empty when there are none.
std::vector<FieldViolation> ViolationsOf(const absl::Status& status);

// `status` with another message; code and payloads stay.
absl::Status WithMessage(const absl::Status& status, absl::string_view message);

// `status` with "prefix: " before its message; code and payloads stay.
absl::Status Annotate(const absl::Status& status, absl::string_view prefix);

// An absl::Status for errno value `error_number`: "open /x/y: No such file or directory", with the
// code that fits (NOT_FOUND, PERMISSION_DENIED, RESOURCE_EXHAUSTED, ..., else UNAVAILABLE for I/O).
absl::Status ErrnoStatus(int error_number, absl::string_view what);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_BASE_ERRORS_H_
