#ifndef ZEROCAST_SERVER_RPC_RECORDS_H_
#define ZEROCAST_SERVER_RPC_RECORDS_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/jobs/checkpoints.h"
#include "server/jobs/types.h"

namespace zerocast::rpc {

// How jobs, loads and checkpoints lie in the store, under their names ("jobs/ID", "loads/ID",
// "checkpoints/ID"): JSON of one object, {"format": 1, "message": base64 of the v1.Job, v1.Load or
// v1.Checkpoint, ...} and beside it what callers never see.  README.md lists the fields.
std::string JobToRecord(const jobs::Job& job);
std::string LoadToRecord(const jobs::Load& load);
std::string CheckpointToRecord(const jobs::Checkpoint& checkpoint);

// What reading a record that is damaged or of a newer format fails with: DATA_LOSS, naming it and
// what is wrong.
absl::Status DamagedRecord(absl::string_view name, absl::string_view what);

// Errors: DATA_LOSS naming `name` when the record is damaged or of a newer format.
absl::StatusOr<jobs::Job> JobFromRecordText(absl::string_view name, const std::string& text);
// `epoch`: the revision that created the entry.  The name of its job goes to `job_name`; Load::job
// is left null.
absl::StatusOr<jobs::Load> LoadFromRecordText(absl::string_view name, const std::string& text,
                                              int64_t epoch, std::string* job_name);
absl::StatusOr<jobs::Checkpoint> CheckpointFromRecordText(absl::string_view name,
                                                          const std::string& text);

}  // namespace zerocast::rpc

#endif  // ZEROCAST_SERVER_RPC_RECORDS_H_
