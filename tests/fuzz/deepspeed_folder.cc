#include "tests/fuzz/deepspeed_folder.h"

#include <stdlib.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "client/formats/checkpoint.h"
#include "client/formats/deepspeed/consolidate.h"
#include "client/formats/deepspeed/find_checkpoints.h"
#include "client/formats/deepspeed/model_files.h"
#include "client/formats/deepspeed/reshard.h"
#include "client/formats/deepspeed/zero_checkpoint.h"
#include "client/formats/deepspeed/zero_manifest.h"
#include "client/formats/deepspeed/zero_reader.h"
#include "client/formats/output_folder.h"
#include "kernels/copy/box.h"
#include "server/plan/plan.h"
#include "tests/fuzz/check.h"

namespace zerocast {
namespace {

namespace fs = std::filesystem;

// Larger ones are planned, not written.
constexpr int64_t kMaxWrittenBytes = 4 << 20;

struct Size {
  int64_t num_files = 0, num_bytes = 0;
};

Size SizeOfFolder(const std::string& folder) {
  Size size;
  std::error_code error;
  for (fs::recursive_directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error)) {
    std::error_code ignored;
    ++size.num_files;
    if (entry->is_regular_file(ignored)) {
      size.num_bytes += static_cast<int64_t>(entry->file_size(ignored));
    }
  }
  return size;
}

// Every error is one of those that the headers name: none says that something of ours is broken.
void CheckError(const absl::Status& status) {
  FuzzCheck(!absl::IsInternal(status) && !absl::IsUnknown(status), "no error is a bug");
  FuzzCheck(status.ok() || !status.message().empty(), "every error says what happened");
}

int64_t Elements(const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (const int64_t extent : shape) count *= extent;
  return count;
}

class FolderCheck {
 public:
  FolderCheck(std::string folder, std::string outputs)
      : folder_(std::move(folder)), outputs_(std::move(outputs)), size_(SizeOfFolder(folder_)) {}

  FolderReading Run() {
    std::vector<absl::Status> problems;
    ZeroReader reader(Observer(), &problems);
    reader.Read(folder_, "");
    const ZeroCheckpoint partial = reader.TakeResult();
    CheckProblems(problems);
    const auto checkpoint = ReadZeroCheckpoint(folder_, "", Observer());
    FuzzCheck(checkpoint.ok() == problems.empty(), "two readings say the same");
    CheckManifest();
    CheckFinding(checkpoint);
    if (!checkpoint.ok()) {
      FuzzCheck(checkpoint.status() == problems[0], "the error is the first problem");
      return reading_;
    }
    reading_.is_checkpoint = true;
    CheckCheckpoint(*checkpoint);
    CheckConsolidations(*checkpoint);
    CheckReshards(*checkpoint);
    return reading_;
  }

 private:
  // Time: a file is opened and its headers are read a few times, never more often than its bytes
  // tell.
  FileObserver Observer() {
    num_calls_ = 0;
    return [this](absl::string_view) {
      const int64_t most = 200 + 60 * size_.num_files + size_.num_bytes / 4;
      FuzzCheck(++num_calls_ <= most, "calls are as many as files and bytes allow");
      return absl::OkStatus();
    };
  }

  void CheckProblems(const std::vector<absl::Status>& problems) {
    FuzzCheck(static_cast<int64_t>(problems.size()) <= 100 + 4 * size_.num_files,
              "problems are as many as files allow");
    for (const absl::Status& problem : problems) {
      FuzzCheck(!problem.ok(), "a problem is an error");
      CheckError(problem);
    }
  }

  void CheckExtent(const ZeroCheckpoint& checkpoint, const ZeroExtent& extent) {
    if (extent.num_elements == 0) return;
    FuzzCheck(extent.storage >= 0 &&
                  extent.storage < static_cast<int32_t>(checkpoint.storages.size()) &&
                  SizeOf(extent.dtype) > 0 && extent.num_elements > 0,
              "an extent has a storage and a type");
    const ZeroStorage& storage = checkpoint.storages[static_cast<size_t>(extent.storage)];
    FuzzCheck(
        extent.file_begin >= storage.file_begin &&
            extent.num_elements <=
                (storage.file_begin + storage.num_bytes - extent.file_begin) / SizeOf(extent.dtype),
        "extents lie in their storages");
  }

  // Pieces follow each other from element 0 on.
  void CheckPieces(const ZeroCheckpoint& checkpoint, const std::vector<ZeroPiece>& pieces,
                   int64_t num_elements) {
    int64_t offset = 0;
    for (const ZeroPiece& piece : pieces) {
      FuzzCheck(piece.offset == offset, "pieces have no gaps");
      FuzzCheck(piece.from.num_elements > 0, "pieces have elements");
      CheckExtent(checkpoint, piece.from);
      offset += piece.from.num_elements;
    }
    FuzzCheck(pieces.empty() || offset == num_elements, "pieces are all of a parameter");
  }

