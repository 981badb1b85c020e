#include <algorithm>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/formats/deepspeed/pickle_view.h"
#include "client/formats/deepspeed/reshard.h"
#include "client/formats/deepspeed/torch_draft.h"
#include "client/formats/deepspeed/zero_graph.h"
#include "client/formats/deepspeed/zero_write.h"
#include "client/formats/output_folder.h"
#include "client/formats/pickle_edit.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/base/utf8.h"

namespace zerocast {
namespace {

constexpr size_t kMaxNameBytes = 255;  // of a folder, on the usual file systems
constexpr char kOptimizerFile[] = "optimizer_state.pt";

absl::Status CheckName(const ZeroCheckpoint& checkpoint, const std::string& name) {
  const bool is_folder = !name.empty() && name != "." && name != ".." && name != kOptimizerFile &&
                         name.size() <= kMaxNameBytes && !absl::StrContains(name, '/') &&
                         !absl::StrContains(name, '\0');
  if (is_folder) return absl::OkStatus();
  return WithReason(absl::UnimplementedError(absl::StrCat(
                        "write ", checkpoint.folder, "/", checkpoint.tag,
                        " in the universal form: it has a folder for each parameter, and \"",
                        EscapeControls(name.substr(0, kMaxNameBytes)), "\" cannot be one's name")),
                    "UNSUPPORTED");
}

class UniversalWriter {
 public:
  UniversalWriter(const ZeroCheckpoint& checkpoint, const PieceCopier::Options& options)
      : sources_(checkpoint),
        about_to_(options.about_to),
        copier_(sources_.checkpoint(), options),
        writer_(&copier_) {}

  absl::Status Write(const OutputFolder& folder, const std::string& tag) {
    top_ = absl::StrCat(tag, "/");
    ZC_RETURN_IF_ERROR(folder.MakeFolder(tag + "/zero"));
    ZC_RETURN_IF_ERROR(FindSteps());
    for (const ZeroParameter& parameter : checkpoint().parameters) {
      if (HasStates(parameter)) ZC_RETURN_IF_ERROR(WriteTrained(folder, parameter));
    }
    if (checkpoint().stage != 3) ZC_RETURN_IF_ERROR(WriteModule(folder));
    ZC_RETURN_IF_ERROR(WriteOptimizer(folder));
    ZC_RETURN_IF_ERROR(CopyModelStates(folder));
    return writer_.Finish();
  }
  const FilesWriter& writer() const { return writer_; }

 private:
  const ZeroCheckpoint& checkpoint() const { return sources_.checkpoint(); }

  // Trained, with elements.
  static bool HasStates(const ZeroParameter& parameter) {
    return parameter.is_trained && parameter.num_elements > 0;
  }
  absl::Status FindSteps();
  absl::Status WriteTrained(const OutputFolder& folder, const ZeroParameter& parameter);
  // What is only in the model's state dict, under `name`: its value as float32.
  absl::Status WriteStored(const OutputFolder& folder, const std::string& name,
                           const std::vector<int64_t>& shape, const std::vector<ZeroPiece>& value);
  absl::Status WriteModule(const OutputFolder& folder);
  absl::Status WriteOptimizer(const OutputFolder& folder);
  absl::Status CopyModelStates(const OutputFolder& folder);
  std::string PathIn(const OutputFolder& folder, const std::string& name,
                     absl::string_view state) const {
    return folder.File(absl::StrCat(top_, "zero/", name, "/", state, ".pt"));
  }

