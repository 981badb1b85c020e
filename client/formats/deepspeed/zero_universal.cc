// The universal form: a folder for each parameter (checkpoint/ds_to_universal.py).
#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "client/formats/deepspeed/pickle_view.h"
#include "client/formats/deepspeed/zero_reader.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/base/utf8.h"

namespace zerocast {

void ZeroReader::ReadUniversalOptimizer() {
  optim_name_ = "zero/optimizer_state.pt";
  const absl::Status status = [&]() -> absl::Status {
    ZC_ASSIGN_OR_RETURN(const Opened opened, Open(optim_name_));
    ZC_ASSIGN_OR_RETURN(TorchFile read, TorchFile::Read(opened.file));
    ZC_RETURN_IF_ERROR(CheckHarmless(read));
    NoteDigest(opened, read);
    const auto file = std::make_shared<const TorchFile>(std::move(read));
    const PickleGraph& graph = file->graph();
    const PickleView view(*file);
    ZC_ASSIGN_OR_RETURN(const int64_t stage,
                        view.Integer(graph.Find(file->root(), "zero_stage"), "zero_stage"));
    if (stage < 1 || stage > 3 || (stage == 3) != names_.whole_model_states.empty()) {
      return view.Wrong(graph.Find(file->root(), "zero_stage"), "zero_stage",
                        absl::StrCat("a stage that saves ", model_name_));
    }
    result_.stage = static_cast<int>(stage);
    ZC_ASSIGN_OR_RETURN(optim_.group_members,
                        ReadGroupMembers(*file, graph.Find(file->root(), "param_groups")));
    result_.optimizer_file = file;
    // Model states of old releases do not say how many ranks saved them.
    PickleId count = graph.Find(file->root(), "partition_count");
    if (count != kNoValue && graph.node(count).kind == PickleKind::kList) {
      const std::vector<PickleId>& counts = graph.node(count).items;
      count = counts.empty() ? kNoValue : counts[0];
    }
    if (model_.world_size < 0 && !view.IsNone(count)) {
      ZC_ASSIGN_OR_RETURN(optim_.world_size, view.Integer(count, "partition_count"));
    }
    // Stage 3 has the step here, the others beside each parameter.
    const PickleId states = graph.Find(graph.Find(file->root(), "optimizer_state_dict"), "state");
    if (graph.DictItems(states) == nullptr) return absl::OkStatus();
    for (const PickleId state : *graph.DictItems(states)) {
      const PickleId step = graph.Find(state, "step");
      if (step == kNoValue) continue;
      ZC_ASSIGN_OR_RETURN(result_.optimizer_step, ReadStep(opened.file, *file, step));
      break;
    }
    return absl::OkStatus();
  }();
  if (!status.ok()) Note(status);
}

absl::StatusOr<ZeroExtent> ZeroReader::ReadUniversalState(const std::string& name,
                                                          int64_t num_elements) {
  ZC_ASSIGN_OR_RETURN(const Opened opened, Open(name));
  ZC_ASSIGN_OR_RETURN(const TorchFile file, TorchFile::Read(opened.file));
  ZC_RETURN_IF_ERROR(CheckHarmless(file));
  NoteDigest(opened, file);
  PickleId value = file.root();
  if (!file.IsTensor(value)) value = file.graph().Find(value, "param");
  if (value == kNoValue || !file.IsTensor(value)) {
    return PickleView(file).Wrong(file.root(), "the file's object",
                                  "a tensor, or a dict with one as \"param\"");
  }
  ZC_ASSIGN_OR_RETURN(const TorchTensor tensor, file.Tensor(value, "the parameter's state"));
  if (tensor.num_elements != num_elements) {
    return Corrupt(file.path(), absl::StrCat("it has ", tensor.num_elements, " elements, ",
                                             model_name_, " says ", num_elements));
  }
  return Extent(file, opened.index, tensor, "the parameter's state");
}

absl::Status ZeroReader::ReadUniversalParameter(ZeroParameter* parameter) {
  // ds_to_universal writes no states of one without elements, or empty ones.
  if (parameter->num_elements == 0) return absl::OkStatus();
  // A name becomes a path here: only one that was listed is followed.
  if (!std::binary_search(names_.universal_names.begin(), names_.universal_names.end(),
                          parameter->name)) {
    return WithReason(
        absl::NotFoundError(absl::StrCat(PathOf("zero/"), EscapeControls(parameter->name),
                                         " is missing: ", model_name_, " names this parameter")),
        "CHECKPOINT_NOT_FOUND");
  }
  const std::string folder = absl::StrCat("zero/", parameter->name);
  ZC_ASSIGN_OR_RETURN(const std::vector<std::string> names, ListNames(PathOf(folder), about_to_));
  std::vector<std::string> states = {"fp32"};
  for (const std::string& name : names) {
    const absl::string_view state = absl::StripSuffix(name, ".pt");
    if (state.size() != name.size() && state != "fp32" && state != "step") {
      states.emplace_back(state);
    }
  }
  if (result_.state_names.empty()) result_.state_names = states;
  if (states != result_.state_names) {
    return Corrupt(PathOf(folder), absl::StrCat("it holds ", absl::StrJoin(states, ", "),
                                                ", others of the checkpoint ",
                                                absl::StrJoin(result_.state_names, ", ")));
  }
  ZeroFlat flat;
  for (const std::string& state : states) {
    ZC_ASSIGN_OR_RETURN(
        const ZeroExtent extent,
        ReadUniversalState(absl::StrCat(folder, "/", state, ".pt"), parameter->num_elements));
    flat.states.push_back(extent);
  }
  const bool has_step = std::binary_search(names.begin(), names.end(), "step.pt");
  if (result_.flats.empty()) has_steps_ = has_step;
  if (has_step != has_steps_) {
    return Corrupt(PathOf(folder), absl::StrCat("it holds ", has_step ? "a" : "no",
                                                " step.pt, other parameters of the checkpoint ",
                                                has_step ? "do not" : "do"));
  }
  if (has_step) {
    ZC_ASSIGN_OR_RETURN(const Opened opened, Open(absl::StrCat(folder, "/step.pt")));
    ZC_ASSIGN_OR_RETURN(const TorchFile file, TorchFile::Read(opened.file));
    ZC_RETURN_IF_ERROR(CheckHarmless(file));
    NoteDigest(opened, file);
    ZC_ASSIGN_OR_RETURN(const double step, ReadStep(opened.file, file, file.root()));
    if (result_.optimizer_step < 0) result_.optimizer_step = step;
  }
  parameter->slices = {{static_cast<int32_t>(result_.flats.size()), 0, 0, parameter->num_elements}};
  result_.flats.push_back(std::move(flat));
  return absl::OkStatus();
}

void ZeroReader::ReadUniversal() {
  for (ZeroParameter& parameter : result_.parameters) {
    if (!parameter.is_trained) continue;
    if (absl::Status read = ReadUniversalParameter(&parameter); !read.ok()) Note(std::move(read));
  }
}

}  // namespace zerocast
