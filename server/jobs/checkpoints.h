#ifndef ZEROCAST_SERVER_JOBS_CHECKPOINTS_H_
#define ZEROCAST_SERVER_JOBS_CHECKPOINTS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "server/jobs/types.h"

namespace zerocast::jobs {

// Registered DeepSpeed checkpoints: what a look at the files says of them, which is the newest,
// which may go.  Functions: no clock, no I/O.

// A checkpoint as an agent found it.
struct FoundCheckpoint {
  std::string tag;
  std::optional<int64_t> step;  // unset: not known
  int32_t world_size = 0;       // 0: not known
  int32_t zero_stage = -1;      // -1: not known
  absl::Status problem;         // what is missing or torn; OK: complete
  bool gone = false;            // its folder is not there; with a problem
  std::string digest;           // of its files' names, sizes and headers; "" where it has none
  int32_t num_files = 0;
  int64_t num_bytes = 0;
  absl::Time save_time = absl::InfinitePast();  // of the file that was written last
};

// What an agent found in a folder.
struct FolderLook {
  std::string node_name;
  absl::Time time;
  std::string latest_tag;  // that the file `latest` names; "": there is no such file
  std::vector<FoundCheckpoint> checkpoints;

  const FoundCheckpoint* Find(absl::string_view tag) const;
};

// A registered checkpoint.
struct Checkpoint {
  std::string name;  // "checkpoints/ID"; "": nobody has registered it
  std::string job;   // "jobs/ID"
  std::string path;  // of the folder that its tag's folder lies in
  FoundCheckpoint found;
  std::string digest;  // when it was first found complete; "": never
  bool pinned = false;
  absl::Time create_time;
  absl::Time look_time;
  std::string looked_by;  // node
  RequestKey request;
};

enum class CheckpointState { kComplete, kIncomplete, kChanged, kGone };
inline constexpr CheckpointState kCheckpointStates[] = {
    CheckpointState::kComplete, CheckpointState::kIncomplete, CheckpointState::kChanged,
    CheckpointState::kGone};
const char* CheckpointStateName(CheckpointState state);  // "COMPLETE", ...

// What the last look says of it, and why it is not complete; OK where it is.
CheckpointState StateOf(const Checkpoint& checkpoint);
absl::Status ProblemOf(const Checkpoint& checkpoint);

// Notes what a look found.  The first complete one gives the digest.  Of a checkpoint that is gone
// all stays known but that.
void Note(const FolderLook& look, const FoundCheckpoint& found, Checkpoint* checkpoint);
// What a look says of a tag whose whole folder it did not find.
FoundCheckpoint Gone(absl::string_view tag, absl::Status why);

// Whether a checkpoint whose files have this digest now may be loaded from `path`, the folder of
// its tag, where these checkpoints were registered there, by whichever jobs: one of those that were
// complete has the digest, or none was complete.  Errors: ABORTED, reason CHECKPOINT_CHANGED,
// naming both digests and the one that was registered last.
absl::Status CompareWithRegistered(absl::string_view path, absl::string_view digest,
                                   const std::vector<Checkpoint>& registered);

// A total order: by step, of equal ones by what was written last, then by name.
bool IsOlder(const Checkpoint& a, const Checkpoint& b);

// The newest complete one, null where there is none; and those that are newer and not complete,
// newest first.
struct Newest {
  const Checkpoint* checkpoint = nullptr;
  std::vector<const Checkpoint*> passed_over;
};
Newest FindNewest(const std::vector<Checkpoint>& checkpoints);

// How the one that the file `latest` of its folder names differs from `newest`, which is complete;
// "" where it is the same.  `tag`: what `latest` says, "": there is no such file; `named`: the
// checkpoint of that tag, null: not known.
std::string DifferenceFromLatest(const Checkpoint& newest, absl::string_view tag,
                                 const Checkpoint* named);

struct Retention {
  int keep_last = 1;  // at least 1
  // Only those registered longer ago may go; unset: any.
  std::optional<absl::Duration> older_than;
};
// Which of a job's checkpoints may go, and which stay; both oldest first.  These stay: pinned ones;
// the keep_last newest complete ones, pinned or not; those that are newer than the newest complete
// one and not gone, for they may be being written.
struct Divided {
  std::vector<const Checkpoint*> forgotten, kept;
};
Divided Divide(const std::vector<Checkpoint>& checkpoints, const Retention& retention,
               absl::Time now);

}  // namespace zerocast::jobs

#endif  // ZEROCAST_SERVER_JOBS_CHECKPOINTS_H_
