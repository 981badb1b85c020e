// What `zerocast checkpoint` does with the checkpoints that a server keeps.
#include <google/protobuf/util/time_util.h>

#include <CLI/CLI.hpp>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "client/cli/checkpoint_commands.h"
#include "client/cli/job_flags.h"
#include "client/cli/output.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/base/utf8.h"
#include "server/wire/status.h"

namespace zerocast {
namespace {

using Json = nlohmann::ordered_json;
using ::google::protobuf::util::TimeUtil;

constexpr int64_t kMaxInt32 = std::numeric_limits<int32_t>::max();

std::string StateName(const v1::Checkpoint& checkpoint) {
  switch (checkpoint.state()) {
    case v1::CHECKPOINT_STATE_COMPLETE:
      return "complete";
    case v1::CHECKPOINT_STATE_INCOMPLETE:
      return "incomplete";
    case v1::CHECKPOINT_STATE_CHANGED:
      return "changed";
    case v1::CHECKPOINT_STATE_GONE:
      return "gone";
    default:
      return "unknown";
  }
}

std::string TimeText(const google::protobuf::Timestamp& time) {
  // Without fractions: people read it.
  return TimeUtil::ToString(TimeUtil::SecondsToTimestamp(time.seconds()));
}

Json CheckpointJson(const v1::Checkpoint& checkpoint) {
  Json document = {{"checkpoint", checkpoint.name()},
                   {"job", checkpoint.job()},
                   {"path", checkpoint.path()},
                   {"tag", checkpoint.tag()},
                   {"step", checkpoint.step()},
                   {"state", StateName(checkpoint)},
                   {"complete", checkpoint.complete()},
                   {"pinned", checkpoint.pinned()},
                   {"digest", checkpoint.digest()},
                   {"world_size", checkpoint.world_size()},
                   {"zero_stage", checkpoint.zero_stage()},
                   {"num_files", checkpoint.num_files()},
                   {"num_bytes", checkpoint.num_bytes()},
                   {"looked_by", checkpoint.looked_by()},
                   {"etag", checkpoint.etag()}};
  const auto add_time = [&document](const char* key, bool has, const auto& time) {
    document[key] = has ? Json(TimeUtil::ToString(time)) : Json(nullptr);
  };
  add_time("create_time", checkpoint.has_create_time() && !checkpoint.name().empty(),
           checkpoint.create_time());
  add_time("save_time", checkpoint.has_save_time(), checkpoint.save_time());
  add_time("look_time", checkpoint.has_look_time(), checkpoint.look_time());
  if (checkpoint.has_problem()) {
    document["problem"] = {{"reason", checkpoint.problem().reason()},
                           {"message", checkpoint.problem().message()}};
  }
  return document;
}

template <typename Checkpoints>
Json ListJson(const Checkpoints& checkpoints) {
  Json list = Json::array();
  for (const v1::Checkpoint& checkpoint : checkpoints) list.push_back(CheckpointJson(checkpoint));
  return list;
}

// A table for each folder and job; beside each other their names would need more than 80 columns.
template <typename Checkpoints>
std::string TablesText(const Checkpoints& checkpoints) {
  std::vector<std::string> titles;  // in the order in which they come
  std::map<std::string, std::vector<std::vector<std::string>>> rows_of;
  for (const v1::Checkpoint& checkpoint : checkpoints) {
    const std::string title = absl::StrCat(
        checkpoint.path(), checkpoint.job().empty() ? "" : absl::StrCat(" of ", checkpoint.job()));
    auto& rows = rows_of[title];
    if (rows.empty()) {
      titles.push_back(title);
      rows.push_back({"checkpoint", "tag", "state", "size"});
    }
    rows.push_back({checkpoint.name().empty() ? "-" : checkpoint.name(),
                    EscapeControls(checkpoint.tag()),
                    absl::StrCat(StateName(checkpoint), checkpoint.pinned() ? ", pinned" : ""),
                    FormatBytes(checkpoint.num_bytes())});
  }
  std::string text;
  for (const std::string& title : titles) {
    absl::StrAppend(&text, text.empty() ? "" : "\n", EscapeControls(title), "\n",
                    FormatTable(rows_of[title]));
  }
  return text;
}

// A line for each that is not complete.
template <typename Checkpoints>
std::string ProblemsText(const Checkpoints& checkpoints) {
  std::string text;
  for (const v1::Checkpoint& checkpoint : checkpoints) {
    if (!checkpoint.has_problem()) continue;
    absl::StrAppend(&text, EscapeControls(checkpoint.tag()), " is ", StateName(checkpoint), ": ",
                    EscapeControls(checkpoint.problem().message()), "\n");
  }
  return text;
}

std::string DetailsText(const v1::Checkpoint& checkpoint) {
  const auto number = [](int64_t value, bool known) {
    return known ? absl::StrCat(value) : "not known";
  };
  std::string text = absl::StrCat(
      checkpoint.name(), " of ", checkpoint.job(), "\nfolder      ",
      EscapeControls(checkpoint.path()), "/", EscapeControls(checkpoint.tag()), "\nstate       ",
      StateName(checkpoint), checkpoint.pinned() ? ", pinned" : "", "\nstep        ",
      checkpoint.step(), "\nranks       ",
      number(checkpoint.world_size(), checkpoint.world_size() > 0), ", ZeRO stage ",
      number(checkpoint.zero_stage(), checkpoint.zero_stage() >= 0), "\nfiles       ",
      checkpoint.num_files(), ", ", FormatBytes(checkpoint.num_bytes()), "\nsaved       ",
      checkpoint.has_save_time() ? TimeText(checkpoint.save_time()) : "not known", "\nregistered  ",
      TimeText(checkpoint.create_time()), "\nlooked at   ", TimeText(checkpoint.look_time()),
      checkpoint.looked_by().empty() ? "" : absl::StrCat(" on node ", checkpoint.looked_by()),
      "\ndigest      ", checkpoint.digest().empty() ? "none yet" : checkpoint.digest(), "\n");
  return text;
}

// As the agents see it: what is relative here is made absolute.
std::string AbsoluteFolder(const std::string& folder) {
  std::error_code error;
  const auto absolute = std::filesystem::absolute(folder, error).lexically_normal();
  return error ? folder : absolute.string();
}

struct RegisterFlags {
  std::string folder, job, tag, request_id;
  bool pin = false, validate_only = false;
};

absl::Status RunRegister(const GlobalOptions& global, const RegisterFlags& flags) {
  ZC_ASSIGN_OR_RETURN(const auto client, global.Connect());
  v1::Checkpoint wanted;
  wanted.set_job(flags.job);
  wanted.set_path(AbsoluteFolder(flags.folder));
  wanted.set_tag(flags.tag);
  wanted.set_pinned(flags.pin);
  ZC_ASSIGN_OR_RETURN(const v1::Checkpoint made,
                      client->RegisterCheckpoint(wanted, {flags.request_id, flags.validate_only}));
  if (global.json()) {
    PrintJson(CheckpointJson(made));
    return absl::OkStatus();
  }
  // A line of KEY=VALUE: a batch script reads it as it is.
  if (!flags.validate_only) std::printf("ZEROCAST_CHECKPOINT=%s\n", made.name().c_str());
  if (flags.validate_only) std::puts("valid; nothing was registered");
  if (made.complete()) std::printf("%s is complete\n", EscapeControls(made.tag()).c_str());
  std::fputs(ProblemsText(std::vector<v1::Checkpoint>{made}).c_str(), stdout);
  return absl::OkStatus();
}

absl::Status RunList(const GlobalOptions& global, Client::ListCheckpointsOptions options) {
  ZC_ASSIGN_OR_RETURN(const auto client, global.Connect());
  if (!options.path.empty()) options.path = AbsoluteFolder(options.path);
  ZC_ASSIGN_OR_RETURN(const std::vector<v1::Checkpoint> checkpoints,
                      client->ListCheckpoints(options));
  if (global.json()) {
    PrintJson({{"checkpoints", ListJson(checkpoints)}});
    return absl::OkStatus();
  }
  if (checkpoints.empty()) std::puts("no checkpoints are registered");
  std::fputs((TablesText(checkpoints) + ProblemsText(checkpoints)).c_str(), stdout);
  return absl::OkStatus();
}

absl::Status RunGet(const GlobalOptions& global, const std::string& name, bool verify) {
  ZC_ASSIGN_OR_RETURN(const auto client, global.Connect());
  ZC_ASSIGN_OR_RETURN(const v1::Checkpoint checkpoint, client->GetCheckpoint(name, verify));
  const absl::Status problem = StatusFromFailure(checkpoint.problem());
  // Whoever has it verified wants to know by the exit code; JSON holds one document.
  if (verify && !problem.ok()) {
    if (global.json()) SetErrorContext(CheckpointJson(checkpoint));
    if (!global.json()) std::fputs(DetailsText(checkpoint).c_str(), stdout);
    return Annotate(problem, absl::StrCat(name, " is ", StateName(checkpoint)));
  }
  if (global.json()) {
    PrintJson(CheckpointJson(checkpoint));
    return absl::OkStatus();
  }
  std::fputs(DetailsText(checkpoint).c_str(), stdout);
  if (!problem.ok()) {
    std::printf("problem     %s\n", EscapeControls(problem.message()).c_str());
  }
  return absl::OkStatus();
}

absl::Status RunLatest(const GlobalOptions& global, const std::string& where) {
  ZC_ASSIGN_OR_RETURN(const auto client, global.Connect());
  v1::FindLatestCheckpointRequest request;
  if (absl::StartsWith(where, "jobs/")) {
    request.set_job(where);
  } else {
    request.set_path(AbsoluteFolder(where));
  }
  ZC_ASSIGN_OR_RETURN(const v1::FindLatestCheckpointResponse found,
                      client->FindLatestCheckpoint(request));
  if (global.json()) {
    PrintJson({{"checkpoint", CheckpointJson(found.checkpoint())},
               {"latest_tag", found.latest_tag()},
               {"differs", found.differs()},
               {"difference", found.difference()},
               {"passed_over", ListJson(found.passed_over())}});
    return absl::OkStatus();
  }
  // Lines of KEY=VALUE: a batch script reads them as they are.
  std::printf("ZEROCAST_CHECKPOINT=%s\nZEROCAST_CHECKPOINT_PATH=%s\nZEROCAST_CHECKPOINT_TAG=%s\n",
              found.checkpoint().name().c_str(), found.checkpoint().path().c_str(),
              found.checkpoint().tag().c_str());
  if (found.differs()) {
    std::printf("differs from latest: %s\n", EscapeControls(found.difference()).c_str());
  }
  std::fputs(ProblemsText(found.passed_over()).c_str(), stdout);
  return absl::OkStatus();
}

absl::Status RunPin(const GlobalOptions& global, const std::string& name, bool pinned) {
  ZC_ASSIGN_OR_RETURN(const auto client, global.Connect());
  ZC_ASSIGN_OR_RETURN(const v1::Checkpoint checkpoint,
                      pinned ? client->PinCheckpoint(name) : client->UnpinCheckpoint(name));
  if (global.json()) PrintJson(CheckpointJson(checkpoint));
  if (!global.json()) std::printf("%s %s\n", name.c_str(), pinned ? "pinned" : "unpinned");
  return absl::OkStatus();
}

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
};

absl::Status RunPrune(const GlobalOptions& global, const PruneFlags& flags) {
  ZC_ASSIGN_OR_RETURN(const auto client, global.Connect());
  v1::PruneCheckpointsRequest request;
  request.set_job(flags.job);
  request.set_keep_last(flags.keep_last);
  if (!flags.older_than.empty()) {
    request.mutable_older_than()->set_seconds(AgeSeconds(flags.older_than));
  }
  request.set_validate_only(flags.dry_run);
  ZC_ASSIGN_OR_RETURN(const v1::PruneCheckpointsResponse pruned, client->PruneCheckpoints(request));
  if (global.json()) {
    PrintJson({{"dry_run", flags.dry_run},
               {"pruned", ListJson(pruned.pruned())},
               {"kept", ListJson(pruned.kept())}});
    return absl::OkStatus();
  }
  std::fputs(TablesText(pruned.pruned()).c_str(), stdout);
  int64_t num_bytes = 0;
  for (const v1::Checkpoint& checkpoint : pruned.pruned()) num_bytes += checkpoint.num_bytes();
  std::printf("%s%d of %d forgotten", flags.dry_run ? "dry run: would be " : "",
              pruned.pruned_size(), pruned.pruned_size() + pruned.kept_size());
  if (!pruned.pruned().empty()) {
    std::printf("; their files stay, %s in these folders", FormatBytes(num_bytes).c_str());
  }
  std::puts("");
  return absl::OkStatus();
}

absl::Status RunDelete(const GlobalOptions& global, const std::string& name) {
  ZC_ASSIGN_OR_RETURN(const auto client, global.Connect());
  ZC_RETURN_IF_ERROR(client->DeleteCheckpoint(name, ""));
  if (global.json()) PrintJson({{"deleted", name}});
  if (!global.json()) std::printf("%s forgotten; its files stay\n", name.c_str());
  return absl::OkStatus();
}

CLI::Validator StartsWith(const char* prefix) {
  return CLI::Validator(
      [prefix](const std::string& name) -> std::string {
        return absl::StartsWith(name, prefix)
                   ? ""
                   : absl::StrCat("\"", name, "\" is not ", prefix, "ID");
      },
      "");
}

// A subcommand that takes the name of a checkpoint.
template <typename Function>
CLI::App* AddNamed(CLI::App* parent, const char* name, const char* help,
                   const GlobalOptions* global, Run* run, Function function) {
  auto checkpoint = std::make_shared<std::string>();
  CLI::App* command = parent->add_subcommand(name, help);
  command->add_option("name", *checkpoint, "checkpoints/ID")
      ->required()
      ->check(StartsWith("checkpoints/"))
      ->type_name("NAME");
  command->callback([checkpoint, global, run, function] {
    *run = [checkpoint, global, function] { return function(*global, *checkpoint); };
  });
  return command;
}

constexpr char kVerify[] = "Have agents look at the files first";

}  // namespace

