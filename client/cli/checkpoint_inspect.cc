// `zerocast checkpoint inspect`: what is in a folder of DeepSpeed checkpoints.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/cli/checkpoint_commands.h"
#include "client/cli/checkpoint_folder.h"
#include "client/cli/checkpoint_optimizer.h"
#include "client/cli/output.h"
#include "client/formats/deepspeed/zero_checkpoint.h"
#include "client/formats/deepspeed/zero_files.h"
#include "client/formats/deepspeed/zero_reader.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/base/utf8.h"

namespace zerocast {
namespace {

using Json = nlohmann::ordered_json;

// The number that a tag ends with; -1 where it has none.
int64_t StepOfTag(const std::string& tag) {
  size_t begin = tag.size();
  while (begin > 0 && tag[begin - 1] >= '0' && tag[begin - 1] <= '9') --begin;
  int64_t step = -1;
  return absl::SimpleAtoi(tag.substr(begin), &step) ? step : -1;
}

Json NumberOrNull(int64_t number) { return number < 0 ? Json(nullptr) : Json(number); }

std::string Precision(const ZeroCheckpoint& checkpoint) {
  if (checkpoint.settings.bf16) return "bf16";
  return checkpoint.settings.fp16 ? "fp16" : "fp32";
}

// DeepSpeed's own has a space behind it.
std::string Version(const ZeroCheckpoint& checkpoint) {
  return std::string(absl::StripAsciiWhitespace(checkpoint.version));
}

struct Amount {
  int64_t count = 0, elements = 0, bytes = 0;

