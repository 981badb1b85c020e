#include "server/rpc/checkpoint_convert.h"

#include <google/protobuf/util/time_util.h>

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "kernels/base/status_macros.h"
#include "server/rpc/convert.h"
#include "server/wire/status.h"

namespace zerocast::rpc {
namespace {

using ::google::protobuf::util::TimeUtil;

constexpr size_t kMaxPathBytes = 4096, kMaxTagBytes = 255;  // PATH_MAX, NAME_MAX
constexpr size_t kMaxProblemBytes = 2048;
// A training of a million steps that saves every hundred.
constexpr int kMaxFound = 10000;
constexpr size_t kDigestDigits = 32;

static_assert(static_cast<int>(jobs::CheckpointState::kComplete) + 1 ==
              v1::CHECKPOINT_STATE_COMPLETE);
static_assert(static_cast<int>(jobs::CheckpointState::kGone) + 1 == v1::CHECKPOINT_STATE_GONE);

google::protobuf::Timestamp ToProto(absl::Time time) {
  return TimeUtil::NanosecondsToTimestamp(absl::ToUnixNanos(time));
}

absl::Time FromProto(const google::protobuf::Timestamp& time) {
  return absl::FromUnixSeconds(time.seconds()) + absl::Nanoseconds(time.nanos());
}

bool IsDigest(absl::string_view text) {
  return text.size() == kDigestDigits && std::all_of(text.begin(), text.end(), [](unsigned char c) {
           return absl::ascii_isdigit(c) || (c >= 'a' && c <= 'f');
         });
}

absl::Status WithBoundedMessage(const absl::Status& status) {
  if (status.message().size() <= kMaxProblemBytes) return status;
  return WithMessage(status, absl::StrCat(status.message().substr(0, kMaxProblemBytes), "..."));
}

absl::StatusOr<jobs::FoundCheckpoint> FoundFromProto(const v1::FoundCheckpoint& message) {
  if (const std::string problem = TagProblem(message.tag()); !problem.empty()) {
    return InvalidFields({{"folder_report.checkpoints.tag", problem}});
  }
  jobs::FoundCheckpoint found;
  found.tag = message.tag();
  if (message.has_step()) found.step = message.step();
  found.world_size = std::max(message.world_size(), 0);
  found.zero_stage = std::max(message.zero_stage(), -1);
  found.num_files = std::max(message.num_files(), 0);
  found.num_bytes = std::max<int64_t>(message.num_bytes(), 0);
  if (message.has_save_time()) found.save_time = FromProto(message.save_time());
  found.problem = WithBoundedMessage(StatusFromFailure(message.problem()));
  found.gone = message.gone() && !found.problem.ok();
  // What is whole can be told from what it was before; an agent that cannot has not looked.
  if (found.problem.ok() && !IsDigest(message.digest())) {
    return InvalidFields({{"folder_report.checkpoints.digest",
                           absl::StrCat("must be ", kDigestDigits, " hexadecimal digits")}});
  }
  found.digest = message.digest().substr(0, kDigestDigits);
  return found;
}

}  // namespace

v1::Checkpoint CheckpointToProto(const jobs::Checkpoint& checkpoint) {
  const jobs::FoundCheckpoint& found = checkpoint.found;
  v1::Checkpoint out;
  out.set_name(checkpoint.name);
  out.set_job(checkpoint.job);
  out.set_path(checkpoint.path);
  out.set_tag(found.tag);
  out.set_step(found.step.value_or(0));
  out.set_state(static_cast<v1::CheckpointState>(static_cast<int>(StateOf(checkpoint)) + 1));
  out.set_complete(out.state() == v1::CHECKPOINT_STATE_COMPLETE);
  out.set_pinned(checkpoint.pinned);
  *out.mutable_create_time() = ToProto(checkpoint.create_time);
  if (const absl::Status problem = ProblemOf(checkpoint); !problem.ok()) {
    *out.mutable_problem() = FailureFromStatus(problem);
  }
  out.set_digest(checkpoint.digest);
  out.set_world_size(found.world_size);
  out.set_zero_stage(found.zero_stage);
  out.set_num_files(found.num_files);
  out.set_num_bytes(found.num_bytes);
  if (found.save_time != absl::InfinitePast()) *out.mutable_save_time() = ToProto(found.save_time);
  out.set_etag(Hash64(out.SerializeAsString()));
  *out.mutable_look_time() = ToProto(checkpoint.look_time);
  out.set_looked_by(checkpoint.looked_by);
  return out;
}

jobs::Checkpoint CheckpointFromProto(const v1::Checkpoint& message) {
  jobs::Checkpoint out;
  out.name = message.name();
  out.job = message.job();
  out.path = message.path();
  out.found.tag = message.tag();
  out.found.step = message.step();
  out.found.world_size = message.world_size();
  out.found.zero_stage = message.zero_stage();
  out.found.num_files = message.num_files();
  out.found.num_bytes = message.num_bytes();
  if (message.has_save_time()) out.found.save_time = FromProto(message.save_time());
  out.found.gone = message.state() == v1::CHECKPOINT_STATE_GONE;
  // Of a changed one the problem follows from its digests.
  if (message.state() != v1::CHECKPOINT_STATE_CHANGED) {
    out.found.problem = StatusFromFailure(message.problem());
  }
  out.found.digest = message.digest();
  out.digest = message.digest();
  out.pinned = message.pinned();
  out.create_time = FromProto(message.create_time());
  out.look_time = FromProto(message.look_time());
  out.looked_by = message.looked_by();
  return out;
}

absl::StatusOr<jobs::FolderLook> FolderLookFromProto(const v1::FolderReport& report) {
  if (report.has_failure() && report.failure().code() != 0) {
    return WithBoundedMessage(StatusFromFailure(report.failure()));
  }
  if (report.checkpoints_size() > kMaxFound) {
    return InvalidFields(
        {{"folder_report.checkpoints", absl::StrCat("must be at most ", kMaxFound)}});
  }
  jobs::FolderLook look;
  look.latest_tag = report.latest_tag().substr(0, kMaxTagBytes);
  for (const v1::FoundCheckpoint& message : report.checkpoints()) {
    ZC_ASSIGN_OR_RETURN(jobs::FoundCheckpoint found, FoundFromProto(message));
    look.checkpoints.push_back(std::move(found));
  }
  return look;
}

std::string ReadFolder(absl::string_view path, absl::string_view field,
                       std::vector<FieldViolation>* violations) {
  while (path.size() > 1 && absl::ConsumeSuffix(&path, "/")) continue;
  std::string problem;
  if (!absl::StartsWith(path, "/")) {
    problem = absl::StrCat("must be an absolute path, was '", path.substr(0, kMaxTagBytes), "'");
  } else if (path.size() > kMaxPathBytes) {
    problem = absl::StrCat("must have at most ", kMaxPathBytes, " bytes, has ", path.size());
  } else if (path.find('\0') != absl::string_view::npos) {
    problem = "must hold no zero byte";
  }
  for (const absl::string_view part : absl::StrSplit(path, '/')) {
    if (part == ".." && problem.empty()) problem = "must have no '..'";
  }
  if (!problem.empty()) violations->push_back({std::string(field), problem});
  return std::string(path);
}

std::string TagProblem(absl::string_view tag) {
  if (tag.empty()) return "must not be empty";
  if (tag.size() > kMaxTagBytes) {
    return absl::StrCat("must have at most ", kMaxTagBytes, " bytes, has ", tag.size());
  }
  if (tag == "." || tag == ".." || tag.find('/') != absl::string_view::npos ||
      tag.find('\0') != absl::string_view::npos) {
    return absl::StrCat("must be the name of a folder, was '", tag, "'");
  }
  return "";
}

}  // namespace zerocast::rpc
