#include <google/protobuf/util/time_util.h>

#include <CLI/CLI.hpp>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "client/cli/checkpoint_commands.h"
#include "client/cli/checkpoint_folder.h"
#include "client/cli/checkpoint_output.h"
#include "client/cli/interruption.h"
#include "client/cli/job_flags.h"
#include "client/cli/output.h"
#include "client/formats/deepspeed/remove_tag.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/base/utf8.h"
#include "server/wire/status.h"

namespace zerocast {
namespace {

using Json = nlohmann::ordered_json;
using ::google::protobuf::util::TimeUtil;

constexpr int64_t kMaxInt32 = std::numeric_limits<int32_t>::max();

// "7d", "36h", "90m", "3600s" or "3600" in seconds; negative when it is none of these.
int64_t AgeSeconds(absl::string_view text) {
  constexpr std::pair<const char*, int64_t> kUnits[] = {
      {"d", 86400}, {"h", 3600}, {"m", 60}, {"s", 1}};
  constexpr int64_t kTenYears = int64_t{3653} * 86400;
  int64_t unit = 1, number = 0;
  for (const auto& [suffix, seconds] : kUnits) {
    if (!absl::ConsumeSuffix(&text, suffix)) continue;
    unit = seconds;
    break;
  }
  const bool is_number = !text.empty() && absl::ascii_isdigit(static_cast<unsigned char>(text[0]));
  if (!is_number || !absl::SimpleAtoi(text, &number) || number > kTenYears / unit) return -1;
  return number * unit;
}

const CLI::Validator kAge(
    [](const std::string& text) -> std::string {
      if (AgeSeconds(text) >= 0) return "";
      return absl::StrCat("\"", text, "\" is no age such as 7d, 36h, 90m or 3600s, of ten years ",
                          "at most");
    },
    "");

struct PruneFlags {
  std::string job, older_than;
  int32_t keep_last = 0;
  bool dry_run = false;
  bool delete_files = false;
};

ExpectedTag Expected(const v1::Checkpoint& checkpoint) {
  ExpectedTag expected;
  expected.tag = checkpoint.tag();
  // Of one that is torn it is that of better times.
  if (checkpoint.complete()) expected.digest = checkpoint.digest();
  expected.num_files = checkpoint.num_files();
  expected.num_bytes = checkpoint.num_bytes();
  expected.mtime_ns = TimeUtil::TimestampToNanoseconds(checkpoint.save_time());
  return expected;
}

absl::Status Stays(absl::string_view why) {
  return WithReason(absl::FailedPreconditionError(why), "WRONG_STATE");
}

// Deletes the files of checkpoints that may be forgotten, and has the server forget those.
class FileDeleter {
 public:
  FileDeleter(Client* client, bool dry_run) : client_(client), dry_run_(dry_run) {}

  // Bytes that are freed.  Errors: why the files stay, and the checkpoint is not forgotten; those
  // of the server.
  absl::StatusOr<int64_t> Delete(const v1::Checkpoint& checkpoint) {
    ZC_RETURN_IF_ERROR(CheckNobodyElseHasIt(checkpoint));
    // Not what somebody registered: nobody said that it may go.
    if (checkpoint.state() == v1::CHECKPOINT_STATE_CHANGED) {
      return StatusFromFailure(checkpoint.problem());
    }
    const bool is_gone = checkpoint.state() == v1::CHECKPOINT_STATE_GONE;
    if (!is_gone && !checkpoint.complete() &&
        absl::Now() - TimeOf(checkpoint.save_time()) < kMayBeBeingWritten) {
      return Stays(absl::StrCat("it is not complete, and written to less than ",
                                absl::FormatDuration(kMayBeBeingWritten), " ago"));
    }
    const FileObserver observer = StopWhenInterrupted();
    absl::StatusOr<TagRemoval> removal =
        is_gone ? TagRemoval::FindLeft(checkpoint.path(), checkpoint.tag(), observer)
                : TagRemoval::Check(checkpoint.path(), Expected(checkpoint), observer);
    if (is_gone && absl::IsNotFound(removal.status())) {
      if (!dry_run_) ZC_RETURN_IF_ERROR(Forget(checkpoint));
      return 0;
    }
    ZC_RETURN_IF_ERROR(removal.status());
    if (dry_run_) return removal->num_bytes();
    ZC_RETURN_IF_ERROR(removal->SetAside());
    // As it was when the server said that it may go: one that was pinned since stays.
    if (const absl::Status forgotten = Forget(checkpoint); !forgotten.ok()) {
      const absl::Status back = removal->PutBack();
      if (back.ok()) return forgotten;
      return Annotate(
          back, absl::StrCat("put back what is not to be deleted (", forgotten.message(), ")"));
    }
    ZC_RETURN_IF_ERROR(removal->Remove());
    return removal->num_bytes();
  }

