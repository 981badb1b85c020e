#include "server/jobs/checkpoints.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/base/errors.h"

namespace zerocast::jobs {
namespace {

bool IsComplete(const Checkpoint& checkpoint) {
  return StateOf(checkpoint) == CheckpointState::kComplete;
}

std::vector<const Checkpoint*> OldestFirst(const std::vector<Checkpoint>& checkpoints) {
  std::vector<const Checkpoint*> sorted;
  for (const Checkpoint& checkpoint : checkpoints) sorted.push_back(&checkpoint);
  std::sort(sorted.begin(), sorted.end(),
            [](const Checkpoint* a, const Checkpoint* b) { return IsOlder(*a, *b); });
  return sorted;
}

std::string StepText(const std::optional<int64_t>& step) {
  return step.has_value() ? absl::StrCat("step ", *step) : "no known step";
}

}  // namespace

const FoundCheckpoint* FolderLook::Find(absl::string_view tag) const {
  const auto it = std::find_if(checkpoints.begin(), checkpoints.end(),
                               [tag](const FoundCheckpoint& found) { return found.tag == tag; });
  return it == checkpoints.end() ? nullptr : &*it;
}

const char* CheckpointStateName(CheckpointState state) {
  switch (state) {
    case CheckpointState::kComplete:
      return "COMPLETE";
    case CheckpointState::kIncomplete:
      return "INCOMPLETE";
    case CheckpointState::kChanged:
      return "CHANGED";
    case CheckpointState::kGone:
      break;
  }
  return "GONE";
}

CheckpointState StateOf(const Checkpoint& checkpoint) {
  if (checkpoint.found.gone) return CheckpointState::kGone;
  if (!checkpoint.found.problem.ok()) return CheckpointState::kIncomplete;
  return checkpoint.found.digest == checkpoint.digest ? CheckpointState::kComplete
                                                      : CheckpointState::kChanged;
}

absl::Status ProblemOf(const Checkpoint& checkpoint) {
  if (StateOf(checkpoint) != CheckpointState::kChanged) return checkpoint.found.problem;
  return WithReason(absl::AbortedError(absl::StrCat(
                        "compare ", checkpoint.path, "/", checkpoint.found.tag,
                        " with what was registered: its files are others, their digest is ",
                        checkpoint.found.digest, ", not ", checkpoint.digest,
                        "; register it again if that was meant, else do not train on from it")),
                    "CHECKPOINT_CHANGED");
}

absl::Status CompareWithRegistered(absl::string_view path, absl::string_view digest,
                                   const std::vector<Checkpoint>& registered) {
  const Checkpoint* last = nullptr;
  for (const Checkpoint& checkpoint : registered) {
    if (checkpoint.digest.empty()) continue;  // it never was complete
    if (checkpoint.digest == digest) return absl::OkStatus();
    if (last == nullptr || last->create_time < checkpoint.create_time) last = &checkpoint;
  }
  if (last == nullptr) return absl::OkStatus();
  return WithReason(
      absl::AbortedError(absl::StrCat(
          "compare ", path, " with what was registered as ", last->name, " at ",
          absl::FormatTime(absl::RFC3339_sec, last->create_time, absl::UTCTimeZone()),
          ": its files are others, their digest is ", digest, ", not ", last->digest,
          "; load another one (zerocast checkpoint latest), or, if that was meant, register it "
          "again (zerocast checkpoint register), or forget what was registered (zerocast "
          "checkpoint delete ",
          last->name, ")")),
      "CHECKPOINT_CHANGED");
}

void Note(const FolderLook& look, const FoundCheckpoint& found, Checkpoint* checkpoint) {
  checkpoint->look_time = look.time;
  checkpoint->looked_by = look.node_name;
  if (found.gone) {
    checkpoint->found.tag = found.tag;
    checkpoint->found.problem = found.problem;
    checkpoint->found.gone = true;
    return;
  }
  checkpoint->found = found;
  if (found.problem.ok() && checkpoint->digest.empty()) checkpoint->digest = found.digest;
}

FoundCheckpoint Gone(absl::string_view tag, absl::Status why) {
  FoundCheckpoint found;
  found.tag = std::string(tag);
  found.problem = std::move(why);
  found.gone = true;
  return found;
}

bool IsOlder(const Checkpoint& a, const Checkpoint& b) {
  return std::tie(a.found.step, a.found.save_time, a.name, a.found.tag) <
         std::tie(b.found.step, b.found.save_time, b.name, b.found.tag);
}

Newest FindNewest(const std::vector<Checkpoint>& checkpoints) {
  Newest newest;
  const std::vector<const Checkpoint*> sorted = OldestFirst(checkpoints);
  for (auto it = sorted.rbegin(); it != sorted.rend(); ++it) {
    if (IsComplete(**it)) {
      newest.checkpoint = *it;
      break;
    }
    newest.passed_over.push_back(*it);
  }
  return newest;
}

std::string DifferenceFromLatest(const Checkpoint& newest, absl::string_view tag,
                                 const Checkpoint* named) {
  if (tag == newest.found.tag) return "";
  if (tag.empty()) return absl::StrCat("there is no file latest in ", newest.path);
  const std::string names = absl::StrCat("latest names ", tag);
  if (named == nullptr) return absl::StrCat(names, ", of which nothing is known");
  if (const absl::Status problem = ProblemOf(*named); !problem.ok()) {
    return absl::StrCat(names, ", which is not complete: ", problem.message());
  }
  if (IsOlder(*named, newest)) {
    return absl::StrCat(names, " of ", StepText(named->found.step), ", which is older");
  }
  return absl::StrCat(names, " of ", StepText(named->found.step),
                      ", which is complete and newer, but not registered for this job");
}

Divided Divide(const std::vector<Checkpoint>& checkpoints, const Retention& retention,
               absl::Time now) {
  const std::vector<const Checkpoint*> sorted = OldestFirst(checkpoints);
  Divided divided;
  int num_complete = 0;  // so far
  for (auto it = sorted.rbegin(); it != sorted.rend(); ++it) {
    const Checkpoint& checkpoint = **it;
    const bool may_be_being_written = num_complete == 0 && !checkpoint.found.gone;
    const bool young =
        retention.older_than.has_value() && now - checkpoint.create_time <= *retention.older_than;
    const bool complete = IsComplete(checkpoint);
    const bool stays = checkpoint.pinned || young || may_be_being_written ||
                       (complete && num_complete < retention.keep_last);
    num_complete += complete ? 1 : 0;
    (stays ? divided.kept : divided.forgotten).push_back(*it);
  }
  std::reverse(divided.kept.begin(), divided.kept.end());
  std::reverse(divided.forgotten.begin(), divided.forgotten.end());
  return divided;
}

}  // namespace zerocast::jobs