void AddCheckpointRegister(CLI::App* checkpoint, const GlobalOptions* global, Run* run) {
  auto flags = std::make_shared<RegisterFlags>();
  CLI::App* command = checkpoint->add_subcommand(
      "register",
      "Register a checkpoint that a job has written with a server.\n"
      "An agent looks at its files first; an incomplete one is registered as such.");
  command->add_option("dir", flags->folder, "The folder that training saves to")
      ->required()
      ->check(kNotEmpty)
      ->type_name("DIR");
  command->add_option("--job", flags->job, "The job that wrote it: jobs/ID")
      ->required()
      ->envname("ZEROCAST_JOB")
      ->check(StartsWith("jobs/"))
      ->type_name("JOB");
  command->add_option("--tag", flags->tag, "Its tag (default: the one that DIR/latest names)")
      ->check(kNotEmpty)
      ->type_name("TAG");
  command->add_flag("--pin", flags->pin, "Keep it from being pruned");
  command->add_option("--request-id", flags->request_id, "Repeating it with the same id is one")
      ->type_name("ID");
  command->add_flag("--validate-only", flags->validate_only, "Check everything, register nothing");
  command->callback(
      [flags, global, run] { *run = [flags, global] { return RunRegister(*global, *flags); }; });
}

void AddCheckpointList(CLI::App* checkpoint, const GlobalOptions* global, Run* run) {
  auto options = std::make_shared<Client::ListCheckpointsOptions>();
  CLI::App* command = checkpoint->add_subcommand(
      "list", "List the checkpoints that a server keeps, those registered last first.");
  command->add_option("--job", options->job, "Only those of this job: jobs/ID")
      ->check(StartsWith("jobs/"))
      ->type_name("JOB");
  command->add_option("--dir", options->path, "Only those in this folder")
      ->check(kNotEmpty)
      ->type_name("DIR");
  command->add_flag("--verify", options->verify, kVerify);
  command->callback(
      [options, global, run] { *run = [options, global] { return RunList(*global, *options); }; });
}

