#include "client/cli/job_flags.h"

#include <cmath>
#include <filesystem>
#include <limits>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "client/formats/file.h"
#include "kernels/base/status_macros.h"
#include "server/base/byte_size.h"
#include "server/base/errors.h"
#include "server/base/utf8.h"
#include "server/conversion/catalogue.h"
#include "server/conversion/convert.h"
#include "server/conversion/model_spec.h"
#include "server/conversion/pattern.h"
#include "server/plan/manifest.h"
#include "server/plan/model.h"
#include "server/plan/node_memory.h"
#include "server/wire/key_mapping.h"

namespace zerocast {
namespace {

constexpr int64_t kMaxTextFileBytes = int64_t{256} << 20;

// Reads the text file that a flag names.  The wire carries UTF-8 only: gRPC would refuse anything
// else without saying what was wrong.
absl::Status ReadInto(absl::string_view flag, const std::string& path, std::string* text) {
  if (path.empty()) return absl::OkStatus();
  ZC_ASSIGN_OR_RETURN(*text, ReadTextFile(path, kMaxTextFileBytes));
  if (!IsValidUtf8(*text)) {
    return InvalidFields({{std::string(flag), absl::StrCat(path, " is not UTF-8 text")}});
  }
  return absl::OkStatus();
}

// A size that is given and less than what works.
void CheckLeast(const char* flag, const std::string& text, int64_t bytes, int64_t least,
                const char* help, std::vector<FieldViolation>* violations) {
  if (bytes == 0 || bytes >= least) return;
  violations->push_back({flag, absl::StrCat("\"", text, "\" is less than the ", least,
                                            " bytes that a load needs at least; give ", help)});
}

// Compiles rules of a file; "file: path[i]: what is wrong" of each that does not.
void CheckRulesOf(absl::string_view flag, const std::string& file, absl::string_view path,
                  const std::vector<Rule>& rules, const Dialect& dialect,
                  std::vector<FieldViolation>* violations) {
  for (size_t i = 0; i < rules.size(); ++i) {
    const absl::Status status = CompiledRule::Create(rules[i], dialect).status();
    if (status.ok()) continue;
    violations->push_back(
        {std::string(flag), absl::StrCat(file, ": ", path, "[", i, "]: ", status.message())});
  }
}

// What the server would find wrong with the rules and the model of `spec`: it does not know the
// names of the files.
absl::Status CheckFiles(const JobFlags& flags, const v1::JobSpec& spec) {
  const v1::LoadOptions& options = spec.options();
  std::string release = flags.dialect;
  if (!flags.rules.empty()) {
    const absl::StatusOr<Catalogue> table = ParseCatalogue(options.rule_table_json());
    if (!table.ok()) return Annotate(table.status(), absl::StrCat("--rules ", flags.rules));
  }
  ModelSpec model_spec;
  if (!flags.model_spec.empty()) {
    const std::string name = absl::StrCat("--model-spec ", flags.model_spec);
    absl::StatusOr<ModelSpec> parsed = ParseModelSpec(spec.model_spec_json());
    if (!parsed.ok()) return Annotate(parsed.status(), name);
    model_spec = *std::move(parsed);
    if (const absl::Status made = MakeModel(model_spec).status(); !made.ok()) {
      return Annotate(made, name);
    }
    if (release.empty()) release = model_spec.dialect;
  }
  absl::StatusOr<std::vector<Rule>> mapping = ParseKeyMapping(options.key_mapping_json());
  if (!mapping.ok()) {
    return Annotate(mapping.status(), absl::StrCat("--key-mapping ", flags.key_mapping));
  }
  const absl::StatusOr<Dialect> dialect =
      CatalogueDialect(release.empty() ? kDefaultDialect : absl::string_view(release));
  if (!dialect.ok()) return absl::OkStatus();  // the server says which there are
  std::vector<FieldViolation> violations;
  CheckRulesOf("--model-spec", flags.model_spec, "transforms", model_spec.transforms, *dialect,
               &violations);
  CheckRulesOf("--key-mapping", flags.key_mapping, "rules", *mapping, *dialect, &violations);
  return InvalidFields(violations);
}

v1::DtypePolicy DtypeOf(const std::string& name) {
  if (name == "stored") return v1::DTYPE_POLICY_STORED;
  if (name == "spec") return v1::DTYPE_POLICY_SPEC;
  if (name == "bf16") return v1::DTYPE_POLICY_BF16;
  if (name == "fp16") return v1::DTYPE_POLICY_FP16;
  if (name == "fp32") return v1::DTYPE_POLICY_FP32;
  return v1::DTYPE_POLICY_UNSPECIFIED;
}

v1::CheckpointFormat FormatOf(const std::string& name) {
  for (const v1::CheckpointFormat format :
       {v1::CHECKPOINT_FORMAT_HUGGING_FACE, v1::CHECKPOINT_FORMAT_DEEPSPEED}) {
    if (name == FormatName(format)) return format;
  }
  return v1::CHECKPOINT_FORMAT_UNSPECIFIED;
}

v1::ReadMode ReadModeOf(const std::string& name) {
  if (name == "local") return v1::READ_MODE_LOCAL;
  if (name == "rank0") return v1::READ_MODE_RANK0;
  return v1::READ_MODE_PARALLEL;
}

}  // namespace

absl::string_view FormatName(v1::CheckpointFormat format) {
  switch (format) {
    case v1::CHECKPOINT_FORMAT_HUGGING_FACE:
      return "hf";
    case v1::CHECKPOINT_FORMAT_DEEPSPEED:
      return "deepspeed";
    default:
      return "auto";
  }
}

const CLI::Validator kSeconds(
    [](const std::string& text) -> std::string {
      constexpr double kTenYears = 10 * 365.25 * 86400;
      double seconds;
      if (absl::SimpleAtod(text, &seconds) && seconds > 0 && seconds <= kTenYears) return "";
      return absl::StrCat("\"", text,
                          "\" is not a time in seconds: more than 0, at most ten years");
    },
    "");

CLI::Validator WholeNumber(int64_t least, int64_t most) {
  return CLI::Validator(
      [least, most](const std::string& text) -> std::string {
        int64_t number;
        if (absl::SimpleAtoi(text, &number) && number >= least && number <= most) return "";
        return absl::StrCat("\"", text, "\" is not a whole number of at least ", least,
                            " and at most ", most);
      },
      "");
}

CLI::Validator NameIn(const char* prefix) {
  return CLI::Validator(
      [prefix](const std::string& name) -> std::string {
        return absl::StartsWith(name, prefix)
                   ? ""
                   : absl::StrCat("\"", name, "\" is not ", prefix, "ID");
      },
      "");
}

const CLI::Validator kNotEmpty(
    [](const std::string& text) -> std::string {
      return text.empty() ? "the value is empty; leave the flag out for none" : "";
    },
    "");

void JobFlags::AddTo(CLI::App* command) {
  constexpr int64_t kMaxInt32 = std::numeric_limits<int32_t>::max();
  const auto text_file = [command](const char* flag, std::string* path, const char* what) {
    command->add_option(flag, *path, what)->check(kNotEmpty)->type_name("FILE");
  };
  command
      ->add_option("checkpoint", checkpoint,
                   "Folder of the checkpoint: Hugging Face's or DeepSpeed's")
      ->required()
      ->check(kNotEmpty)
      ->type_name("CKPT");
  command
      ->add_option("--variant", variant,
                   "Which of the folder's weights: fp16 for those of model.fp16.safetensors\n"
                   "or pytorch_model.fp16.bin")
      ->check(kNotEmpty)
      ->type_name("NAME");
  command
      ->add_option(
          "--format", format,
          "What the folder is read as: hf, deepspeed, or auto (Hugging Face's weights where\n"
          "it has some, else DeepSpeed's)")
      ->check(CLI::IsMember({"auto", "hf", "deepspeed"}))
      ->type_name("FORMAT")
      ->capture_default_str();
  command->add_option("--tag", tag, "Which DeepSpeed checkpoint (default: what `latest` names)")
      ->check(kNotEmpty)
      ->type_name("TAG");
  command->add_flag("--no-optimizer", no_optimizer,
                    "Of a DeepSpeed checkpoint the weights alone, without masters and moments");
  command->add_option("--world-size", world_size, "Number of ranks")
      ->required()
      ->check(WholeNumber(1, kMaxInt32))
      ->type_name("N");
  command->add_option("--nodes", nodes, "Number of nodes (default: 1, or as many as --node names)")
      ->check(WholeNumber(1, kMaxInt32))
      ->type_name("K");
  command->add_option("--node", node_names, "Name of a node's agent; repeat in order of ranks")
      ->type_name("NAME");
  command->add_option("--dtype", dtype, "stored, bf16, fp16, fp32 or spec (default: the config's)")
      ->check(CLI::IsMember({"stored", "bf16", "fp16", "fp32", "spec"}))
      ->type_name("DTYPE");
  text_file("--ds-config", &ds_config, "DeepSpeed config, JSON");
  command
      ->add_option("--zero-stage", zero_stage,
                   "ZeRO stage where there is no --ds-config: 3 cuts parameters into partitions,\n"
                   "below it every rank holds them whole (default: 3, whatever engine saved\n"
                   "a DeepSpeed checkpoint)")
      ->check(WholeNumber(0, 3))
      ->excludes("--ds-config")
      ->type_name("STAGE");
  text_file("--args", &training_arguments, "TrainingArguments as JSON, for \"auto\" values");
  command->add_option("--num-training-steps", num_training_steps, "Optimizer steps of the training")
      ->check(WholeNumber(0, std::numeric_limits<int64_t>::max()))
      ->type_name("N");
  text_file("--model-config", &model_config, "The model's config.json (default: CKPT's)");
  text_file("--model-spec", &model_spec, "Model spec, JSON: names, shapes, dtypes, rules");
  text_file("--key-mapping", &key_mapping, "Renames that run first, JSON {pattern: target}");
  text_file("--rules", &rules, "Rule table, JSON, instead of the built-in one");
  command
      ->add_option("--dialect", dialect, "Transformers release whose matching holds: 5.23.0, 5.1.0")
      ->type_name("VERSION");
  command
      ->add_option("--mode", mode,
                   "Who reads: parallel, local, or rank0 (the node of rank 0 alone: name the one\n"
                   "that has the files by the first --node, else the server takes any)")
      ->check(CLI::IsMember({"parallel", "local", "rank0"}))
      ->type_name("MODE")
      ->capture_default_str();
  command->add_option("--move", move, "What moves: scatter or broadcast")
      ->check(CLI::IsMember({"scatter", "broadcast"}))
      ->type_name("MOVE")
      ->capture_default_str();
  command
      ->add_option("--device", device,
                   "Who fills the shards and where they lie: cpu, or cuda (a GPU for each rank; in "
                   "host memory "
                   "where the DeepSpeed config offloads parameters)")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->type_name("DEVICE")
      ->capture_default_str();
  command
      ->add_option("--allow-missing", allow_missing, "Weights matching this may be missing; repeat")
      ->type_name("PATTERN");
  command->add_flag("--ignore-mismatched", ignore_mismatched, "Leave out weights of another shape");
  command->add_option("--round-bytes", round_bytes, "Bytes one node reads in a round (64M, ...)")
      ->type_name("SIZE");
  command
      ->add_option("--max-buffer-memory", max_buffer_memory,
                   "Memory of a node beyond the shards, to read, send and receive (default 256M)")
      ->type_name("SIZE");
  command->add_option("--stage-timeout", stage_timeout_seconds, "Longest single wait of the load")
      ->check(kSeconds)
      ->type_name("SECONDS");
  command->add_option("--name", display_name, "A name for people")->type_name("TEXT");
}

absl::StatusOr<v1::JobSpec> JobFlags::ToSpec() const {
  std::vector<FieldViolation> violations;
  v1::JobSpec spec;
  v1::LoadOptions* options = spec.mutable_options();
  options->set_round_bytes(ByteSizeOfFlag("--round-bytes", round_bytes, 0, &violations));
  options->set_max_buffer_bytes(
      ByteSizeOfFlag("--max-buffer-memory", max_buffer_memory, 0, &violations));
  CheckLeast("--round-bytes", round_bytes, options->round_bytes(), SizeOf(DType::kFloat64),
             "8 (the largest element) or more, or leave it out for what follows from "
             "--max-buffer-memory",
             &violations);
  CheckLeast("--max-buffer-memory", max_buffer_memory, options->max_buffer_bytes(),
             kLeastBufferBytes, "1M or more, or leave it out for 256M", &violations);
  if (!IsVariant(variant)) {
    violations.push_back({"--variant", absl::StrCat("\"", variant,
                                                    "\" is not a variant's name: at most 64 "
                                                    "letters, digits, '.', '-' and '_'")});
  }
  ZC_RETURN_IF_ERROR(InvalidFields(violations));

  spec.set_display_name(display_name);
  spec.set_variant(variant);
  spec.set_checkpoint_format(FormatOf(format));
  spec.set_checkpoint_tag(tag);
  options->set_weights_only(no_optimizer);
  std::error_code error;
  const auto absolute = std::filesystem::absolute(checkpoint, error).lexically_normal();
  std::string path = error ? checkpoint : absolute.string();
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  spec.set_checkpoint_path(path);
  v1::Topology* topology = spec.mutable_topology();
  topology->set_world_size(world_size);
  topology->set_num_nodes(nodes);
  for (const std::string& name : node_names) topology->add_nodes(name);
  ZC_RETURN_IF_ERROR(ReadInto("--ds-config", ds_config, spec.mutable_deepspeed_config_json()));
  ZC_RETURN_IF_ERROR(
      ReadInto("--args", training_arguments, spec.mutable_training_arguments_json()));
  ZC_RETURN_IF_ERROR(ReadInto("--model-spec", model_spec, spec.mutable_model_spec_json()));
  ZC_RETURN_IF_ERROR(ReadInto("--key-mapping", key_mapping, options->mutable_key_mapping_json()));
  ZC_RETURN_IF_ERROR(ReadInto("--rules", rules, options->mutable_rule_table_json()));
  options->set_dialect(dialect);
  ZC_RETURN_IF_ERROR(CheckFiles(*this, spec));
  if (!model_config.empty()) {
    ZC_RETURN_IF_ERROR(ReadInto("--model-config", model_config, spec.mutable_model_config_json()));
  } else if (!ds_config.empty() && std::filesystem::exists(path + "/config.json", error)) {
    // "auto" bucket sizes need the hidden size; the folder may also be visible to the agents only.
    ZC_RETURN_IF_ERROR(
        ReadInto("checkpoint", path + "/config.json", spec.mutable_model_config_json()));
  }
  if (num_training_steps >= 0) spec.set_num_training_steps(num_training_steps);
  if (zero_stage >= 0) options->set_zero_stage(zero_stage);
  options->set_dtype(DtypeOf(dtype));
  options->set_read_mode(ReadModeOf(mode));
  options->set_move_mode(move == "broadcast" ? v1::MOVE_MODE_BROADCAST : v1::MOVE_MODE_SCATTER);
  options->set_device(device == "cuda" ? v1::DEVICE_CUDA : v1::DEVICE_CPU);
  for (const std::string& pattern : allow_missing) options->add_allow_missing(pattern);
  options->set_ignore_mismatched(ignore_mismatched);
  if (stage_timeout_seconds > 0) {
    options->mutable_stage_timeout()->set_seconds(static_cast<int64_t>(stage_timeout_seconds));
    options->mutable_stage_timeout()->set_nanos(
        static_cast<int32_t>((stage_timeout_seconds - std::floor(stage_timeout_seconds)) * 1e9));
  }
  return spec;
}

absl::Status ExplainReader(const absl::Status& failure, const v1::JobSpec& spec) {
  // Outside of every --root of an agent the folder is refused before it is looked for.
  const bool no_files = absl::IsNotFound(failure) || absl::IsPermissionDenied(failure);
  const bool chosen =
      spec.options().read_mode() == v1::READ_MODE_RANK0 && spec.topology().nodes().empty();
  if (!no_files || !chosen) return failure;
  return WithMessage(
      failure, absl::StrCat(failure.message(),
                            "; --mode rank0 reads on the node of rank 0, and the server chose "
                            "which that is: name every node with --node, first one that has "
                            "the files"));
}

}  // namespace zerocast