  void CheckCheckpoint(const ZeroCheckpoint& checkpoint) {
    for (const ZeroStorage& storage : checkpoint.storages) {
      FuzzCheck(
          storage.file >= 0 && storage.file < static_cast<int32_t>(checkpoint.files.size()) &&
              storage.file_begin >= 0 && storage.num_bytes >= 0 &&
              storage.num_bytes <= checkpoint.files[static_cast<size_t>(storage.file)].num_bytes -
                                       storage.file_begin,
          "storages lie in their files");
    }
    auto count = static_cast<int64_t>(checkpoint.storages.size() + checkpoint.flats.size() +
                                      checkpoint.buffers.size() + checkpoint.module_names.size());
    for (const ZeroFlat& flat : checkpoint.flats) {
      FuzzCheck(flat.states.size() == checkpoint.state_names.size(), "flats have every state");
      for (const ZeroExtent& state : flat.states) CheckExtent(checkpoint, state);
    }
    for (const ZeroParameter& parameter : checkpoint.parameters) {
      FuzzCheck(parameter.num_elements == Elements(parameter.shape), "shapes say the elements");
      FuzzCheck(parameter.is_trained || parameter.slices.empty(), "frozen ones have no states");
      count += 1 + static_cast<int64_t>(parameter.slices.size() + parameter.stored.size());
      for (const ZeroSlice& slice : parameter.slices) {
        FuzzCheck(slice.flat >= 0 && slice.flat < static_cast<int32_t>(checkpoint.flats.size()),
                  "slices lie in a flat tensor");
        for (const ZeroExtent& state : checkpoint.flats[static_cast<size_t>(slice.flat)].states) {
          FuzzCheck(slice.flat_offset >= 0 &&
                        slice.num_elements <= state.num_elements - slice.flat_offset,
                    "slices lie in their flat tensors");
        }
      }
      for (size_t state = 0; state < checkpoint.state_names.size(); ++state) {
        CheckPieces(checkpoint, StatePieces(checkpoint, parameter, state), parameter.num_elements);
      }
      CheckPieces(checkpoint, parameter.stored, parameter.num_elements);
    }
    for (const ZeroBuffer& buffer : checkpoint.buffers) {
      FuzzCheck(buffer.value.num_elements == Elements(buffer.shape), "a buffer has its elements");
      CheckExtent(checkpoint, buffer.value);
    }
    // Memory: whatever the numbers in the files say.
    FuzzCheck(count <= 100 + size_.num_bytes, "what is held is as much as bytes allow");
  }

  // The manifest for loads: its parts lie where it says, and what plans is no bug.
  void CheckManifest() {
    const auto read = ReadFolderManifest(folder_, {}, Observer());
    if (!read.ok()) return CheckError(read.status());
    for (const ManifestTensor& tensor : read->tensors) {
      FuzzCheck(tensor.file >= 0 && tensor.file < static_cast<int32_t>(read->files.size()) &&
                    tensor.file_begin >= 0 && tensor.file_end >= tensor.file_begin &&
                    tensor.file_end <= read->files[static_cast<size_t>(tensor.file)].num_bytes,
                "tensors lie in their files");
    }
    for (size_t k = 1; k < read->tensors.size(); ++k) {
      const ManifestTensor &before = read->tensors[k - 1], &tensor = read->tensors[k];
      FuzzCheck(before.file < tensor.file ||
                    (before.file == tensor.file && before.file_end <= tensor.file_begin),
                "tensors of an entry lie apart");
    }
    CheckError(CheckManifestFiles(*read, folder_, /*made_on_this_node=*/true, Observer()));
    const auto manifest = std::make_shared<const Manifest>(*read);
    for (const int32_t stage : {0, 1, 3}) {
      Layout layout;
      layout.world_size = stage == 0 ? 1 : 2;
      layout.num_nodes = 1;
      layout.node_of_rank = PlaceRanks(layout.world_size, 1);
      layout.zero_stage = stage;
      const auto plan = CompilePlan(manifest, nullptr, {}, layout, nullptr);
      CheckError(plan.status());
      FuzzCheck(!absl::IsDataLoss(plan.status()), "a plan that is made holds");
    }
  }

  // What a server keeps of it.
  void CheckFinding(const absl::StatusOr<ZeroCheckpoint>& checkpoint) {
    FindZeroOptions options;
    options.all_tags = true;
    const auto found = FindZeroCheckpoints(folder_, options);
    if (!found.ok()) return CheckError(found.status());
    for (const FoundZeroCheckpoint& each : found->checkpoints) {
      CheckError(each.problem);
      FuzzCheck(each.problem.ok() == (each.digest.size() == 32), "what is whole has a digest");
      if (checkpoint.ok() && each.tag == checkpoint->tag) {
        FuzzCheck(each.problem.ok(), "what can be read is whole");
      }
    }
  }