void AddCheckpointGet(CLI::App* checkpoint, const GlobalOptions* global, Run* run) {
  auto verify = std::make_shared<bool>(false);
  AddNamed(checkpoint, "get", "Show a registered checkpoint.", global, run,
           [verify](const GlobalOptions& options, const std::string& name) {
             return RunGet(options, name, *verify);
           })
      ->add_flag("--verify", *verify,
                 absl::StrCat(kVerify, ";\nexit 3, 4 or 6 when it is gone, changed or torn"));
}

void AddCheckpointLatest(CLI::App* checkpoint, const GlobalOptions* global, Run* run) {
  auto where = std::make_shared<std::string>();
  CLI::App* command = checkpoint->add_subcommand(
      "latest",
      "Find the newest complete checkpoint, whatever the file latest says, and\n"
      "tell where the two differ. Of a job, among those that it has registered;\n"
      "of a folder, among all that it holds.");
  command->add_option("where", *where, "jobs/ID, or a folder that training saves to")
      ->required()
      ->check(kNotEmpty)
      ->type_name("JOB|DIR");
  command->callback(
      [where, global, run] { *run = [where, global] { return RunLatest(*global, *where); }; });
}

void AddCheckpointPin(CLI::App* checkpoint, const GlobalOptions* global, Run* run) {
  AddNamed(checkpoint, "pin", "Keep a checkpoint from being pruned.", global, run,
           [](const GlobalOptions& options, const std::string& name) {
             return RunPin(options, name, true);
           });
}