 private:
  // A training that dies leaves its checkpoint as it is; one that lives writes on.
  static constexpr absl::Duration kMayBeBeingWritten = absl::Hours(1);

  static absl::Time TimeOf(const google::protobuf::Timestamp& time) {
    return absl::FromUnixNanos(TimeUtil::TimestampToNanoseconds(time));
  }

  absl::Status Forget(const v1::Checkpoint& checkpoint) {
    return client_->DeleteCheckpoint(checkpoint.name(), checkpoint.etag());
  }

  // Whoever registers counts on the files.
  absl::Status CheckNobodyElseHasIt(const v1::Checkpoint& checkpoint) {
    auto there = by_path_.find(checkpoint.path());
    if (there == by_path_.end()) {
      Client::ListCheckpointsOptions options;
      options.path = checkpoint.path();
      ZC_ASSIGN_OR_RETURN(std::vector<v1::Checkpoint> listed, client_->ListCheckpoints(options));
      there = by_path_.emplace(checkpoint.path(), std::move(listed)).first;
    }
    for (const v1::Checkpoint& other : there->second) {
      if (other.tag() != checkpoint.tag() || other.job() == checkpoint.job()) continue;
      return Stays(absl::StrCat(other.job(), " has registered it, too, as ", other.name()));
    }
    return absl::OkStatus();
  }