  Json ToJson() const { return {{"count", count}, {"elements", elements}, {"bytes", bytes}}; }
};

// Parameters by kind; bytes are those of their values in the dtype of training.
struct Amounts {
  Amount all, trained, frozen, absent;
  int64_t tied = 0;  // further names
};

Amounts AmountsOf(const ZeroCheckpoint& checkpoint) {
  Amounts amounts;
  for (const ZeroParameter& parameter : checkpoint.parameters) {
    const auto add = [&](Amount* amount) {
      ++amount->count;
      amount->elements += parameter.num_elements;
      amount->bytes += parameter.num_elements * SizeOf(parameter.dtype);
    };
    add(&amounts.all);
    add(parameter.is_trained ? &amounts.trained : &amounts.frozen);
    if (parameter.is_absent()) add(&amounts.absent);
    amounts.tied += static_cast<int64_t>(parameter.aliases.size());
  }
  return amounts;
}

Json ParametersJson(const ZeroCheckpoint& checkpoint) {
  const Amounts amounts = AmountsOf(checkpoint);
  Json tensors = Json::array();
  for (const ZeroParameter& parameter : checkpoint.parameters) {
    tensors.push_back({{"name", parameter.name},
                       {"shape", parameter.shape},
                       {"dtype", DTypeName(parameter.dtype)},
                       {"trained", parameter.is_trained},
                       {"group", NumberOrNull(parameter.group)},
                       {"aliases", parameter.aliases},
                       {"absent", parameter.is_absent()}});
  }
  return {{"count", amounts.all.count},
          {"elements", amounts.all.elements},
          {"bytes", amounts.all.bytes},
          {"trained", amounts.trained.ToJson()},
          {"frozen", amounts.frozen.ToJson()},
          {"absent", amounts.absent.ToJson()},
          {"excludes_frozen", checkpoint.excludes_frozen},
          {"tied", amounts.tied},
          {"tensors", std::move(tensors)}};
}

Json BuffersJson(const ZeroCheckpoint& checkpoint) {
  Json buffers = Json::array();
  for (const ZeroBuffer& buffer : checkpoint.buffers) {
    buffers.push_back(
        {{"name", buffer.name}, {"shape", buffer.shape}, {"dtype", DTypeName(buffer.value.dtype)}});
  }
  return buffers;
}

// Files in the tag's folder and below, what was read and what was not.
struct FolderFile {
  std::string path;  // relative to the folder
  int64_t num_bytes = 0;
};

std::vector<FolderFile> FilesOf(const std::string& folder, const std::string& tag) {
  std::vector<FolderFile> files;
  std::error_code error;
  using Walk = std::filesystem::recursive_directory_iterator;
  for (Walk entry(folder + "/" + tag, error), end; !error && entry != end; entry.increment(error)) {
    std::error_code not_there;
    if (!entry->is_regular_file(not_there)) continue;
    const auto num_bytes = static_cast<int64_t>(entry->file_size(not_there));
    if (not_there) continue;
    files.push_back({entry->path().string().substr(folder.size() + 1), num_bytes});
  }
  std::sort(files.begin(), files.end(),
            [](const FolderFile& a, const FolderFile& b) { return a.path < b.path; });
  return files;
}

struct Inspection {
  ZeroFolder folder;
  ZeroCheckpoint checkpoint;  // without problems whole, else what could be read
  std::vector<FolderFile> files;
  std::vector<OptimizerGroup> groups;
  std::vector<absl::Status> problems;
};

Inspection Inspect(const CheckpointFlags& flags) {
  Inspection found;
  const FileObserver about_to = StopWhenInterrupted();
  absl::StatusOr<ZeroFolder> folder = ListZeroFolder(flags.folder, about_to);
  if (!folder.ok()) {
    found.problems.push_back(folder.status());
    return found;
  }
  found.folder = *std::move(folder);
  ZeroReader reader(about_to, &found.problems);
  reader.Read(flags.folder, flags.tag);
  found.checkpoint = reader.TakeResult();
  if (!found.checkpoint.tag.empty()) {
    found.files = FilesOf(found.folder.folder, found.checkpoint.tag);
  }
  if (found.problems.empty() && found.checkpoint.optimizer_file != nullptr) {
    absl::StatusOr<std::vector<OptimizerGroup>> groups = OptimizerGroups(found.checkpoint);
    if (groups.ok()) {
      found.groups = *std::move(groups);
    } else {
      found.problems.push_back(groups.status());
    }
  }
  return found;
}

Json InspectionJson(const Inspection& found) {
  const ZeroCheckpoint& checkpoint = found.checkpoint;
  Json document = {{"folder", found.folder.folder}};
  Json tags = Json::array();
  for (const std::string& tag : found.folder.tags) {
    tags.push_back({{"tag", tag}, {"step", NumberOrNull(StepOfTag(tag))}});
  }
  document["tags"] = std::move(tags);
  document["latest"] = found.folder.latest.empty() ? Json(nullptr) : Json(found.folder.latest);
  document["tag"] = checkpoint.tag.empty() ? Json(nullptr) : Json(checkpoint.tag);
  document["complete"] = found.problems.empty();
  if (checkpoint.world_size > 0) {
    document["step"] = NumberOrNull(checkpoint.global_steps);
    document["samples"] = NumberOrNull(checkpoint.global_samples);
    document["skipped_steps"] = NumberOrNull(checkpoint.skipped_steps);
    document["world_size"] = checkpoint.world_size;
    document["stage"] = checkpoint.stage;
    document["universal"] = checkpoint.is_universal;
    document["precision"] = Precision(checkpoint);
    document["deepspeed_version"] = Version(checkpoint);
  }
  if (found.problems.empty()) {
    document["parameters"] = ParametersJson(checkpoint);
    document["buffers"] = BuffersJson(checkpoint);
    Json optimizer = nullptr;
    if (!checkpoint.state_names.empty()) {
      Json groups = Json::array();
      for (const OptimizerGroup& group : found.groups) groups.push_back(group.ToJson());
      optimizer = {
          {"states", checkpoint.state_names},
          {"other_states", checkpoint.other_states},
          {"step", checkpoint.optimizer_step < 0 ? Json(nullptr) : Json(checkpoint.optimizer_step)},
          {"groups", std::move(groups)}};
    }
    document["optimizer"] = std::move(optimizer);
  }
  Json files = Json::array();
  int64_t bytes = 0;
  for (const FolderFile& file : found.files) {
    files.push_back({{"path", file.path}, {"bytes", file.num_bytes}});
    bytes += file.num_bytes;
  }
  document["files"] = std::move(files);
  document["bytes"] = bytes;
  Json problems = Json::array();
  for (const absl::Status& problem : found.problems) {
    problems.push_back({{"code", absl::StatusCodeToString(problem.code())},
                        {"reason", ReasonOf(problem)},
                        {"message", std::string(problem.message())}});
  }
  document["problems"] = std::move(problems);
  return document;
}

// "1.23e9" is no number of parameters to read: "1,230,000,000".
std::string Grouped(int64_t number) {
  std::string digits = absl::StrCat(number);
  for (size_t at = digits.size(); at > 3;) digits.insert(at -= 3, ",");
  return digits;
}

// One list over as many lines of 80 columns as it needs, the first after `title`.
std::string Wrapped(absl::string_view title, const std::vector<std::string>& words) {
  constexpr size_t kColumns = 80, kIndent = 14;
  std::string text, line = absl::StrFormat("%-14s", title);
  for (size_t k = 0; k < words.size(); ++k) {
    const std::string word = absl::StrCat(words[k], k + 1 < words.size() ? "," : "");
    if (line.size() > kIndent && line.size() + 1 + word.size() > kColumns) {
      absl::StrAppend(&text, line, "\n");
      line = std::string(kIndent, ' ');
    }
    absl::StrAppend(&line, line.size() > kIndent ? " " : "", word);
  }
  return absl::StrCat(text, line, "\n");
}

std::vector<std::string> TagWords(const ZeroFolder& folder) {
  constexpr size_t kShown = 12;
  std::vector<std::string> words;
  const size_t from = folder.tags.size() > kShown ? folder.tags.size() - kShown : 0;
  if (from > 0) words.push_back(absl::StrCat(from, " older ones"));
  for (size_t k = from; k < folder.tags.size(); ++k) {
    words.push_back(EscapeControls(folder.tags[k]));
  }
  if (words.empty()) words.emplace_back("none");
  return words;
}

std::string ParametersTable(const ZeroCheckpoint& checkpoint) {
  const Amounts amounts = AmountsOf(checkpoint);
  std::vector<std::vector<std::string>> rows = {{"parameters", "tensors", "elements", "size"}};
  const auto add = [&](const char* name, const Amount& amount) {
    rows.push_back(
        {name, Grouped(amount.count), Grouped(amount.elements), FormatBytes(amount.bytes)});
  };
  add("trained", amounts.trained);
  if (amounts.frozen.count > 0) add("frozen", amounts.frozen);
  if (amounts.absent.count > 0) add("not saved", amounts.absent);
  if (amounts.frozen.count > 0) add("all", amounts.all);
  std::string text = FormatTable(rows);
  std::vector<std::string> ties, absent;
  for (const ZeroParameter& parameter : checkpoint.parameters) {
    for (const std::string& alias : parameter.aliases) {
      ties.push_back(EscapeControls(absl::StrCat(alias, " = ", parameter.name)));
    }
    if (parameter.is_absent()) absent.push_back(EscapeControls(parameter.name));
  }
  if (!ties.empty()) absl::StrAppend(&text, Wrapped("tied", ties));
  if (!absent.empty()) absl::StrAppend(&text, Wrapped("not saved", absent));
  if (checkpoint.excludes_frozen) {
    absl::StrAppend(&text, Wrapped("not named", {"frozen parameters, if any "
                                                 "(exclude_frozen_parameters)"}));
  }
  return text;
}

std::string OptimizerTable(const Inspection& found) {
  const ZeroCheckpoint& checkpoint = found.checkpoint;
  if (checkpoint.state_names.empty()) return "no optimizer\n";
  std::string text = Wrapped("optimizer", checkpoint.state_names);
  if (checkpoint.optimizer_step >= 0) {
    absl::StrAppend(&text,
                    Wrapped("its step", {absl::StrFormat("%.15g", checkpoint.optimizer_step)}));
  }
  std::vector<std::vector<std::string>> rows = {
      {"group", "tensors", "elements", "lr", "weight decay"}};
  for (const OptimizerGroup& group : found.groups) {
    rows.push_back({absl::StrCat(rows.size() - 1), Grouped(group.num_parameters),
                    Grouped(group.num_elements), group.Text("lr"), group.Text("weight_decay")});
  }
  if (rows.size() > 1) absl::StrAppend(&text, FormatTable(rows));
  return text;
}

std::string InspectionText(const Inspection& found) {
  const ZeroCheckpoint& checkpoint = found.checkpoint;
  const auto line = [](absl::string_view title, const std::string& value) {
    return absl::StrFormat("%-14s%s\n", title, value);
  };
  std::string text = line("folder", EscapeControls(found.folder.folder));
  absl::StrAppend(&text, Wrapped("tags", TagWords(found.folder)));
  absl::StrAppend(
      &text, line("latest", found.folder.latest.empty() ? "no such file"
                                                        : EscapeControls(found.folder.latest)));
  if (!checkpoint.tag.empty()) {
    absl::StrAppend(&text, line("tag", EscapeControls(checkpoint.tag)));
  }
  if (checkpoint.world_size > 0) {
    absl::StrAppend(
        &text, line("step", checkpoint.global_steps < 0 ? "not known"
                                                        : absl::StrCat(checkpoint.global_steps)));
    if (checkpoint.skipped_steps > 0) {
      absl::StrAppend(&text, line("skipped", absl::StrCat(checkpoint.skipped_steps)));
    }
    absl::StrAppend(
        &text,
        line("saved by",
             absl::StrCat(checkpoint.world_size, checkpoint.world_size == 1 ? " rank" : " ranks",
                          ", ZeRO stage ", checkpoint.stage, ", ", Precision(checkpoint),
                          checkpoint.is_universal ? ", universal" : "")));
    if (!Version(checkpoint).empty()) {
      absl::StrAppend(&text, line("DeepSpeed", EscapeControls(Version(checkpoint))));
    }
  }
  if (found.problems.empty()) {
    absl::StrAppend(&text, "\n", ParametersTable(checkpoint));
    if (!checkpoint.buffers.empty()) {
      absl::StrAppend(&text, line("buffers", absl::StrCat(checkpoint.buffers.size())));
    }
    absl::StrAppend(&text, "\n", OptimizerTable(found));
  }
  if (!found.files.empty()) {
    // A universal folder has some for each parameter.
    constexpr size_t kShown = 40;
    int64_t bytes = 0;
    for (const FolderFile& file : found.files) bytes += file.num_bytes;
    absl::StrAppend(&text, "\n", found.files.size(),
                    found.files.size() == 1 ? " file, " : " files, ", FormatBytes(bytes), "\n");
    for (size_t k = 0; k < std::min(found.files.size(), kShown); ++k) {
      absl::StrAppendFormat(&text, "%9s  %s\n", FormatBytes(found.files[k].num_bytes),
                            EscapeControls(found.files[k].path.substr(checkpoint.tag.size() + 1)));
    }
    if (found.files.size() > kShown) {
      absl::StrAppend(&text, "  ... and ", found.files.size() - kShown,
                      " more (--output json has all)\n");
    }
  }
  if (found.problems.size() > 1) {
    absl::StrAppend(&text, "\n", found.problems.size(), " problems:\n");
    for (const absl::Status& problem : found.problems) {
      absl::StrAppend(&text, "  ", EscapeControls(std::string(problem.message())), "\n");
    }
  }
  return text;
}

absl::Status RunInspect(const GlobalOptions& global, const CheckpointFlags& flags) {
  const Inspection found = Inspect(flags);
  // Without a folder there is nothing to tell of.
  if (found.folder.folder.empty()) return found.problems.front();
  if (!global.json()) {
    std::fputs(InspectionText(found).c_str(), stdout);
  } else if (found.problems.empty()) {
    PrintJson(InspectionJson(found));
  } else {
    SetErrorContext(InspectionJson(found));
  }
  if (std::fflush(stdout) != 0) return ErrnoStatus(errno, "write the report to stdout");
  return found.problems.empty() ? absl::OkStatus() : found.problems.front();
}

}  // namespace

void AddCheckpointInspect(CLI::App* checkpoint, const GlobalOptions* global, Run* run) {
  auto flags = std::make_shared<CheckpointFlags>();
  CLI::App* inspect = checkpoint->add_subcommand(
      "inspect", "What is in a DeepSpeed folder, and what of it is missing or torn");
  flags->AddTo(inspect);
  inspect->callback(
      [flags, global, run] { *run = [flags, global] { return RunInspect(*global, *flags); }; });
}

}  // namespace zerocast
