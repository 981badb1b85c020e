// What `zerocast checkpoint` does with the checkpoints that a server keeps.
#include <CLI/CLI.hpp>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/cli/checkpoint_commands.h"
#include "client/cli/checkpoint_output.h"
#include "client/cli/job_flags.h"
#include "client/cli/output.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/base/utf8.h"
#include "server/wire/status.h"

namespace zerocast {
namespace {

using Json = nlohmann::ordered_json;

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
  std::fputs(ProblemsText({made}).c_str(), stdout);
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
  const std::vector<v1::Checkpoint> passed_over(found.passed_over().begin(),
                                                found.passed_over().end());
  if (global.json()) {
    PrintJson({{"checkpoint", CheckpointJson(found.checkpoint())},
               {"latest_tag", found.latest_tag()},
               {"differs", found.differs()},
               {"difference", found.difference()},
               {"passed_over", ListJson(passed_over)}});
    return absl::OkStatus();
  }
  // Lines of KEY=VALUE: a batch script reads them as they are.
  std::printf("ZEROCAST_CHECKPOINT=%s\nZEROCAST_CHECKPOINT_PATH=%s\nZEROCAST_CHECKPOINT_TAG=%s\n",
              found.checkpoint().name().c_str(), found.checkpoint().path().c_str(),
              found.checkpoint().tag().c_str());
  if (found.differs()) {
    std::printf("differs from latest: %s\n", EscapeControls(found.difference()).c_str());
  }
  std::fputs(ProblemsText(passed_over).c_str(), stdout);
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

absl::Status RunDelete(const GlobalOptions& global, const std::string& name) {
  ZC_ASSIGN_OR_RETURN(const auto client, global.Connect());
  ZC_RETURN_IF_ERROR(client->DeleteCheckpoint(name, ""));
  if (global.json()) PrintJson({{"deleted", name}});
  if (!global.json()) std::printf("%s forgotten; its files stay\n", name.c_str());
  return absl::OkStatus();
}

// A subcommand that takes the name of a checkpoint.
template <typename Function>
CLI::App* AddNamed(CLI::App* parent, const char* name, const char* help,
                   const GlobalOptions* global, Run* run, Function function) {
  auto checkpoint = std::make_shared<std::string>();
  CLI::App* command = parent->add_subcommand(name, help);
  command->add_option("name", *checkpoint, "checkpoints/ID")
      ->required()
      ->check(NameIn("checkpoints/"))
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
      ->check(NameIn("jobs/"))
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
      ->check(NameIn("jobs/"))
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

void AddCheckpointDelete(CLI::App* checkpoint, const GlobalOptions* global, Run* run) {
  AddNamed(checkpoint, "delete", "Forget a checkpoint that is not pinned. Its files stay.", global,
           run, RunDelete);
}

}  // namespace zerocast
