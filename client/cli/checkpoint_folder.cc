#include "client/cli/checkpoint_folder.h"

#include <cerrno>
#include <cmath>
#include <cstdio>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "client/cli/interruption.h"
#include "client/cli/job_flags.h"
#include "client/cli/output.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/base/utf8.h"

namespace zerocast {
namespace {

constexpr int kMaxThreads = 64;

}  // namespace

void CheckpointFlags::AddTo(CLI::App* command) {
  command
      ->add_option("folder", folder,
                   "Folder that DeepSpeed saved into: the one with `latest`, or a tag's own")
      ->required()
      ->check(kNotEmpty)
      ->type_name("DIR");
  command->add_option("--tag", tag, "Which save (default: what `latest` says)")
      ->check(kNotEmpty)
      ->type_name("TAG");
}

void OutputFlags::AddOutTo(CLI::App* command) {
  command->add_option("--out", out, "Folder to write: one that is not there yet, or an empty one")
      ->required()
      ->check(kNotEmpty)
      ->type_name("DIR");
}

void OutputFlags::AddThreadsTo(CLI::App* command) {
  command->add_option("--threads", num_threads, "Threads (default: one a processor, at most 8)")
      ->check(WholeNumber(1, kMaxThreads))
      ->type_name("N");
}

FileObserver StopWhenInterrupted() {
  return [](absl::string_view) { return CheckInterrupted(); };
}

absl::StatusOr<ZeroCheckpoint> ReadCheckpoint(const CheckpointFlags& flags) {
  std::vector<absl::Status> problems;
  absl::StatusOr<ZeroCheckpoint> checkpoint =
      ReadZeroCheckpoint(flags.folder, flags.tag, StopWhenInterrupted(), &problems);
  if (problems.size() > 1) {
    nlohmann::ordered_json messages = nlohmann::ordered_json::array();
    std::vector<std::string> lines;
    for (const absl::Status& problem : problems) {
      messages.push_back(std::string(problem.message()));
      lines.push_back(EscapeControls(std::string(problem.message())));
    }
    SetErrorContext({{"problems", std::move(messages)}});
    SetErrorText(absl::StrCat(problems.size(), " things are wrong with the checkpoint:\n  ",
                              absl::StrJoin(lines, "\n  ")));
  }
  return checkpoint;
}

absl::Status WriteFolder(const std::string& path,
                         const std::function<absl::Status(const OutputFolder&)>& fill) {
  // From before the folder is there: without any action a signal would end the process at once.
  const OnInterrupt in_order({});
  ZC_ASSIGN_OR_RETURN(OutputFolder folder, OutputFolder::Create(path));
  OnInterrupt::Actions actions;
  actions.at_end = [staging = folder.staging()] { RemoveForGood(staging); };
  const OnInterrupt on_interrupt(std::move(actions));
  ZC_RETURN_IF_ERROR(CheckInterrupted());
  ZC_RETURN_IF_ERROR(fill(folder));
  ZC_RETURN_IF_ERROR(CheckInterrupted());
  return folder.Commit();
}

PieceCopier::Options CopyOptions(const OutputFlags& flags, CopyProgress* progress) {
  PieceCopier::Options options;
  options.num_threads = flags.num_threads;
  options.about_to = StopWhenInterrupted();
  options.keep_going = CheckInterrupted;
  options.progress = [progress](int64_t num_bytes) { progress->Add(num_bytes); };
  return options;
}

absl::Status PrintReport(const GlobalOptions& global, const nlohmann::ordered_json& json,
                         const std::string& text) {
  if (global.json()) {
    PrintJson(json);
  } else {
    std::fputs(text.c_str(), stdout);
  }
  if (std::fflush(stdout) != 0) return ErrnoStatus(errno, "write the report to stdout");
  return absl::OkStatus();
}

absl::StatusOr<int64_t> ParseShardSize(const std::string& text) {
  const std::string upper = absl::AsciiStrToUpper(absl::StripAsciiWhitespace(text));
  absl::string_view digits = upper;
  double factor = 1;
  if (absl::ConsumeSuffix(&digits, "B")) {
    const double base = absl::ConsumeSuffix(&digits, "I") ? 1024 : 1000;
    const size_t unit =
        digits.empty() ? absl::string_view::npos : absl::string_view("KMGT").find(digits.back());
    if (unit != absl::string_view::npos) {
      factor = std::pow(base, static_cast<double>(unit + 1));
      digits.remove_suffix(1);
    } else if (base > 1000) {
      digits = "";
    }
  }
  double value = 0;
  if (!absl::SimpleAtod(digits, &value) || !(value * factor >= 1) || value * factor > 9e18) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", text, "\" is not a size; write for example 5GB, 500MB or 4GiB"));
  }
  return static_cast<int64_t>(value * factor);
}

}  // namespace zerocast
