// `zerocast checkpoint consolidate` and `export`: a DeepSpeed checkpoint as safetensors files.
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

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "client/cli/checkpoint_commands.h"
#include "client/cli/checkpoint_folder.h"
#include "client/cli/interruption.h"
#include "client/cli/job_flags.h"
#include "client/cli/output.h"
#include "client/cli/progress.h"
#include "client/formats/deepspeed/consolidate.h"
#include "client/formats/deepspeed/export_model.h"
#include "client/formats/deepspeed/model_files.h"
#include "client/formats/file.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/base/utf8.h"
#include "server/conversion/choose_rules.h"

namespace zerocast {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kMaxFileBytes = int64_t{256} << 20;

struct ModelFlags {
  CheckpointFlags checkpoint;
  OutputFlags output;
  std::string dtype, max_shard_size = "5GB";
  bool one_name = false;
  // export alone
  std::string model_spec, model_config, dialect;

  void AddTo(CLI::App* command) {
    checkpoint.AddTo(command);
    output.AddOutTo(command);
    command
        ->add_option("--dtype", dtype,
                     "fp32, bf16 or fp16 for every floating parameter, or stored: the dtype of\n"
                     "training (default: fp32 for trained ones, frozen ones as they are stored)")
        ->check(CLI::IsMember({"fp32", "bf16", "fp16", "stored"}))
        ->type_name("DTYPE");
    command
        ->add_option("--max-shard-size", max_shard_size,
                     "Most bytes of tensors in one file: 5GB, 500MB, 4GiB")
        ->type_name("SIZE")
        ->capture_default_str();
    output.AddThreadsTo(command);
  }
};

ModelDtype DtypeOf(const std::string& name) {
  if (name == "fp32") return ModelDtype::kFloat32;
  if (name == "bf16") return ModelDtype::kBFloat16;
  if (name == "fp16") return ModelDtype::kFloat16;
  return name == "stored" ? ModelDtype::kStored : ModelDtype::kDefault;
}

// What was written.
struct Written {
  std::vector<ModelFile> files;
  std::vector<std::string> copied;
  int64_t num_tensors = 0, num_bytes = 0;
  double seconds = 0;
};

Json WrittenJson(const ZeroCheckpoint& checkpoint, const ModelFlags& flags,
                 const Consolidation& model, const Written& written) {
  std::map<std::string, int64_t> tensors_of;  // by dtype
  for (const ModelTensor& tensor : model.model.tensors) ++tensors_of[DTypeName(tensor.dtype)];
  Json files = Json::array();
  for (const ModelFile& file : written.files) {
    files.push_back(
        {{"name", file.name}, {"bytes", file.num_bytes}, {"tensors", file.num_tensors}});
  }
  Json tied = Json::object();
  for (const auto& [alias, name] : model.tied) tied[alias] = name;
  return {{"folder", checkpoint.folder},
          {"tag", checkpoint.tag},
          {"step", checkpoint.global_steps < 0 ? Json(nullptr) : Json(checkpoint.global_steps)},
          {"world_size", checkpoint.world_size},
          {"stage", checkpoint.stage},
          {"out", flags.output.out},
          {"tensors", written.num_tensors},
          {"bytes", written.num_bytes},
          {"dtypes", tensors_of},
          {"files", std::move(files)},
          {"copied", written.copied},
          {"tied", std::move(tied)},
          {"absent", model.absent},
          {"excludes_frozen", checkpoint.excludes_frozen},
          {"seconds", written.seconds}};
}

std::string WrittenText(const ZeroCheckpoint& checkpoint, const ModelFlags& flags,
                        const Consolidation& model, const Written& written) {
  std::map<std::string, int64_t> tensors_of;
  for (const ModelTensor& tensor : model.model.tensors) ++tensors_of[DTypeName(tensor.dtype)];
  std::vector<std::string> dtypes;
  for (const auto& [name, count] : tensors_of) dtypes.push_back(absl::StrCat(count, " ", name));
  std::string text = absl::StrCat(
      EscapeControls(flags.output.out), "\n  ", FormatBytes(written.num_bytes), " in ",
      written.num_tensors, written.num_tensors == 1 ? " tensor" : " tensors", ", ",
      written.files.size(), written.files.size() == 1 ? " file" : " files",
      absl::StrFormat(", %.2f s, ", written.seconds),
      FormatRate(static_cast<double>(written.num_bytes) / std::max(written.seconds, 1e-9)), "\n  ",
      absl::StrJoin(dtypes, ", "), "\n  of ", EscapeControls(checkpoint.tag), ", step ",
      checkpoint.global_steps < 0 ? "not known" : absl::StrCat(checkpoint.global_steps), ", ",
      checkpoint.world_size, checkpoint.world_size == 1 ? " rank" : " ranks", ", ZeRO stage ",
      checkpoint.stage, "\n");
  if (!model.tied.empty()) {
    absl::StrAppend(&text, "  ", model.tied.size(),
                    model.tied.size() == 1 ? " further name of a tied weight"
                                           : " further names of tied weights",
                    flags.one_name ? ", not written\n" : "\n");
  }
  return text;
}

// What is not there is said where it is seen, whatever happens to stdout.
void WarnOfAbsent(const ZeroCheckpoint& checkpoint, const Consolidation& model) {
  constexpr size_t kShown = 8;
  if (model.absent.empty() && checkpoint.excludes_frozen) {
    std::fputs(
        "zerocast: the checkpoint was saved without frozen parameters\n"
        "(exclude_frozen_parameters), and does not name them: if the model has some, take\n"
        "them from the model it began with\n",
        stderr);
  }
  if (model.absent.empty()) return;
  std::string text =
      absl::StrCat("zerocast: ", model.absent.size(),
                   model.absent.size() == 1 ? " frozen parameter is" : " frozen parameters are",
                   " not in the output: the checkpoint was saved\nwithout them "
                   "(exclude_frozen_parameters); take "
                   "them from the model it began with:\n");
  for (size_t k = 0; k < std::min(model.absent.size(), kShown); ++k) {
    absl::StrAppend(&text, "  ", EscapeControls(model.absent[k]), "\n");
  }
  if (model.absent.size() > kShown) {
    absl::StrAppend(&text, "  ... and ", model.absent.size() - kShown,
                    " more (--output json has all)\n");
  }
  std::fputs(text.c_str(), stderr);
}

absl::Status WriteIt(const GlobalOptions& global, const ModelFlags& flags,
                     const ZeroCheckpoint& checkpoint, const Consolidation& model,
                     const std::string& what, absl::Time start, int64_t max_shard_bytes) {
  Written written;
  written.num_tensors = static_cast<int64_t>(model.model.tensors.size());
  written.num_bytes = BytesOf(model.model.tensors);
  const absl::Status done =
      WriteFolder(flags.output.out, [&](const OutputFolder& folder) -> absl::Status {
        CopyProgress progress(what, written.num_bytes, !global.json());
        ZC_ASSIGN_OR_RETURN(written.files,
                            WriteModel(checkpoint, model.model, folder, max_shard_bytes,
                                       CopyOptions(flags.output, &progress)));
        ZC_ASSIGN_OR_RETURN(written.copied, CopyModelFiles(checkpoint.folder, folder));
        if (flags.model_config.empty()) return absl::OkStatus();
        // The one that was named, in the place of one that lay beside.
        ZC_ASSIGN_OR_RETURN(const std::string config,
                            ReadTextFile(flags.model_config, kMaxFileBytes));
        ZC_ASSIGN_OR_RETURN(OutputFile file, OutputFile::Create(folder.File("config.json")));
        ZC_RETURN_IF_ERROR(file.Append(config));
        return file.Commit();
      });
  ZC_RETURN_IF_ERROR(done);
  written.seconds = absl::ToDoubleSeconds(absl::Now() - start);
  WarnOfAbsent(checkpoint, model);
  return PrintReport(global, WrittenJson(checkpoint, flags, model, written),
                     WrittenText(checkpoint, flags, model, written));
}

absl::StatusOr<int64_t> ShardBytes(const ModelFlags& flags) {
  const absl::StatusOr<int64_t> bytes = ParseShardSize(flags.max_shard_size);
  if (bytes.ok()) return *bytes;
  return InvalidFields({{"--max-shard-size", std::string(bytes.status().message())}});
}

absl::Status RunConsolidate(const GlobalOptions& global, const ModelFlags& flags) {
  const absl::Time start = absl::Now();
  ZC_ASSIGN_OR_RETURN(const int64_t max_shard_bytes, ShardBytes(flags));
  ZC_ASSIGN_OR_RETURN(const ZeroCheckpoint checkpoint, ReadCheckpoint(flags.checkpoint));
  ZC_ASSIGN_OR_RETURN(const Consolidation model,
                      Consolidate(checkpoint, DtypeOf(flags.dtype), flags.one_name));
  return WriteIt(global, flags, checkpoint, model, "consolidating", start, max_shard_bytes);
}

std::string ShapeText(const std::vector<int64_t>& shape) {
  return absl::StrCat("(", absl::StrJoin(shape, ", "), ")");
}

// FAILED_PRECONDITION that tells all differences.
absl::Status DifferencesError(const ZeroCheckpoint& checkpoint, const ModelFlags& flags,
                              const ModelDifferences& differences) {
  if (differences.empty()) return absl::OkStatus();
  Json mismatched = Json::array();
  std::vector<std::string> lines;
  for (const std::string& name : differences.missing) {
    lines.push_back(absl::StrCat("missing in the checkpoint: ", EscapeControls(name)));
  }
  for (const std::string& name : differences.unexpected) {
    lines.push_back(absl::StrCat("not in the model: ", EscapeControls(name)));
  }
  for (const ModelDifferences::Mismatch& one : differences.mismatched) {
    mismatched.push_back({{"name", one.name},
                          {"checkpoint_shape", one.checkpoint_shape},
                          {"model_shape", one.model_shape}});
    lines.push_back(absl::StrCat(EscapeControls(one.name), ": ", ShapeText(one.checkpoint_shape),
                                 " in the checkpoint, ", ShapeText(one.model_shape),
                                 " in the model"));
  }
  SetErrorContext({{"missing", differences.missing},
                   {"unexpected", differences.unexpected},
                   {"mismatched", std::move(mismatched)}});
  constexpr size_t kShown = 20;
  const size_t num_lines = lines.size();
  if (num_lines > kShown) {
    lines.resize(kShown);
    lines.push_back(absl::StrCat("... and ", num_lines - kShown, " more (--output json has all)"));
  }
  const std::string message =
      absl::StrCat("export ", checkpoint.folder, ", tag ", checkpoint.tag,
                   ": it is of another model than ", flags.model_spec, ": ",
                   differences.missing.size(), " missing, ", differences.unexpected.size(),
                   " unexpected, ", differences.mismatched.size(), " of another shape");
  SetErrorText(absl::StrCat(message, "\n  ", absl::StrJoin(lines, "\n  ")));
  return WithReason(absl::FailedPreconditionError(message), "WEIGHTS_INCOMPLETE");
}

absl::Status ErrorsOfConversion(const ZeroCheckpoint& checkpoint,
                                const std::vector<ConversionError>& errors) {
  if (errors.empty()) return absl::OkStatus();
  Json list = Json::array();
  for (const ConversionError& error : errors) {
    list.push_back(
        {{"target", error.target}, {"sources", error.sources}, {"message", error.message}});
  }
  SetErrorContext({{"conversion_errors", std::move(list)}});
  return WithReason(
      absl::FailedPreconditionError(absl::StrCat(
          "export ", checkpoint.folder, ", tag ", checkpoint.tag, ": ", errors.size(),
          " tensors have no form in the model's own names; the first: ", errors[0].target, ": ",
          errors[0].message, "; consolidate writes them under the names they have")),
      "CONVERSION_FAILED");
}

absl::Status RunExport(const GlobalOptions& global, const ModelFlags& flags) {
  const absl::Time start = absl::Now();
  ZC_ASSIGN_OR_RETURN(const int64_t max_shard_bytes, ShardBytes(flags));
  ModelSpec spec;
  if (!flags.model_spec.empty()) {
    ZC_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(flags.model_spec, kMaxFileBytes));
    absl::StatusOr<ModelSpec> parsed = ParseModelSpec(text);
    if (!parsed.ok()) {
      return Annotate(parsed.status(), absl::StrCat("--model-spec ", flags.model_spec));
    }
    spec = *std::move(parsed);
  }
  ZC_ASSIGN_OR_RETURN(const ZeroCheckpoint checkpoint, ReadCheckpoint(flags.checkpoint));
  std::string config;
  const std::string beside = checkpoint.folder + "/config.json";
  std::error_code not_there;
  if (!flags.model_config.empty()) {
    ZC_ASSIGN_OR_RETURN(config, ReadTextFile(flags.model_config, kMaxFileBytes));
  } else if (std::filesystem::exists(beside, not_there)) {
    ZC_ASSIGN_OR_RETURN(config, ReadTextFile(beside, kMaxFileBytes));
  } else if (flags.model_spec.empty()) {
    return InvalidFields(
        {{"--model-spec", absl::StrCat("which model it is cannot be known: ", checkpoint.folder,
                                       " has no config.json; give a model spec (python -m "
                                       "zerocast.spec makes one) or --model-config")}});
  }
  const bool has_spec = !flags.model_spec.empty();
  if (has_spec) {
    ZC_RETURN_IF_ERROR(DifferencesError(checkpoint, flags, CompareToSpec(checkpoint, spec)));
  }
  RuleChoice choice;
  choice.config_json = config;
  choice.spec = has_spec ? &spec : nullptr;
  choice.dialect = flags.dialect;
  ZC_ASSIGN_OR_RETURN(const ConversionRules rules, ChooseRules(choice));
  ZC_ASSIGN_OR_RETURN(const Export exported, ExportModel(checkpoint, DtypeOf(flags.dtype),
                                                         has_spec ? &spec : nullptr, rules));
  ZC_RETURN_IF_ERROR(ErrorsOfConversion(checkpoint, exported.errors));
  return WriteIt(global, flags, checkpoint, exported.consolidation, "exporting", start,
                 max_shard_bytes);
}

}  // namespace