  Client* const client_;
  const bool dry_run_;
  std::map<std::string, std::vector<v1::Checkpoint>> by_path_;
};

// Whether a checkpoint stays for this; else something is wrong that is not its own.
bool IsWhyItStays(const absl::Status& status) {
  const std::string reason = ReasonOf(status);
  return reason == "WRONG_STATE" || reason == "CHECKPOINT_CHANGED" ||
         reason == "CHECKPOINT_NOT_FOUND" || reason == "NOT_FOUND" || reason == "ALREADY_EXISTS";
}

// What became of the files, so far.
struct Deleted {
  std::vector<v1::Checkpoint> gone;
  std::vector<std::pair<v1::Checkpoint, absl::Status>> stay;
  int64_t num_bytes = 0;
};

Json DeletedJson(const Deleted& deleted, bool dry_run) {
  Json stay = Json::array();
  for (const auto& [checkpoint, why] : deleted.stay) {
    Json entry = CheckpointJson(checkpoint);
    entry["stays_because"] = why.message();
    stay.push_back(std::move(entry));
  }
  return {{"dry_run", dry_run},
          {"pruned", ListJson(deleted.gone)},
          {"freed_bytes", deleted.num_bytes},
          {"files_stay", std::move(stay)}};
}

std::string HowMany(bool dry_run, size_t num, size_t num_all) {
  return absl::StrCat(dry_run ? "dry run: " : "", num, " of ", num_all, dry_run ? " would be" : "");
}

std::string DeletedText(const Deleted& deleted, bool dry_run, size_t num_all) {
  std::string text = TablesText(deleted.gone);
  for (const auto& [checkpoint, why] : deleted.stay) {
    absl::StrAppend(&text, EscapeControls(checkpoint.tag()),
                    " stays: ", EscapeControls(why.message()), "\n");
  }
  absl::StrAppend(&text, HowMany(dry_run, deleted.gone.size(), num_all), " forgotten and deleted, ",
                  FormatBytes(deleted.num_bytes), " freed\n");
  return text;
}

absl::Status DeleteFiles(const GlobalOptions& global, bool dry_run, Client* client,
                         const v1::PruneCheckpointsResponse& pruned) {
  FileDeleter deleter(client, dry_run);
  Deleted deleted;
  absl::Status failed;
  for (const v1::Checkpoint& checkpoint : pruned.pruned()) {
    failed = CheckInterrupted();
    if (!failed.ok()) break;
    const absl::StatusOr<int64_t> freed = deleter.Delete(checkpoint);
    if (freed.ok()) {
      deleted.gone.push_back(checkpoint);
      deleted.num_bytes += *freed;
    } else if (IsWhyItStays(freed.status())) {
      deleted.stay.emplace_back(checkpoint, freed.status());
    } else {
      failed = Annotate(freed.status(), checkpoint.name());
      break;
    }
  }
  Json document = DeletedJson(deleted, dry_run);
  document["kept"] = ListJson({pruned.kept().begin(), pruned.kept().end()});
  if (!global.json()) {
    const int num_all = pruned.pruned_size() + pruned.kept_size();
    std::fputs(DeletedText(deleted, dry_run, static_cast<size_t>(num_all)).c_str(), stdout);
  } else if (failed.ok()) {
    PrintJson(document);
  } else {
    SetErrorContext(std::move(document));
  }
  return failed;
}

absl::Status RunPrune(const GlobalOptions& global, const PruneFlags& flags) {
  ZC_ASSIGN_OR_RETURN(const auto client, global.Connect());
  v1::PruneCheckpointsRequest request;
  request.set_job(flags.job);
  request.set_keep_last(flags.keep_last);
  if (!flags.older_than.empty()) {
    request.mutable_older_than()->set_seconds(AgeSeconds(flags.older_than));
  }
  request.set_validate_only(flags.dry_run || flags.delete_files);
  ZC_ASSIGN_OR_RETURN(const v1::PruneCheckpointsResponse pruned, client->PruneCheckpoints(request));
  if (flags.delete_files) return DeleteFiles(global, flags.dry_run, client.get(), pruned);
  const std::vector<v1::Checkpoint> forgotten(pruned.pruned().begin(), pruned.pruned().end());
  if (global.json()) {
    PrintJson({{"dry_run", flags.dry_run},
               {"pruned", ListJson(forgotten)},
               {"kept", ListJson({pruned.kept().begin(), pruned.kept().end()})}});
    return absl::OkStatus();
  }
  std::fputs(TablesText(forgotten).c_str(), stdout);
  int64_t num_bytes = 0;
  for (const v1::Checkpoint& checkpoint : forgotten) num_bytes += checkpoint.num_bytes();
  const auto num_pruned = static_cast<size_t>(pruned.pruned_size());
  const auto num_kept = static_cast<size_t>(pruned.kept_size());
  std::printf("%s forgotten", HowMany(flags.dry_run, num_pruned, num_pruned + num_kept).c_str());
  if (!forgotten.empty()) {
    std::printf("; their files stay, %s in these folders", FormatBytes(num_bytes).c_str());
  }
  std::puts("");
  return absl::OkStatus();
}

}  // namespace

void AddCheckpointPrune(CLI::App* checkpoint, const GlobalOptions* global, Run* run) {
  auto flags = std::make_shared<PruneFlags>();
  CLI::App* command = checkpoint->add_subcommand(
      "prune",
      "Forget checkpoints of a job by count and age, after agents have looked at\n"
      "them. Files are deleted with --delete-files alone. Pinned ones stay, and\n"
      "incomplete ones newer than the newest complete one: they may be being\n"
      "written.");
  command->add_option("job", flags->job, "jobs/ID")
      ->required()
      ->check(NameIn("jobs/"))
      ->type_name("JOB");
  command->add_option("--keep-last", flags->keep_last, "Keep so many of the newest complete ones")
      ->required()
      ->check(WholeNumber(1, kMaxInt32))
      ->type_name("N");
  command
      ->add_option("--older-than", flags->older_than,
                   "Forget only those registered longer ago: 7d, 36h, 90m, 3600s")
      ->check(kAge)
      ->type_name("AGE");
  command->add_flag("--delete-files", flags->delete_files,
                    "Delete the folders of their tags, too, as this machine sees them; what is\n"
                    "not what the agents saw, is named by `latest`, holds other files or is\n"
                    "registered by another job stays, and is not forgotten");
  command->add_flag("--dry-run", flags->dry_run,
                    "Say what would be forgotten or deleted, and how much that frees; do nothing");
  command->callback(
      [flags, global, run] { *run = [flags, global] { return RunPrune(*global, *flags); }; });
}

}  // namespace zerocast