  // `fill`, and what is left when it fails: nothing.  Else the folder's path.
  template <typename Fill>
  std::string Written(const std::string& name, const Fill& fill) {
    const std::string path = outputs_ + "/" + name;
    bool is_written = false;
    {
      auto output = OutputFolder::Create(path);
      FuzzCheck(output.ok(), "a folder can be made");
      const absl::Status filled = fill(*output);
      CheckError(filled);
      if (filled.ok()) {
        FuzzCheck(output->Commit().ok(), "a folder appears");
        is_written = true;
      }
    }
    for (const fs::directory_entry& entry : fs::directory_iterator(outputs_)) {
      FuzzCheck(is_written && entry.path() == path, "no part of an output is left");
    }
    if (!is_written) return "";
    ++reading_.num_written;
    for (const fs::directory_entry& entry : fs::recursive_directory_iterator(path)) {
      FuzzCheck(entry.path().filename().string().find(".tmp.") == std::string::npos,
                "every file is complete");
    }
    return path;
  }

  void CheckConsolidations(const ZeroCheckpoint& checkpoint) {
    for (const ModelDtype dtype :
         {ModelDtype::kDefault, ModelDtype::kFloat32, ModelDtype::kBFloat16, ModelDtype::kStored}) {
      const bool one_name = dtype == ModelDtype::kStored;
      const auto model = Consolidate(checkpoint, dtype, one_name);
      if (!model.ok()) {
        CheckError(model.status());
        continue;
      }
      for (const ModelTensor& tensor : model->model.tensors) {
        int64_t covered = 0;
        for (const Box& box : tensor.boxes) {
          FuzzCheck(
              box.source >= 0 && box.source < static_cast<int32_t>(model->model.sources.size()),
              "a box has a source");
          CheckPieces(checkpoint, model->model.sources[static_cast<size_t>(box.source)].pieces,
                      Elements(tensor.shape));
          covered += NumElements(box);
        }
        FuzzCheck(covered == Elements(tensor.shape), "boxes are all of a tensor");
      }
      if (dtype != ModelDtype::kDefault || BytesOf(model->model.tensors) > kMaxWrittenBytes) {
        continue;
      }
      const std::string path = Written("model", [&](const OutputFolder& output) {
        return WriteModel(checkpoint, model->model, output, 1 << 16, OneThread()).status();
      });
      if (path.empty()) continue;
      const auto again = ReadCheckpointManifest(path);
      FuzzCheck(again.ok() && again->tensors.size() == model->model.tensors.size(),
                "a model that was written reads");
      fs::remove_all(path);
    }
  }

  void CheckReshards(const ZeroCheckpoint& checkpoint) {
    if (BytesToWrite(checkpoint) > kMaxWrittenBytes) return;
    for (const int64_t world_size : {1, 3}) {
      CheckAgain(checkpoint, "resharded", [&](const OutputFolder& output) {
        return ReshardCheckpoint(checkpoint, world_size, output, OneThread()).status();
      });
    }
    CheckAgain(checkpoint, "universal", [&](const OutputFolder& output) {
      return WriteUniversalCheckpoint(checkpoint, output, OneThread()).status();
    });
  }

  // A checkpoint that was written reads, and holds the same.
  template <typename Fill>
  void CheckAgain(const ZeroCheckpoint& checkpoint, const std::string& name, const Fill& fill) {
    const std::string path = Written(name, fill);
    if (path.empty()) return;
    const auto again = ReadZeroCheckpoint(path, "");
    if (!again.ok()) FuzzFail(again.status().ToString().c_str());
    FuzzCheck(again->state_names == checkpoint.state_names, "it has the same states");
    FuzzCheck(again->num_groups == checkpoint.num_groups, "it has as many groups");
    int64_t elements = 0, before = 0;
    for (const ZeroParameter& parameter : again->parameters) elements += parameter.num_elements;
    for (const ZeroParameter& parameter : checkpoint.parameters) before += parameter.num_elements;
    FuzzCheck(elements == before, "it has as many elements");
    fs::remove_all(path);
  }

  static PieceCopier::Options OneThread() {
    PieceCopier::Options options;
    options.num_threads = 1;
    return options;
  }

  const std::string folder_, outputs_;
  const Size size_;
  int64_t num_calls_ = 0;
  FolderReading reading_;
};

}  // namespace

Scratch::Scratch() {
  const std::string memory = "/dev/shm";
  std::error_code error;
  std::string top = fs::temp_directory_path(error).string();
  if (fs::is_directory(memory, error)) top = memory;
  path_ = top + "/zerocast_fuzz_XXXXXX";
  FuzzCheck(::mkdtemp(path_.data()) != nullptr, "a folder for the run can be made");
}

Scratch::~Scratch() {
  std::error_code ignored;  // a destructor has nobody to tell
  fs::remove_all(path_, ignored);
}

FolderReading CheckDeepSpeedFolder(const std::string& folder, const std::string& outputs) {
  return FolderCheck(folder, outputs).Run();
}

}  // namespace zerocast