void AddCheckpointUnpin(CLI::App* checkpoint, const GlobalOptions* global, Run* run) {
  AddNamed(checkpoint, "unpin", "End pin.", global, run,
           [](const GlobalOptions& options, const std::string& name) {
             return RunPin(options, name, false);
           });
}

void AddCheckpointPrune(CLI::App* checkpoint, const GlobalOptions* global, Run* run) {
  auto flags = std::make_shared<PruneFlags>();
  CLI::App* command = checkpoint->add_subcommand(
      "prune",
      "Forget checkpoints of a job by count and age, after agents have looked at\n"
      "them. Files are not deleted. Pinned ones stay, and incomplete ones newer\n"
      "than the newest complete one: they may be being written.");
  command->add_option("job", flags->job, "jobs/ID")
      ->required()
      ->check(StartsWith("jobs/"))
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
  command->add_flag("--dry-run", flags->dry_run, "Say what would be forgotten, forget nothing");
  command->callback(
      [flags, global, run] { *run = [flags, global] { return RunPrune(*global, *flags); }; });
}

void AddCheckpointDelete(CLI::App* checkpoint, const GlobalOptions* global, Run* run) {
  AddNamed(checkpoint, "delete", "Forget a checkpoint that is not pinned. Its files stay.", global,
           run, RunDelete);
}

}  // namespace zerocast