void AddCheckpointConsolidate(CLI::App* checkpoint, const GlobalOptions* global, Run* run) {
  auto flags = std::make_shared<ModelFlags>();
  CLI::App* consolidate = checkpoint->add_subcommand(
      "consolidate", "Write the whole weights as safetensors, in the names of the training");
  flags->AddTo(consolidate);
  consolidate->add_flag("--one-name-for-ties", flags->one_name,
                        "Write a tied weight under one name, not under every one");
  consolidate->callback(
      [flags, global, run] { *run = [flags, global] { return RunConsolidate(*global, *flags); }; });
}

void AddCheckpointExport(CLI::App* checkpoint, const GlobalOptions* global, Run* run) {
  auto flags = std::make_shared<ModelFlags>();
  flags->one_name = true;
  CLI::App* command = checkpoint->add_subcommand(
      "export", "Write the weights in the model's Hugging Face names and shapes");
  flags->AddTo(command);
  command
      ->add_option("--model-spec", flags->model_spec,
                   "Model spec, JSON: names, shapes, rules (default: the rules for what\n"
                   "config.json says)")
      ->check(kNotEmpty)
      ->type_name("FILE");
  command
      ->add_option("--model-config", flags->model_config,
                   "The model's config.json (default: the one in DIR)")
      ->check(kNotEmpty)
      ->type_name("FILE");
  command
      ->add_option("--dialect", flags->dialect,
                   "Transformers release whose rules hold: 5.23.0, 5.1.0")
      ->type_name("VERSION");
  command->callback(
      [flags, global, run] { *run = [flags, global] { return RunExport(*global, *flags); }; });
}

}  // namespace zerocast