  Sources sources_;
  const FileObserver about_to_;
  PieceCopier copier_;
  FilesWriter writer_;
  std::string top_;
  std::map<int32_t, PickleId> steps_;  // in optimizer_file, by flat tensor
};

absl::Status UniversalWriter::FindSteps() {
  const TorchFile& file = *checkpoint().optimizer_file;
  const PickleGraph& graph = file.graph();
  const PickleId base = graph.Find(graph.Find(file.root(), "optimizer_state_dict"),
                                   OptimizerKeysOf(checkpoint().stage).base);
  ZC_ASSIGN_OR_RETURN(const auto states,
                      PickleView(file).DictOfIntegers(graph.Find(base, "state"), "state"));
  for (const auto& [index, state] : states) {
    const PickleId step = graph.Find(state, "step");
    if (step != kNoValue) steps_.emplace(static_cast<int32_t>(index), step);
  }
  return absl::OkStatus();
}

absl::Status UniversalWriter::WriteTrained(const OutputFolder& folder,
                                           const ZeroParameter& parameter) {
  ZC_RETURN_IF_ERROR(CheckName(checkpoint(), parameter.name));
  ZC_RETURN_IF_ERROR(folder.MakeFolder(absl::StrCat(top_, "zero/", parameter.name)));
  for (size_t state = 0; state < checkpoint().state_names.size(); ++state) {
    const ZeroSlice& first = parameter.slices.front();
    const DType dtype = checkpoint().flats[static_cast<size_t>(first.flat)].states[state].dtype;
    TorchDraft draft;
    DraftStorage storage;
    storage.key = draft.NewKey();
    AppendElements(checkpoint(), parameter, static_cast<int>(state), 0, parameter.num_elements,
                   dtype, &storage);
    const bool is_master = state == 0;
    if (checkpoint().stage == 3) {
      draft.graph().set_root(draft.AddTensor(storage.key, dtype, parameter.num_elements,
                                             {parameter.num_elements}, is_master));
    } else {
      const PickleId tensor =
          draft.AddTensor(storage.key, dtype, parameter.num_elements, parameter.shape, is_master);
      const PickleId cat_dim = draft.graph().AddInteger(0);
      draft.graph().set_root(AddDict(&draft.graph(), {{"cat_dim", cat_dim}, {"param", tensor}}));
    }
    ZC_RETURN_IF_ERROR(writer_.Add(PathIn(folder, parameter.name, checkpoint().state_names[state]),
                                   draft.graph(), {std::move(storage)}));
  }
  const auto step = steps_.find(parameter.sub_group);
  if (checkpoint().stage == 3 || step == steps_.end()) return absl::OkStatus();
  TorchDraft draft;
  draft.graph().set_root(draft.Import(*checkpoint().optimizer_file, step->second, &sources_));
  return writer_.Add(PathIn(folder, parameter.name, "step"), draft.graph(), draft.KeptStorages());
}

absl::Status UniversalWriter::WriteStored(const OutputFolder& folder, const std::string& name,
                                          const std::vector<int64_t>& shape,
                                          const std::vector<ZeroPiece>& value) {
  ZC_RETURN_IF_ERROR(CheckName(checkpoint(), name));
  ZC_RETURN_IF_ERROR(folder.MakeFolder(absl::StrCat(top_, "zero/", name)));
  TorchDraft draft;
  DraftStorage storage;
  storage.key = draft.NewKey();
  for (const ZeroPiece& piece : value) {
    ZeroExtent from = piece.from;
    if (from.dtype == DType::kBool) from.dtype = DType::kUInt8;  // 0 and 1
    AppendRun(from, DType::kFloat32, &storage);
  }
  const int64_t elements = storage.num_bytes / SizeOf(DType::kFloat32);
  const PickleId tensor = draft.AddTensor(storage.key, DType::kFloat32, elements, shape);
  draft.graph().set_root(AddDict(&draft.graph(), {{"param", tensor}}));
  return writer_.Add(PathIn(folder, name, "fp32"), draft.graph(), {std::move(storage)});
}

absl::Status UniversalWriter::WriteModule(const OutputFolder& folder) {
  for (const ZeroParameter& parameter : checkpoint().parameters) {
    if (parameter.is_absent()) continue;
    if (!HasStates(parameter)) {
      ZC_RETURN_IF_ERROR(WriteStored(folder, parameter.name, parameter.shape, parameter.stored));
    }
    // ds_to_universal takes a tied name's value from the state dict, not from the master.
    for (const std::string& alias : parameter.aliases) {
      ZC_RETURN_IF_ERROR(WriteStored(folder, alias, parameter.shape, parameter.stored));
    }
  }
  for (const ZeroBuffer& buffer : checkpoint().buffers) {
    ZC_RETURN_IF_ERROR(WriteStored(folder, buffer.name, buffer.shape, {{buffer.value, 0}}));
  }
  return absl::OkStatus();
}

absl::Status UniversalWriter::WriteOptimizer(const OutputFolder& folder) {
  const TorchFile& file = *checkpoint().optimizer_file;
  TorchDraft draft;
  const PickleId root =
      draft.Import(file, file.graph().Find(file.root(), "optimizer_state_dict"), &sources_);
  draft.graph().set_root(root);
  MakeUniversalOptimizer(checkpoint().stage, &draft.graph(), root);
  return writer_.Add(folder.File(absl::StrCat(top_, "zero/", kOptimizerFile)), draft.graph(),
                     draft.KeptStorages());
}

absl::Status UniversalWriter::CopyModelStates(const OutputFolder& folder) {
  const size_t num_files = checkpoint().files.size();
  for (size_t k = 0; k < num_files; ++k) {
    const std::string path = checkpoint().files[k].path;
    if (!absl::EndsWith(path, "model_states.pt")) continue;
    ZC_ASSIGN_OR_RETURN(const std::vector<ZeroExtent> parts,
                        sources_.Whole(static_cast<int32_t>(k), about_to_));
    const std::string name = path.substr(path.rfind('/') + 1);
    ZC_RETURN_IF_ERROR(writer_.AddBytes(folder.File(absl::StrCat(top_, name)), parts));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<WrittenCheckpoint> WriteUniversalCheckpoint(const ZeroCheckpoint& checkpoint,
                                                           const OutputFolder& folder,
                                                           const PieceCopier::Options& options) {
  if (checkpoint.is_universal) {
    return absl::InvalidArgumentError(absl::StrCat("write ", checkpoint.folder, "/", checkpoint.tag,
                                                   " in the universal form: it has that already"));
  }
  ZC_RETURN_IF_ERROR(CheckWritable(checkpoint));
  WrittenCheckpoint written;
  written.tag = absl::StrCat(checkpoint.tag, "_universal");
  UniversalWriter writer(checkpoint, options);
  ZC_RETURN_IF_ERROR(writer.Write(folder, written.tag));
  ZC_RETURN_IF_ERROR(WriteLatest(folder.File("latest_universal"), written.tag));
  written.num_files = writer.writer().num_files() + 1;
  written.num_bytes = writer.writer().num_bytes();
  return written;
}

}  // namespace zerocast
